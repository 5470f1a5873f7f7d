"""What a job changed in DVC's lock files, taken over here stage by stage."""

import io
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from ruamel.yaml import YAML

from histocae import params_file
from histocae.errors import RemoteError, YamlError
from histocae.files import read_yaml, write_text

NAME = "dvc.lock"
# file -> stage -> its entry in dvc.lock before (None: it had none) and after
Changes = dict[str, dict[str, dict[str, Any]]]
WAIT_SECONDS = 60
OUTPUTS = ("data", "models", "reports", "mlruns")


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Read every stage's entry of the lock files of a project: file -> stage -> entry."""
    found = {}
    for here, below, files in os.walk(folder):
        # an environment, caches and the pipeline's own outputs have many files and no lock
        below[:] = sorted(name for name in below if not name.startswith(".") and name not in OUTPUTS)
        if NAME in files:
            path = Path(here) / NAME
            found[path.relative_to(folder).as_posix()] = _stages(path)
    return found


def changes(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> Changes:
    """List the stages whose entries differ."""
    found: Changes = {}
    for file, stages in after.items():
        former = before.get(file, {})
        for stage, entry in stages.items():
            if former.get(stage) != entry:
                found.setdefault(file, {})[stage] = {"before": former.get(stage), "after": entry}
    return found


def targets(changed: Changes) -> list[str]:
    """Name the stages as DVC's commands do."""
    return [_target(file, stage) for file in changed for stage in changed[file]]


def merge(folder: Path, changed: Changes, but: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """Take over what a job changed, where the entry here is the one it began with.

    DVC may run here meanwhile: its own lock is held.

    Args:
        folder: of the project.
        changed: by the job.
        but: stages that stay as they are.

    Returns:
        The stages that are now as the job left them, and those that changed here since and stay.

    Raises:
        RemoteError: DVC is busy here all the while, or what is to be taken over names other files than locks.

    """
    for file in changed:
        if Path(file).name != NAME or Path(file).is_absolute() or ".." in Path(file).parts:
            raise RemoteError(f"{file!r} is no lock file of DVC in the project; nothing is taken over")
    taken, left = [], []
    with _while_dvc_waits(folder):
        for file, stages in changed.items():
            path = folder / file
            here = _stages(path) if path.is_file() else {}
            fresh = {}
            for stage, entry in stages.items():
                if _target(file, stage) in but:
                    continue
                if here.get(stage) == entry["after"]:
                    taken.append(_target(file, stage))
                elif here.get(stage) == entry["before"]:
                    taken.append(_target(file, stage))
                    fresh[stage] = entry["after"]
                else:
                    left.append(_target(file, stage))
            if fresh:
                _update(path, fresh)
    return taken, left


def files_are_elsewhere(project: Path) -> bool:
    """Tell whether the user's own files need not lie here: the inventory that was sent lists them."""
    source = params_file.load(project / "params.yaml").data.source
    listed = read(project).get("inventory/dvc.lock", {}).get("inventory")
    return source in ("slides", "tiles") and listed is not None


def trainings_before(project: Path, name: str) -> list[str]:
    """List the trainings, as stages of DVC, that a model starts from, where they are made: DVC does not know."""
    params, made = params_file.load(project / "params.yaml"), read(project).get(NAME, {})
    found, first = [], params.models[name].init_from if name in params.models else None
    while first is not None:
        found.append(f"train@{first}")
        first = params.models[first].init_from
    return [stage for stage in found if stage in made]


@contextmanager
def _while_dvc_waits(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / ".dvc/tmp/lock", timeout=WAIT_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise RemoteError(f"DVC is busy in {folder}; histocae jobs fetch later") from None
    try:
        yield
    finally:
        lock.release()


def _target(file: str, stage: str) -> str:
    return stage if file == NAME else f"{Path(file).with_suffix('.yaml').as_posix()}:{stage}"


def _stages(path: Path) -> dict[str, Any]:
    try:
        return (read_yaml(path) or {}).get("stages", {})
    except YamlError as error:
        raise RemoteError(f"{error}; mend it, or git checkout it") from None


def _update(path: Path, fresh: dict[str, Any]) -> None:
    """Change entries as DVC does, so that it would write the same bytes."""
    yaml = YAML()
    yaml.default_flow_style = False
    known = yaml.load(path.read_text(encoding="utf-8")) if path.is_file() else {"schema": "2.0", "stages": {}}
    known["stages"].update(fresh)
    text = io.StringIO()
    yaml.dump(known, text)
    write_text(text.getvalue(), path)
