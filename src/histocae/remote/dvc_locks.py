"""What a job changed in DVC's lock files, taken over here stage by stage."""

import io
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout
from ruamel.yaml import YAML

from histocae import params_file
from histocae.errors import RemoteError, YamlError
from histocae.files import read_yaml, write_text
from histocae.pipeline import user_files

NAME = "dvc.lock"
# file -> stage -> its entry
Locks = dict[str, dict[str, Any]]
# file -> stage -> its entry in dvc.lock before (None: it had none) and after
Changes = dict[str, dict[str, dict[str, Any]]]
WAIT_SECONDS = 60
OUTPUTS = ("data", "models", "reports", "mlruns")


def read(folder: Path) -> Locks:
    """Read every stage's entry of the lock files of a project: file -> stage -> entry."""
    locks = {}
    for current, subfolders, files in os.walk(folder):
        # environments, caches and the pipeline's own outputs have many files but no lock file
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name not in OUTPUTS)
        if NAME in files:
            path = Path(current) / NAME
            locks[path.relative_to(folder).as_posix()] = _stages(path)
    return locks


def changes(before: Locks, after: Locks) -> Changes:
    """List the stages whose entries differ.

    Args:
        before: entries by file and stage.
        after: the same later.

    Returns:
        The new and changed entries of `after`, each with its former value.

    """
    changed: Changes = {}
    for file, stages in after.items():
        former = before.get(file, {})
        for stage, entry in stages.items():
            if former.get(stage) != entry:
                changed.setdefault(file, {})[stage] = {"before": former.get(stage), "after": entry}
    return changed


def targets(changed: Changes) -> list[str]:
    """Name the changed stages as DVC's commands do."""
    return [_target(file, stage) for file in changed for stage in changed[file]]


def merge(folder: Path, changed: Changes, skip: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """Take over what a job changed, where the entry here is still the one with which the job began.

    DVC may run here meanwhile, so its own lock is held.

    Args:
        folder: of the project.
        changed: by the job.
        skip: stages whose entries are left as they are.

    Returns:
        The stages whose entries are now the job's, and those whose entries changed here meanwhile and are kept.

    Raises:
        RemoteError: DVC is busy here for a minute, or a changed file is no lock file.

    """
    for file in changed:
        if Path(file).name != NAME or Path(file).is_absolute() or ".." in Path(file).parts:
            raise RemoteError(f"{file!r} is no lock file of DVC in the project; nothing is taken over")
    taken, kept = [], []
    with _dvc_locked(folder):
        for file, stages in changed.items():
            path = folder / file
            here = _stages(path) if path.is_file() else {}
            updates = {}
            for stage, entry in stages.items():
                if _target(file, stage) in skip:
                    continue
                if here.get(stage) == entry["after"]:
                    taken.append(_target(file, stage))
                elif here.get(stage) == entry["before"]:
                    taken.append(_target(file, stage))
                    updates[stage] = entry["after"]
                else:
                    kept.append(_target(file, stage))
            if updates:
                _update(path, updates)
    return taken, kept


def lists_of_files_elsewhere(project: Path) -> list[str]:
    """Name the lists of the user's own files that may be missing here: slides or tiles, regions, and features.

    Args:
        project: the folder.

    Returns:
        Outputs of the inventory that was sent; none where nothing of the user may be missing.

    """
    params = params_file.load(project / "params.yaml")
    if read(project).get("inventory/dvc.lock", {}).get("inventory") is None:
        return []
    return [path.as_posix() for path, own in user_files.lists(params).items() if own]


def trainings_before(project: Path, name: str) -> list[str]:
    """List the finished trainings that a model starts from (`init_from`): DVC does not know this dependency.

    Args:
        project: the folder.
        name: of the model; a name that params.yaml lacks starts from none.

    Returns:
        The trainings as stages of DVC, the nearest first.

    """
    params = params_file.load(project / "params.yaml")
    finished = read(project).get(NAME, {})
    stages = []
    start = params.models[name].init_from if name in params.models else None
    while start is not None:
        stages.append(f"train@{start}")
        start = params.models[start].init_from
    return [stage for stage in stages if stage in finished]


@contextmanager
def _dvc_locked(folder: Path) -> Iterator[None]:
    """Hold the lock with which DVC keeps two of its commands apart."""
    lock = FileLock(folder / ".dvc/tmp/lock", timeout=WAIT_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise RemoteError(f"DVC is busy in {folder}; run histocae jobs fetch later") from None
    try:
        yield
    finally:
        lock.release()


def _target(file: str, stage: str) -> str:
    return stage if file == NAME else f"{Path(file).with_suffix('.yaml').as_posix()}:{stage}"


def _stages(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path) or {}
    except YamlError as error:
        raise RemoteError(f"{error}; mend it, or git checkout it") from None
    return cast("dict[str, Any]", content.get("stages", {}))


def _update(path: Path, updates: dict[str, Any]) -> None:
    """Change entries as DVC does, so that DVC would write the same bytes."""
    yaml = YAML()
    yaml.default_flow_style = False
    content: dict[str, Any] = {"schema": "2.0", "stages": {}}
    if path.is_file():
        content = yaml.load(path.read_text(encoding="utf-8"))
    content["stages"].update(updates)
    text = io.StringIO()
    yaml.dump(content, text)
    write_text(text.getvalue(), path)
