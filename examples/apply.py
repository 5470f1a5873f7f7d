"""Copy params from another file into params.yaml, and keep the comments there.

    python examples/apply.py examples/study.yaml

The section `models` is replaced as a whole. In other sections only the keys change that the other file has.
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
    """Return a reader and writer of YAML that keeps comments, quotes and the word null."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.representer.add_representer(type(None), lambda representer, _: representer.represent_scalar(NULL, "null"))
    return yaml


def main(path: Path) -> None:
    """Merge the params of a file, check the result, and only then replace params.yaml."""
    try:
        changes = params_file.read(path)
    except ParamsError as error:
        sys.exit(str(error))
    yaml = commented()
    merged = yaml.load(PARAMS)
    for section, values in changes.items():
        if section not in merged:
            sys.exit(f"{path}: {section}: no such section in {PARAMS}")
        if section != "models" and isinstance(values, dict) and isinstance(merged[section], dict):
            merged[section].update(values)
        else:
            merged[section] = values
    aside = PARAMS.with_suffix(".yaml.part")
    try:
        yaml.dump(merged, aside)
        params_file.load(aside)
    except ParamsError as error:
        aside.unlink()
        sys.exit(str(error).replace(str(aside), str(path)))
    os.replace(aside, PARAMS)
    print(f"{PARAMS} now has the values of {path}; dvc repro runs the pipeline with them")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
