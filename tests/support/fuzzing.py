"""Random input: damaged slides, tiles, tables, params, patch stores and requests, in a process with limits.

`python tests/support/fuzzing.py KIND SEED NUMBER 1 FOLDER` repeats one input with its traceback, and leaves the input
in the folder. The input with a number is always the same.
"""

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from histocae.errors import HistocaeError
from support.fuzzed import KINDS

SECONDS = 20  # for one input
MEMORY = 2 * 2**30  # bytes that the process may take besides what it has at its start
AT_ONCE = 4000  # inputs of a process


class HangError(BaseException):
    """An input took longer than SECONDS."""


def _hang(*_: object) -> None:
    raise HangError(f"no end within {SECONDS} s")


def _limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def child(kind: str, seed: str, first: int, count: int, folder: Path) -> None:
    """Try inputs; print a line of JSON for each that fails, and before each write its number to a file."""
    target = KINDS[kind](folder)
    _limit_memory()
    signal.signal(signal.SIGALRM, _hang)
    with open(folder / "number", "wb", buffering=0) as progress:
        for number in range(first, first + count):
            os.pwrite(progress.fileno(), number.to_bytes(8, "little"), 0)
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                # libraries warn of damaged files; a user would see the warning, then the reason or the patches
                with warnings.catch_warnings(action="ignore"):
                    target.attempt(random.Random(f"{seed} {kind} {number}"))
            except HistocaeError:
                pass
            except (Exception, HangError) as error:
                signal.setitimer(signal.ITIMER_REAL, 0)
                if count == 1:
                    traceback.print_exc()
                print(json.dumps({"number": number, "error": _described(error)}), flush=True)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)


def _described(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "histocae/" in frame.filename]
    where = f"{frames[-1].filename.split('histocae/')[-1]}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:200]}"


class Failure(NamedTuple):
    """An input that was not handled."""

    number: int
    error: str

    @property
    def is_refused_memory(self) -> bool:
        """Whether OpenSlide's library ended the process since it got less memory than the slide claims to need.

        The pipeline reads slides in workers, survives the death of a worker, and sets the slide aside.
        """
        return "GLib-ERROR" in self.error and "failed to allocate" in self.error


@dataclass(frozen=True)
class Fuzzing:
    """Inputs of one kind.

    Attributes:
        kind: a key of `KINDS`.
        seed: of the inputs.
        count: of inputs.

    """

    kind: str
    seed: str
    count: int

    def failures(self) -> list[Failure]:
        """Try all inputs in processes; a process that dies or hangs is a failure of its input."""
        found: list[Failure] = []
        first = 0
        while first < self.count:
            last = min(first + AT_ONCE, self.count)
            with tempfile.TemporaryDirectory() as folder:
                reached, lines, ending = self._process(first, last - first, Path(folder))
            found += [Failure(**json.loads(line)) for line in lines]
            if ending is not None:
                found.append(Failure(reached, ending))
            first = last if ending is None else reached + 1
        return found

    def _process(self, first: int, count: int, folder: Path) -> tuple[int, list[str], str | None]:
        command = [sys.executable, __file__, self.kind, self.seed, str(first), str(count), str(folder)]
        with open(folder / "stdout", "w+b") as out, open(folder / "stderr", "w+b") as err:
            process = subprocess.Popen(command, stdout=out, stderr=err, env=os.environ | {"TMPDIR": str(folder)})
            number, since = -1, time.monotonic()
            ending = None
            while process.poll() is None:
                time.sleep(0.05)
                if (now := _number(folder)) != number:
                    number, since = now, time.monotonic()
                elif time.monotonic() - since > 3 * SECONDS:  # in native code, where no signal handler runs
                    process.kill()
                    process.wait()
                    ending = f"hangs in native code for {3 * SECONDS} s"
            lines = [line for line in (folder / "stdout").read_text().splitlines() if line.startswith('{"number"')]
            if ending is None and process.returncode:
                error = (folder / "stderr").read_text(errors="replace")
                assert (folder / "number").exists(), error
                ending = f"the process ends with {process.returncode}: {error[-300:]}"
            return max(first, _number(folder)), lines, ending

    def report(self, failures: list[Failure]) -> str:
        """Describe failures, one line for each place, and how to repeat the first of each."""
        places = Counter(re.sub(r":[^:]*$", "", failure.error.split(": ")[0]) for failure in failures)
        lines = []
        for place, times in places.most_common():
            first = next(failure for failure in failures if failure.error.startswith(place))
            lines.append(
                f"{times} x {first.error}\n"
                f"    python tests/support/fuzzing.py {self.kind} {self.seed} {first.number} 1 FOLDER"
            )
        return "\n".join(lines)


def _number(folder: Path) -> int:
    try:
        return int.from_bytes((folder / "number").read_bytes(), "little")
    except FileNotFoundError:
        return -1


if __name__ == "__main__":
    kind, seed, first, count, place = sys.argv[1:]
    Path(place).mkdir(parents=True, exist_ok=True)
    child(kind, seed, int(first), int(count), Path(place))
