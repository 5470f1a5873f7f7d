"""What DVC knows of the outputs on disk."""

import itertools
import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from histocae.errors import DataError, YamlError
from histocae.files import read_yaml

log = logging.getLogger(__name__)
LOCK = Path("dvc.lock")
KINDS = {
    "modified": "differs from dvc.lock",
    "deleted": "is missing",
    "added": "is not in dvc.lock",
    "unknown": "is not in DVC's cache, so that it can't be compared",
}


class Comparison(NamedTuple):
    """The outputs beside dvc.lock; paths are relative to the working directory.

    Attributes:
        differing: what is wrong, by path. Of a folder, the files in it, if DVC's cache has their list.
        compared: all files and folders that dvc.lock describes or that lie in its outputs.

    """

    differing: dict[Path, str]
    compared: set[Path]


def compare() -> Comparison:
    """Compare the outputs with dvc.lock: every file is read, whatever its size and times.

    Returns:
        Which files differ or are missing.

    Raises:
        DataError: there is no dvc.lock, this folder is no repository of DVC, or DVC is not installed.

    """
    if not LOCK.is_file():
        raise DataError(f"there is no {LOCK}, with which outputs are compared; git checkout {LOCK} restores it")
    # DVC too remembers hashes by size and times: with an empty memory it reads each file
    with tempfile.TemporaryDirectory() as memory:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "data", "status", "--granular", "--unchanged", "--json"],
            env=os.environ | {"DVC_SITE_CACHE_DIR": memory, "DVC_NO_ANALYTICS": "true"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise DataError(f"DVC can't compare the outputs with dvc.lock: {reason.removeprefix('ERROR: ')}")
    status = json.loads(done.stdout)
    changes = status.get("uncommitted", {})
    reasons = {name: reason for kind, reason in KINDS.items() for name in changes.get(kind, [])}
    # a missing file and a new one with the same bytes
    for entry in changes.get("renamed", []):
        reasons |= {entry["old"]: KINDS["deleted"], entry["new"]: KINDS["added"]}
    named = {Path(name): reason for name, reason in reasons.items()}
    # a folder is named beside the files in it that differ
    folders = {folder for path in named for folder in path.parents}
    # "committed": what dvc.lock describes in another way than the last commit of git does
    entries = itertools.chain(status.get("unchanged", []), *status.get("committed", {}).values())
    described = {Path(entry if isinstance(entry, str) else entry["new"]) for entry in entries}
    differ = {path: reason for path, reason in named.items() if path not in folders}
    return Comparison(differ, described | named.keys())


def recorded_md5(stage: str) -> dict[Path, str]:
    """Read the MD5s of a stage's outputs when DVC last recorded them.

    Args:
        stage: its name in dvc.lock.

    Returns:
        MD5s by path; empty where the stage is not in dvc.lock, or dvc.lock is missing or damaged.

    """
    if not LOCK.is_file():
        return {}
    try:
        outputs = read_yaml(LOCK)["stages"][stage]["outs"]
        return {Path(output["path"]): str(output["md5"]) for output in outputs if "md5" in output}
    except YamlError as error:
        log.warning("%s; its hashes are not used", error)
    except (KeyError, TypeError):  # the stage is not in it
        pass
    return {}
