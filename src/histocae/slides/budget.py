"""What the patches of one slide may take: seconds, memory, patches.

A small file can ask for much: tiles that share the same bytes, or a header that states more pixels than there are.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from histocae.errors import SlideError
from histocae.params import Bounds

# of a decoded tile: four bytes a pixel that OpenSlide keeps, and as many in its decoder
TILE_BYTES = 8
# a worker ends after so many times `seconds`: a decoder may hang in one call, which only the end of its process stops
HANGS = 2


class OverBudgetError(SlideError):
    """A slide is over a bound of `patches.bounds`; no patch of it is kept."""


def exceeded(bounds: Bounds, taken: Mapping[str, float]) -> list[str]:
    """List the bounds that a slide is over, its time aside, which differs each time.

    Args:
        bounds: the section `patches.bounds` of params.yaml.
        taken: what the slide takes, by the bound's name.

    Returns:
        Names of bounds.

    """
    return [name for name, value in taken.items() if value > getattr(bounds, name)]


class Budget:
    """The bounds of one slide; use it in a `with` block. Its time begins when this object is made.

    Attributes:
        taken: the most that was allowed so far of gigabytes, patches and expansion.

    """

    def __init__(self, bounds: Bounds):
        """Begin to measure the time.

        Args:
            bounds: the section `patches.bounds` of params.yaml.

        """
        self._bounds = bounds
        self.taken: dict[str, float] = {}
        self._end = time.monotonic() + bounds.seconds
        self._left = threading.Event()
        self._paused = False

    def __enter__(self) -> "Budget":
        if multiprocessing.parent_process() is not None:  # in a worker, whose death is reported
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()

    def _watch(self) -> None:
        """End this process where one call of a decoder hangs."""
        spare = (HANGS - 1) * self._bounds.seconds
        while (seconds := self._end + spare - time.monotonic()) > 0 or self._paused:
            # while it is paused, the end has not been moved yet
            if self._left.wait(max(seconds, spare / 2)):
                return
        os._exit(1)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time of the `with` block, in which nothing is read.

        Yields:
            Nothing.

        """
        start = time.monotonic()
        self._paused = True
        try:
            yield
        finally:
            self._end += time.monotonic() - start
            self._paused = False

    def _is_over(self, bound: str, value: float) -> bool:
        if exceeded(self._bounds, {bound: value}):
            return True
        self.taken[bound] = max(value, self.taken.get(bound, 0))
        return False

    def check_time(self) -> None:
        """Refuse to go on once the slide's time is over.

        Raises:
            OverBudgetError: it is over.

        """
        if time.monotonic() > self._end:
            raise OverBudgetError(
                f"was not read in {self._bounds.seconds:g} seconds; see the file, or raise patches.bounds.seconds"
            )

    def check_memory(self, size: float, what: str) -> None:
        """Refuse what takes too much memory.

        Args:
            size: in bytes.
            what: takes it.

        Raises:
            OverBudgetError: it is more than allowed.

        """
        if self._is_over("gigabytes", size / 1e9):
            raise OverBudgetError(
                f"{what} would take {size / 1e9:.1f} GB of memory, more than the {self._bounds.gigabytes:g} of "
                "patches.bounds.gigabytes"
            )

    def check_patches(self, count: int) -> None:
        """Refuse too many patches.

        Args:
            count: of the slide's patches.

        Raises:
            OverBudgetError: there are more than allowed.

        """
        if self._is_over("patches", count):
            raise OverBudgetError(
                f"has {count} patches, more than the {self._bounds.patches} of patches.bounds.patches; "
                "set patches.max_per_slide to draw a sample"
            )

    def check_expansion(self, patches: int, file: int, question: str = "is the file a slide?") -> None:
        """Refuse a file that is far smaller than its patches: its tiles share their bytes, or show nothing.

        Args:
            patches: bytes of the slide's patches.
            file: bytes of the slide's files.
            question: end of the error's line.

        Raises:
            OverBudgetError: the ratio is larger than allowed.

        """
        if self._is_over("expansion", patches / max(1, file)):
            raise OverBudgetError(
                f"has {file} bytes that would become {patches} bytes of patches, more than "
                f"{self._bounds.expansion:g} times as many (patches.bounds.expansion); {question}"
            )
