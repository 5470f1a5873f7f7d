"""Files on which stages depend for what DVC can't see: the code of a stage, and the models that a model starts from.

The code: one file per stage with the hashes of the modules that it uses. The models: one file per model, with its
own settings and those of the models that it starts from.
"""

import ast
from functools import cache
from pathlib import Path
from typing import Any

from histocae.errors import DataError
from histocae.files import sha256, write_json, write_text
from histocae.params import Params
from histocae.paths import PACKAGE

# These decide where and how fast a stage runs and what it logs, not its outputs. DVC itself compares the values of
# params.yaml; models/lineage has the defaults of values that an entry of `models` leaves out.
EXEMPT = (
    "__init__",
    "asides",
    "cli",
    "errors",
    "params",
    "params_file",
    "paths",
    "pipeline/dvc_state",
    "pipeline/locks",
    "progress",
    "workers",
)
EXEMPT_IN = {
    # a change in how a training is reported must not retrain the model
    "train": ("tracking",),
    "crossvalidate": ("tracking",),
    "compare": ("tracking/server", "sources/tables", "identifiers"),
    # delivery rebuilds the saved model from its weights; these modules can no longer change it
    "register": (
        "tracking/server",
        "sources/tables",
        "identifiers",
        "networks/cae",
        "training/loop",
        "networks/backend",
        "patches/integrity",
        "patches/shard_file",
        "patches/store",
    ),
}
# exempt modules that write into the outputs nevertheless, and files that are not imported
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
    """List the files of this package that decide the outputs of a stage, relative to the package and sorted."""
    return sorted(reach({f"stages/{stage}.py", *ALSO.get(stage, ())}, EXEMPT + EXEMPT_IN.get(stage, ())))


def reach(start: set[str], exempt: tuple[str, ...]) -> set[str]:
    """List some files and all modules of this package that they import, directly or through others.

    Imports inside functions count as well.

    Args:
        start: files, relative to the package.
        exempt: modules and subpackages, without suffix, that are not followed.

    Returns:
        The files, relative to the package.

    Raises:
        DataError: a file is no Python.

    """
    reached: set[str] = set()
    todo = set(start)
    while todo:
        file = todo.pop()
        reached.add(file)
        todo |= {
            module
            for module in _imports(file) - reached
            if not any(module == f"{name}.py" or module.startswith(f"{name}/") for name in exempt)
        }
    return reached


@cache
def _imports(file: str) -> frozenset[str]:
    if not file.endswith(".py"):
        return frozenset()
    path = PACKAGE / file
    names: set[str] = set()
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise DataError(
            f"{path}: line {error.lineno}: {error.msg}; fix it: the code that a stage uses can't be listed"
        ) from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    files = (
        f"{name.removeprefix('histocae.').replace('.', '/')}.py" for name in names if name.startswith("histocae.")
    )
    return frozenset(file for file in files if (PACKAGE / file).is_file())


def write_code(folder: Path) -> None:
    """Write per stage the SHA-256 and name of each file that decides its outputs, in the format of sha256sum.

    Raises:
        DataError: a file is no Python; files in `folder` stay as they were.

    """
    hashes = cache(lambda file: sha256(PACKAGE / file))
    texts = {f"{stage}.txt": "".join(f"{hashes(file)}  {file}\n" for file in code_of(stage)) for stage in STAGES}
    for name, text in texts.items():
        write_text(text, folder / name)
    _remove_others(folder, "*.txt", set(texts))


def check_code(stage: str, folder: Path) -> None:
    """Check that a stage runs with the code that the inventory recorded, perhaps hours ago.

    Otherwise DVC would cache outputs of changed code under the hashes of the former code.

    Args:
        stage: name of the stage.
        folder: where `write_code` wrote.

    Raises:
        DataError: a file of the code has changed or is missing.

    """
    recorded = folder / f"{stage}.txt"
    if not recorded.is_file():
        raise DataError(f"{recorded}: not there yet; run the stages before this one: dvc repro")
    for line in recorded.read_text(encoding="utf-8").splitlines():
        digest, file = line.split("  ", 1)
        path = PACKAGE / file
        if not path.is_file() or sha256(path) != digest:
            raise DataError(f"{path} changed since this repro began; run dvc repro again")


def write_models(params: Params, folder: Path) -> None:
    """Write per model its settings and those of the models that it starts from, defaults included.

    DVC can't follow init_from, and does not know the defaults of values that an entry leaves out.

    Args:
        params: of the pipeline.
        folder: where one file per model goes; files of former models are deleted.

    """
    for name in params.models:
        chain: dict[str, Any] = {}
        ancestor: str | None = name
        while ancestor is not None:
            model = params.models[ancestor]
            chain[ancestor] = model.model_dump() | model.training(params.training).model_dump()
            ancestor = model.init_from
        write_json(chain, folder / f"{name}.json")
    _remove_others(folder, "*.json", {f"{name}.json" for name in params.models})


def _remove_others(folder: Path, pattern: str, current: set[str]) -> None:
    for file in folder.glob(pattern):
        if file.name not in current:
            file.unlink()
