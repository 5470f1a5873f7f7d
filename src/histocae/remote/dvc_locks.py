"""What a job changed in DVC's lock files, taken over here stage by stage."""

import io
from pathlib import Path
from typing import Any

from filelock import FileLock
from ruamel.yaml import YAML

from histocae.files import write_text

NAME = "dvc.lock"
# file -> stage -> its entry in dvc.lock before (None: it had none) and after
Changes = dict[str, dict[str, dict[str, Any]]]
WAIT_SECONDS = 60


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Read every stage's entry of the lock files of a project: file -> stage -> entry."""
    found = {}
    for path in sorted(folder.rglob(NAME)):
        file = path.relative_to(folder)
        if not any(part.startswith(".") for part in file.parts):
            found[file.as_posix()] = _stages(path)
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


def merge(folder: Path, changed: Changes) -> tuple[list[str], list[str]]:
    """Take over what a job changed, where the entry here is the one it began with.

    DVC may run here meanwhile: its own lock is held.

    Args:
        folder: of the project.
        changed: by the job.

    Returns:
        The stages that are now as the job left them, and those that changed here since and stay.

    """
    taken, left = [], []
    with FileLock(folder / ".dvc/tmp/lock", timeout=WAIT_SECONDS):
        for file, stages in changed.items():
            path = folder / file
            here = _stages(path) if path.is_file() else {}
            fresh = {}
            for stage, entry in stages.items():
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


def _target(file: str, stage: str) -> str:
    return stage if file == NAME else f"{Path(file).with_suffix('.yaml').as_posix()}:{stage}"


def _stages(path: Path) -> dict[str, Any]:
    return (YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {}).get("stages", {})


def _update(path: Path, fresh: dict[str, Any]) -> None:
    """Change entries as DVC does, so that it would write the same bytes."""
    yaml = YAML()
    yaml.default_flow_style = False
    known = yaml.load(path.read_text(encoding="utf-8")) if path.is_file() else {"schema": "2.0", "stages": {}}
    known["stages"].update(fresh)
    text = io.StringIO()
    yaml.dump(known, text)
    write_text(text.getvalue(), path)
