"""Progress for people at a terminal; silence elsewhere, where the log lines tell enough."""

import shutil
from collections.abc import Iterable

from tqdm import tqdm


def bar(things: Iterable | None, label: str, unit: str, total: int | None = None) -> tqdm:
    """Wrap an iterable in a progress bar that shows only on a terminal."""
    # a terminal may say that it has no columns or lines, and tqdm would then draw nothing
    columns, lines = shutil.get_terminal_size()
    return tqdm(
        things, desc=label, unit=f" {unit}", total=total, disable=None, leave=False, ncols=columns, nrows=lines
    )
