"""What is set aside is never lost: a row with its reason, counted, and a limit to it."""

import logging
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from histocae.errors import DataError, shortened

COLUMNS = ("slide_id", "stage", "reason", "patches_kept")
TOLD_ONE_BY_ONE = 10  # slides of one reason
log = logging.getLogger(__name__)


def set_aside(stage: str, rows: Sequence[tuple[str, str, int]]) -> pd.DataFrame:
    """Make a table of (slide_id, reason, patches kept) rows, and tell them in the log, many of a reason as one."""
    counts = Counter(reason for _, reason, _ in rows)
    for slide_id, reason, kept in rows:
        if counts[reason] <= TOLD_ONE_BY_ONE:
            log.warning("set aside: %s: %s (%d patches kept)", slide_id, reason, kept)
    for reason, count in counts.items():
        if count > TOLD_ONE_BY_ONE:
            log.warning("set aside: %d slides: %s", count, reason)
    table = pd.DataFrame([(slide_id, stage, reason, kept) for slide_id, reason, kept in rows], columns=list(COLUMNS))
    return table.astype({"patches_kept": int})


def check_share(failed: int, slides: int, limit: float, reasons: Sequence[str]) -> None:
    """Stop where too many slides failed.

    Raises:
        DataError: more than the share `limit` of the slides failed.

    """
    if failed > limit * slides:
        raise DataError(
            f"{failed} of {slides} slides failed, more than data.max_failed_share {limit:g} allows: "
            f"{shortened(reasons)}"
        )
