"""What a running job reports to the tracking server."""

import logging
import platform
import time
from collections.abc import Callable
from pathlib import Path

from histocae.errors import TrackingError
from histocae.remote import dvc_locks
from histocae.tracking.jobs.job_runs import LOG, MACHINE, REASON, SEEN, conclude
from histocae.tracking.server import FAILURES, call_limits, client, failure_message

log = logging.getLogger(__name__)
RETRIES, TIMEOUT = 1, 30
LAST_SECONDS = 600  # how long the end of a job waits for a server that is away


class Reporter:
    """What a job tells the tracking server while it runs. A server that is away ends no job."""

    def __init__(self, run_id: str):
        """Tell of a run; the server is the one of the environment."""
        self._run_id, self._away, self._logged = run_id, False, 0

    def begin(self) -> None:
        """Tell that the job runs, and where."""

        def call() -> None:
            api = client()
            api.update_run(self._run_id, status="RUNNING")
            api.set_tag(self._run_id, MACHINE, platform.node())
            if REASON in api.get_run(self._run_id).data.tags:  # given up, and not dead
                api.delete_tag(self._run_id, REASON)

        self._try(call)
        self.alive()

    def alive(self, file: Path | None = None) -> None:
        """Give a sign of life, and the log as far as it is."""

        def call() -> None:
            api = client()
            api.set_tag(self._run_id, SEEN, str(int(time.time())))
            if file is not None and (length := file.stat().st_size) != self._logged:
                api.log_artifact(self._run_id, str(file), str(Path(LOG).parent))
                self._logged = length

        self._try(call)

    def has(self, tag: str) -> bool:
        """Tell whether the run has a tag; no, where the server is away."""
        found = []
        self._try(lambda: found.append(tag in client().get_run(self._run_id).data.tags))
        return any(found)

    def end(self, status: str, reason: str | None, changed: dvc_locks.Changes, file: Path) -> None:
        """Tell how the job ended, and what it changed in DVC's lock files; wait for a server that is away.

        Raises:
            TrackingError: it stayed away.

        """

        def call() -> None:
            api = client()
            if file.is_file():
                api.log_artifact(self._run_id, str(file), str(Path(LOG).parent))
            conclude(self._run_id, status, reason, changed)

        start, pause = time.monotonic(), 1
        while (problem := self._try(call)) is not None:
            if time.monotonic() - start > LAST_SECONDS:
                raise TrackingError(problem)
            time.sleep(pause)
            pause = min(2 * pause, 60)

    def _try(self, call: Callable[[], object]) -> str | None:
        try:
            with call_limits(RETRIES, TIMEOUT):
                call()
        except FAILURES as error:
            if not self._away:
                log.warning("%s; the job goes on", failure_message(error))
            self._away = True
            return failure_message(error)
        self._away = False
        return None
