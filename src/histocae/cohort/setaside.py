"""Slides that are set aside: each gets a row with its reason, and there is a limit to their number."""

import logging
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from histocae.errors import DataError, shortened

COLUMNS = ("slide_id", "stage", "reason", "patches_kept")
LOGGED_EACH = 10  # slides with the same reason; more than that share one line of the log
log = logging.getLogger(__name__)


def set_aside(stage: str, rows: Sequence[tuple[str, str, int]]) -> pd.DataFrame:
    """Make a table of slides that are set aside, and log them; many slides with one reason share a line.

    Args:
        stage: that sets them aside.
        rows: slide_id, reason and number of patches that are kept.

    Returns:
        A row per slide, with `COLUMNS`.

    """
    counts = Counter(reason for _, reason, _ in rows)
    for slide_id, reason, kept in rows:
        if counts[reason] <= LOGGED_EACH:
            log.warning("set aside: %s: %s (%d patches kept)", slide_id, reason, kept)
    for reason, count in counts.items():
        if count > LOGGED_EACH:
            log.warning("set aside: %d slides: %s", count, reason)
    table = pd.DataFrame([(slide_id, stage, reason, kept) for slide_id, reason, kept in rows], columns=list(COLUMNS))
    return table.astype({"patches_kept": int})


def check_share(failed: int, slides: int, limit: float, reasons: Sequence[str]) -> None:
    """Stop if too many slides failed.

    Args:
        failed: number of slides that failed.
        slides: number of all slides.
        limit: largest share of slides that may fail (data.max_failed_share).
        reasons: of the failures.

    Raises:
        DataError: more than the share `limit` of the slides failed.

    """
    if failed > limit * slides:
        raise DataError(
            f"{failed} of {slides} slides failed, more than data.max_failed_share {limit:g} allows: "
            f"{shortened(reasons)}"
        )
