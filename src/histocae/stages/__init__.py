"""The stages of dvc.yaml: read params, call the core, write outputs. Only they know the paths."""
