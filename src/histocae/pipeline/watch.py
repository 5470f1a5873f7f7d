"""Whether the stage inventory has anything to do: it runs at every repro, which should not wait for it.

Nothing heavy is imported here: a look at what the last inventory saw takes a tenth of what a new one does.
"""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from histocae import paths
from histocae.files import parts_of, sha256, state, write_json
from histocae.paths import PACKAGE

MEMORY = paths.SCRATCH / "inventory.json"  # safe to delete
# what changed so shortly before may change again without another time: the coarsest clock of a file system
SETTLED_SECONDS = 2


class Watch:
    """What the last inventory saw and wrote; where all of it is as it was, a new one would write the same."""

    def __init__(self, params: Path):
        """Begin, before anything is read; `params` is the file of params."""
        self._params, self._began = params, time.time_ns()
        # as it is loaded: what is saved while an inventory goes on is not what made it
        code = (file for file in PACKAGE.rglob("*") if file.suffix in (".py", ".html"))
        self._code = {str(file.relative_to(PACKAGE)): state(file) for file in code}

    def unchanged(self) -> bool:
        """Tell whether params, the user's files, the outputs and this package's code are as they were."""
        try:
            seen = json.loads(MEMORY.read_text(encoding="utf-8"))
            return seen == self._look(seen["inputs"], seen["outputs"])
        except (OSError, ValueError, KeyError, TypeError):  # whatever is wrong, a new inventory tells it
            return False

    def remember(self, inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
        """Keep what an inventory saw and wrote.

        Args:
            inputs: the user's own files that it listed.
            outputs: files and flat folders that it wrote.

        """
        try:
            seen = self._look(map(str, inputs), map(str, outputs))
        except OSError:  # a file that is gone by now: the next inventory tells it
            MEMORY.unlink(missing_ok=True)
            return
        files = (one for parts in seen["inputs"].values() for one in parts.values())
        states = [state(self._params), *self._code.values(), *files]
        # a file that changed while it was read would be taken for what was read
        if max(max(times) for _, *times in states) < self._began - SETTLED_SECONDS * 10**9:
            write_json(seen, MEMORY)
        else:
            MEMORY.unlink(missing_ok=True)

    def _look(self, inputs: Iterable[str], outputs: Iterable[str]) -> dict[str, Any]:
        return {
            "params": sha256(self._params),
            "code": self._code,
            "inputs": {one: {str(part): state(part) for part in parts_of(Path(one))} for one in inputs},
            "outputs": {one: _content(Path(one)) for one in outputs},
        }


def _content(path: Path) -> dict[str, str]:
    files = path.iterdir() if path.is_dir() else [path]
    return {file.name: sha256(file) for file in files}
