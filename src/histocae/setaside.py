"""What is set aside is never lost: a row with its reason, counted, and a limit to it."""

import logging
from collections.abc import Sequence

import pandas as pd

from histocae.errors import DataError

COLUMNS = ("slide_id", "stage", "reason", "patches_kept")
log = logging.getLogger(__name__)


def set_aside(stage: str, rows: Sequence[tuple[str, str, int]]) -> pd.DataFrame:
    """Make a table of (slide_id, reason, patches kept) rows, and tell each in the log."""
    for slide_id, reason, kept in rows:
        log.warning("set aside: %s: %s (%d patches kept)", slide_id, reason, kept)
    table = pd.DataFrame(
        [(slide_id, stage, reason, kept) for slide_id, reason, kept in rows], columns=list(COLUMNS)
    )
    return table.astype({"patches_kept": int})


def check_share(failed: int, slides: int, limit: float, reasons: Sequence[str]) -> None:
    """Stop where too many slides failed.

    Raises:
        DataError: more than the share `limit` of the slides failed.

    """
    if failed > limit * slides:
        some = "; ".join(reasons[:3]) + ("; ..." if len(reasons) > 3 else "")
        raise DataError(
            f"{failed} of {slides} slides failed, more than data.max_failed_share {limit:g} allows: {some}"
        )
