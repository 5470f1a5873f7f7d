"""Progress bars and amounts of bytes for people at a terminal. Elsewhere no bar shows; log lines report progress."""

import shutil
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:  # tqdm is generic for type checkers only
    Bar = tqdm[Any]
_UNITS = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def format_bytes(size: float) -> str:
    """Return an amount of bytes in decimal units, with three digits.

    >>> format_bytes(1234567)
    '1.23 MB'
    >>> format_bytes(999_900_000)
    '1 GB'
    """
    for unit, name in _UNITS:
        if size >= 0.9995 * unit:  # else three digits would show 1e+03 of the next smaller unit
            return f"{size / unit:.3g} {name}"
    return f"{size:.0f} B"


def bytes_bar(label: str, total: int, position: int) -> "Bar":
    """Make a progress bar of bytes that shows only on a terminal.

    Args:
        label: what the bytes are.
        total: all bytes.
        position: line of the bar, 0 for the uppermost.

    Returns:
        The bar; its `update` takes a number of bytes.

    """
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


def bar(items: Iterable[Any] | None, label: str | None, unit: str, total: int | None = None) -> "Bar":
    """Make a progress bar that shows only on a terminal.

    Args:
        items: the bar advances as they are iterated; None where the caller advances it.
        label: what is done; None for no bar.
        unit: what is counted, in the plural.
        total: number of items, where `items` does not know it.

    Returns:
        The bar, to be iterated in place of `items`.

    """
    # a terminal may report 0 columns or lines, and tqdm would then draw nothing
    columns, lines = shutil.get_terminal_size()
    return tqdm(
        items,
        desc=label,
        unit=f" {unit}",
        total=total,
        disable=True if label is None else None,
        leave=False,
        ncols=columns,
        nrows=lines,
    )
