"""Files on which stages depend for what DVC can't see: the code of a stage, and what else a model depends on.

The code: one file per stage with the hashes of the modules that it uses. The models: one file per model, with its
own settings and those of the models that it starts from, and the hashes of the networks of perceptual losses.
"""

import ast
from functools import cache
from pathlib import Path
from typing import Any

from histocae.errors import DataError
from histocae.files import named_sha256, read_json_or_none, sha256, write_json, write_text
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
    "register": ("tracking/served_model.py",),
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
    "codecs",
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

    DVC can't follow init_from, and does not know the defaults of values that an entry leaves out. Nor does it see
    the file of a network that is not there for every model.

    Args:
        params: of the pipeline.
        folder: where one file per model goes; files of former models are deleted.

    Raises:
        DataError: a network is missing whose hash is not recorded in `folder`; files there stay as they were.

    """
    hashes = {name: _network_hash(params, name, folder) for name in params.models}
    for name in params.models:
        write_json(_chain(params, name, hashes), folder / f"{name}.json")
    _remove_others(folder, "*.json", {f"{name}.json" for name in params.models})


def networks(params: Params) -> tuple[Path, ...]:
    """List the files of the networks of perceptual losses."""
    files = [model.perceptual.network for model in params.models.values() if model.perceptual is not None]
    return tuple(map(Path, dict.fromkeys(files)))


def check_networks(params: Params, name: str, folder: Path) -> None:
    """Check that the network of a perceptual loss is the one that the inventory recorded, perhaps hours ago.

    Otherwise DVC would cache a model that another network has trained.

    Args:
        params: of the pipeline.
        name: of the model.
        folder: where `write_models` wrote.

    Raises:
        DataError: the file has changed or is missing.

    """
    perceptual = params.model(name).perceptual
    if perceptual is None:
        return
    key = _network_key(name)
    if _recorded_hash(params, name, folder) != named_sha256(perceptual.network, key):
        raise DataError(f"{key}: {perceptual.network} changed since this repro began; run dvc repro again")


def _chain(params: Params, name: str, hashes: dict[str, str | None]) -> dict[str, Any]:
    """Describe a model and those that it starts from."""
    chain: dict[str, Any] = {}
    ancestor: str | None = name
    while ancestor is not None:
        model = params.models[ancestor]
        chain[ancestor] = model.model_dump() | model.training(params.training).model_dump()
        if model.perceptual is not None:
            chain[ancestor]["perceptual"]["sha256"] = hashes[ancestor]
        ancestor = model.init_from
    return chain


def _network_key(name: str) -> str:
    return f"models.{name}.perceptual.network"


def _network_hash(params: Params, name: str, folder: Path) -> str | None:
    """Return the hash of a model's network: of its file, or as recorded; None where the model has no network.

    A trained model that was pulled needs no file: the record was pulled with it.
    """
    perceptual = params.models[name].perceptual
    if perceptual is None:
        return None
    if not Path(perceptual.network).exists() and (recorded := _recorded_hash(params, name, folder)) is not None:
        return recorded
    return named_sha256(perceptual.network, _network_key(name))


def _recorded_hash(params: Params, name: str, folder: Path) -> str | None:
    """Return the recorded hash of a model's network, if that is a record of the same file."""
    perceptual = params.models[name].perceptual
    content = read_json_or_none(folder / f"{name}.json")
    try:
        entry = content[name]["perceptual"]
        same = perceptual is not None and entry["network"] == perceptual.network
        return str(entry["sha256"]) if same else None
    except (KeyError, TypeError):  # the record is of other settings, or damaged
        return None


def _remove_others(folder: Path, pattern: str, current: set[str]) -> None:
    for file in folder.glob(pattern):
        if file.name not in current:
            file.unlink()
