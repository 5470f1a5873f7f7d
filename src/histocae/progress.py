"""Progress for people at a terminal; silence elsewhere, where the log lines tell enough."""

import shutil
from collections.abc import Iterable

from tqdm import tqdm


def bytes_bar(label: str, total: int, position: int) -> tqdm:
    """Make a progress bar of bytes, on a line of its own below others; it shows only on a terminal."""
    return tqdm(
        desc=label,
        total=total,
        unit="B",
        unit_scale=True,
        position=position,
        disable=None,
        leave=False,
        ncols=shutil.get_terminal_size().columns,
    )


def bar(things: Iterable | None, label: str | None, unit: str, total: int | None = None) -> tqdm:
    """Wrap an iterable in a progress bar that shows only on a terminal, and not without a label."""
    # a terminal may say that it has no columns or lines, and tqdm would then draw nothing
    columns, lines = shutil.get_terminal_size()
    return tqdm(
        things,
        desc=label,
        unit=f" {unit}",
        total=total,
        disable=True if label is None else None,
        leave=False,
        ncols=columns,
        nrows=lines,
    )
