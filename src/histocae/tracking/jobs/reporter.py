"""What a running job reports to the tracking server."""

import logging
import platform
import time
from collections.abc import Callable
from pathlib import Path

import tenacity

from histocae.errors import TrackingError
from histocae.remote import dvc_locks
from histocae.tracking.jobs.job_runs import LOG, MACHINE, REASON, SEEN, conclude
from histocae.tracking.server import FAILURES, call_limits, client, failure_message

log = logging.getLogger(__name__)
RETRIES, TIMEOUT = 1, 30  # of one call; the timeout in seconds
LAST_SECONDS = 600  # how long the end of a job waits for an unreachable server
LONGEST_PAUSE = 60  # seconds between two attempts to report the end


class Reporter:
    """Reports a job to the tracking server while it runs. An unreachable server never ends a job."""

    def __init__(self, run_id: str):
        """Report to a run of the server that the environment names."""
        self._run_id = run_id
        self._unreachable = False
        self._logged_bytes = 0

    def begin(self) -> None:
        """Report that the job runs, and on which machine."""

        def call() -> None:
            api = client()
            api.update_run(self._run_id, status="RUNNING")
            api.set_tag(self._run_id, MACHINE, platform.node())
            # an earlier poll may have marked the job as failed, because its machine did not answer
            if REASON in api.get_run(self._run_id).data.tags:
                api.delete_tag(self._run_id, REASON)

        self._try(call)
        self.alive()

    def alive(self, file: Path | None = None) -> None:
        """Send a sign of life, and the log file if it has grown."""

        def call() -> None:
            api = client()
            api.set_tag(self._run_id, SEEN, str(int(time.time())))
            if file is not None and (size := file.stat().st_size) != self._logged_bytes:
                api.log_artifact(self._run_id, str(file), str(Path(LOG).parent))
                self._logged_bytes = size

        self._try(call)

    def has(self, tag: str) -> bool:
        """Say whether the run has a tag; False where the server is unreachable."""
        answers: list[bool] = []
        self._try(lambda: answers.append(tag in client().get_run(self._run_id).data.tags))
        return any(answers)

    def end(self, status: str, reason: str | None, changed: dvc_locks.Changes, file: Path) -> None:
        """Report how the job ended; wait up to LAST_SECONDS for an unreachable server.

        Args:
            status: of MLflow: FINISHED, FAILED or KILLED.
            reason: why the job did not finish; None where it did.
            changed: what the job changed in DVC's lock files.
            file: the job's log.

        Raises:
            TrackingError: the server stayed unreachable.

        """

        def call() -> None:
            api = client()
            if file.is_file():
                api.log_artifact(self._run_id, str(file), str(Path(LOG).parent))
            conclude(self._run_id, status, reason, changed)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda problem: problem is not None),
            wait=tenacity.wait_exponential(max=LONGEST_PAUSE),
            stop=tenacity.stop_after_delay(LAST_SECONDS),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        if (problem := retrying(self._try, call)) is not None:
            raise TrackingError(problem)

    def _try(self, call: Callable[[], object]) -> str | None:
        """Call the server once; return the problem, if there is one."""
        try:
            with call_limits(RETRIES, TIMEOUT):
                call()
        except FAILURES as error:
            if not self._unreachable:
                log.warning("%s; the job continues", failure_message(error))
            self._unreachable = True
            return failure_message(error)
        self._unreachable = False
        return None
