"""What the outputs of a stage come of and DVC can't see by itself, written into files on which the stages depend.

The code: each stage depends on one file that names the modules that it uses, with their hashes. The models: one
file each, with the models that it starts from.
"""

import ast
from functools import cache
from pathlib import Path

from histocae.errors import DataError
from histocae.files import sha256, write_json, write_text
from histocae.params import Params
from histocae.paths import PACKAGE

# These decide where, how fast and what is told, not what comes out. Values of params.yaml are
# compared by DVC, and those that an entry of `models` leaves to the code stand in models/lineage.
EXEMPT = ("__init__", "cli", "errors", "params", "paths", "pipeline/locks", "progress", "workers")
EXEMPT_IN = {
    # what a training reports to is no reason to train again
    "train": ("tracking",),
    "crossvalidate": ("tracking",),
    "compare": ("tracking/server", "sources/tables", "identifiers"),
    # its delivery builds the saved model again from its weights; how it looks is settled by then
    "register": (
        "tracking/server",
        "sources/tables",
        "identifiers",
        "networks/cae",
        "training/loop",
        "networks/backend",
        "patches/store",
    ),
}
# what an exempt module writes into the outputs all the same, and what is not imported
ALSO = {
    "train": ("evaluation/samples.py", "tracking/trainings.py"),
    "crossvalidate": ("evaluation/samples.py", "tracking/trainings.py"),
    "compare": ("report/templates/base.html", "report/templates/index.html"),
    "register": ("tracking/served_pair.py",),
}
STAGES = (
    "metadata",
    "slides",
    "patches",
    "split",
    "train",
    "evaluate",
    "latent",
    "tissue",
    "crossvalidate",
    "compare",
    "register",
)


def code_of(stage: str) -> list[str]:
    """List the files of this package that decide what a stage makes, relative to it and in order."""
    return sorted(reach({f"stages/{stage}.py", *ALSO.get(stage, ())}, EXEMPT + EXEMPT_IN.get(stage, ())))


def reach(start: set[str], exempt: tuple[str, ...]) -> set[str]:
    """List some files, the modules of this package that they import anywhere, and what those import.

    Args:
        start: files, relative to the package.
        exempt: modules and subpackages, without suffix, that are not followed.

    Raises:
        DataError: one of them is no Python.

    """
    seen, todo = set(), set(start)
    while todo:
        file = todo.pop()
        seen.add(file)
        todo |= {
            one
            for one in _imports(file) - seen
            if not any(one == f"{name}.py" or one.startswith(f"{name}/") for name in exempt)
        }
    return seen


@cache
def _imports(file: str) -> frozenset[str]:
    if not file.endswith(".py"):
        return frozenset()
    path, names = PACKAGE / file, set()
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        told = f"{path}: line {error.lineno}: {error.msg}"
        raise DataError(f"{told}; mend it, or what code a stage uses can't be told") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{one.name}" for one in node.names)}
    own = (name.split(".")[1:] for name in names if name.startswith("histocae."))
    return frozenset(f"{'/'.join(one)}.py" for one in own if (PACKAGE / f"{'/'.join(one)}.py").is_file())


def write_code(folder: Path) -> None:
    """Write, per stage, the SHA-256 and name of each file that decides what it makes, as sha256sum does.

    Raises:
        DataError: one of them is no Python; what was there stays.

    """
    hashes = cache(lambda file: sha256(PACKAGE / file))
    texts = {f"{stage}.txt": "".join(f"{hashes(file)}  {file}\n" for file in code_of(stage)) for stage in STAGES}
    for name, text in texts.items():
        write_text(text, folder / name)
    _remove_others(folder, "*.txt", set(texts))


def check_code(stage: str, folder: Path) -> None:
    """Make sure that a stage runs with the code of which DVC was told.

    Between the inventory and the stage may lie hours. What other code made would be kept, and restored, as made by
    the code that the inventory saw.

    Raises:
        DataError: a file of it has changed, or is gone.

    """
    told = folder / f"{stage}.txt"
    if not told.is_file():
        raise DataError(f"{told}: not there yet; run the stages before this one: dvc repro")
    for line in told.read_text(encoding="utf-8").splitlines():
        known, file = line.split("  ", 1)
        path = PACKAGE / file
        if not path.is_file() or sha256(path) != known:
            raise DataError(f"{path} changed since this repro began; run dvc repro again")


def write_models(params: Params, folder: Path) -> None:
    """Write, per model, its own entry and training and those of the models it starts from, all values spelt out.

    DVC can't follow init_from, nor see the values that an entry leaves to the code.
    """
    for name in params.models:
        chain, at = {}, name
        while at is not None:
            model = params.models[at]
            chain[at] = model.model_dump() | model.training(params.training).model_dump()
            at = params.models[at].init_from
        write_json(chain, folder / f"{name}.json")
    _remove_others(folder, "*.json", {f"{name}.json" for name in params.models})


def _remove_others(folder: Path, pattern: str, wanted: set[str]) -> None:
    for file in folder.glob(pattern):
        if file.name not in wanted:
            file.unlink()
