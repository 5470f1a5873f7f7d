"""Whether the stage inventory has anything to do. It runs at every repro, which should not wait for it.

Nothing heavy is imported here: to compare with the last inventory takes a tenth of the time of a new one.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from histocae import paths
from histocae.files import read_json_or_none, sha256, state, write_json
from histocae.paths import PACKAGE
from histocae.slides.parts import parts_of

MEMORY = paths.SCRATCH / "inventory.json"  # safe to delete
# the coarsest clock of a file system: a file that changed less than this before may change again with the same time
SETTLED_SECONDS = 2


class Watch:
    """Inputs and outputs of the last inventory. While none of them changes, a new inventory would write the same."""

    def __init__(self, params: Path):
        """Record the state of the code, before `params`, the file of params, or any other file is read."""
        self._params, self._began = params, time.time_ns()
        # now, as it is loaded: a module that is edited during the inventory did not make its outputs
        code = (file for file in PACKAGE.rglob("*") if file.suffix in (".py", ".html"))
        self._code = {str(file.relative_to(PACKAGE)): state(file) for file in code}

    def unchanged(self) -> bool:
        """Return whether params, the user's files, the outputs and this package's code are as they were."""
        try:
            former = read_json_or_none(MEMORY)
            return bool(former == self._look(former["inputs"], former["outputs"]))
        except (OSError, ValueError, KeyError, TypeError):  # a new inventory reports the problem, if it is one
            return False

    def remember(self, inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
        """Save the state of all that an inventory read and wrote.

        Args:
            inputs: the user's own files that it listed.
            outputs: files and flat folders that it wrote.

        """
        try:
            current = self._look(map(str, inputs), map(str, outputs))
        except OSError:  # a file was deleted meanwhile: the next inventory reports it
            MEMORY.unlink(missing_ok=True)
            return
        files = (times for parts in current["inputs"].values() for times in parts.values())
        states = [state(self._params), *self._code.values(), *files]
        # a file that changed during the inventory may differ from what was read
        if max(max(times) for _, *times in states) < self._began - SETTLED_SECONDS * 10**9:
            write_json(current, MEMORY)
        else:
            MEMORY.unlink(missing_ok=True)

    def _look(self, inputs: Iterable[str], outputs: Iterable[str]) -> dict[str, Any]:
        return {
            "params": sha256(self._params),
            "code": self._code,
            "inputs": {path: {str(part): state(part) for part in parts_of(Path(path))} for path in inputs},
            "outputs": {path: _content(Path(path)) for path in outputs},
        }


def _content(path: Path) -> dict[str, str]:
    files = path.iterdir() if path.is_dir() else [path]
    return {file.name: sha256(file) for file in files}
