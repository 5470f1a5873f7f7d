"""Put a named set of params into params.yaml, whose comments stay.

    python examples/apply.py examples/study.yaml

`models` of the set takes the place of the one there; of other sections only the keys that
the set names change.
"""

import os
import sys
from pathlib import Path

from ruamel.yaml import YAML

from histocae import params_file
from histocae.errors import ParamsError

PARAMS = Path("params.yaml")
NULL = "tag:yaml.org,2002:null"


def commented() -> YAML:
    """Read and write YAML with its comments, quotes and written-out nulls kept."""
    found = YAML()
    found.preserve_quotes = True
    found.representer.add_representer(type(None), lambda as_yaml, _: as_yaml.represent_scalar(NULL, "null"))
    return found


def main(path: Path) -> None:
    """Merge, check, and only then write."""
    try:
        wanted = params_file.read(path)
    except ParamsError as error:
        sys.exit(str(error))
    yaml_of_params = commented()
    merged = yaml_of_params.load(PARAMS)
    for section, values in wanted.items():
        if section not in merged:
            sys.exit(f"{path}: {section}: no such section in {PARAMS}")
        if section != "models" and isinstance(values, dict) and isinstance(merged[section], dict):
            merged[section].update(values)
        else:
            merged[section] = values
    aside = PARAMS.with_suffix(".yaml.part")
    try:
        yaml_of_params.dump(merged, aside)
        params_file.load(aside)
    except ParamsError as error:
        aside.unlink()
        sys.exit(str(error).replace(str(aside), str(path)))
    os.replace(aside, PARAMS)
    print(f"{PARAMS} has the values of {path}; dvc repro runs the pipeline with them")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
