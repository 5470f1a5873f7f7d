"""Command verify: read all outputs, and compare them with the hashes that were kept when they were written."""

import logging
from pathlib import Path

from histocae import paths
from histocae.errors import DataError, StoreError, shortened
from histocae.params import Params
from histocae.patches import integrity
from histocae.patches.store import PatchStore
from histocae.pipeline import dvc_state

log = logging.getLogger(__name__)
REMEDY = "delete what differs, and dvc checkout restores it from DVC's cache, or dvc repro makes it again"


def run(params: Params) -> None:
    """Log a line for each file that is not as it was written.

    Raises:
        DataError: there are such files.

    """
    reasons = dict.fromkeys(dvc_state.differing(), "differs from dvc.lock")
    files = _store()
    reasons |= dict.fromkeys(integrity.read_again(files), integrity.DIFFERS)
    for path, reason in sorted(reasons.items()):
        log.warning("%s: %s", path, reason)
    if reasons:
        names = [str(path) for path in sorted(reasons)]
        raise DataError(f"not as written: {shortened(names)}; {REMEDY}")
    log.info("all files are as they were written")


def _store() -> dict[Path, str]:
    """Return the hashes of the patch store's files; none where there is no store yet."""
    try:
        return PatchStore(paths.PATCHES).hashes()
    except StoreError as error:
        log.warning("%s", error)
        return {}
