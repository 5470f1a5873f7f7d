"""Signals that end a command as Ctrl-C does: outputs stay whole, child processes end, a run is marked KILLED."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

INTERRUPT = ("SIGINT",)
ALL = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
WORDS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "ended, since its terminal was closed"}
# `timeout` and others send a signal to a process and to its group, so that it comes twice
REPEATED_SECONDS = 1.0


class Ended(KeyboardInterrupt):
    """A signal ends the command. It is a KeyboardInterrupt, so that all code treats it as Ctrl-C."""

    def __init__(self, number: int):
        """Remember the signal's number."""
        super().__init__(number)
        self.number = number

    @property
    def words(self) -> str:
        """What to tell the user."""
        return WORDS[signal.Signals(self.number).name]


@contextmanager
def leaving(name: str) -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the process at once, after one line: what it started elsewhere goes on.

    Args:
        name: of the command, with which the line begins.

    Yields:
        Nothing.

    """

    def handle(number: int, _: FrameType | None) -> None:
        os.write(2, f"{name}: {Ended(number).words}; its jobs go on\n".encode())
        os._exit(128 + number)

    with _handled([name for name in ALL if name not in INTERRUPT], handle):
        yield


@contextmanager
def raised(names: Sequence[str], ends: bool = False) -> Iterator[None]:
    """Let signals raise `Ended` in the main thread. One that follows later, while the command cleans up, kills it.

    Args:
        names: of signals; one that is ignored (nohup, a job in the background) stays ignored.
        ends: the process ends after the block, and a signal that is repeated then must not change its exit code.

    Yields:
        Nothing.

    """
    first: list[float] = []

    def handle(number: int, _: FrameType | None) -> None:
        if not first:
            first.append(time.monotonic())
            raise Ended(number)
        if time.monotonic() - first[0] > REPEATED_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    with _handled(names, handle, keep=lambda: ends and bool(first)):
        yield


@contextmanager
def _handled(
    names: Sequence[str], handle: Callable[[int, FrameType | None], None], keep: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Handle signals in the block, and afterwards as before, unless `keep` says otherwise."""
    former = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
            if signal.getsignal(number) is not signal.SIG_IGN:
                former[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in () if keep() else former.items():
            signal.signal(number, handler)
