"""The stages of examples/mnist/dvc.yaml."""
