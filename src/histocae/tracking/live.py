"""A training's run while it goes on. Nothing here ever fails or holds up the training."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from histocae.tracking import runs
from histocae.tracking.server import PARENT_RUN, MlflowException, client, experiment, patience

log = logging.getLogger(__name__)
SAMPLING_SECONDS = 10
SERVER_SECONDS = 3


class LiveRun:
    """The run of a training in progress.

    Attributes:
        run_id: None while no server has taken the run.

    """

    def __init__(self, experiment_name: str, name: str, training_id: str, start: int, tags: dict[str, str]):
        """Find or make the run; `start` in milliseconds since 1970."""
        self.run_id: str | None = None
        self._warned = False
        self._monitor: SystemMetricsMonitor | None = None
        if PARENT_RUN:
            tags = {**tags, "mlflow.parentRunId": PARENT_RUN}

        def begin() -> None:
            self._api = client()
            place = experiment(self._api, experiment_name)
            run = runs.find(self._api, place, training_id, None)
            resumed = run is not None
            if not resumed:
                run = runs.create(self._api, place, name, training_id, start, tags)
            else:
                self._api.update_run(run.info.run_id, status="RUNNING")
            self.run_id = run.info.run_id
            self._monitor = SystemMetricsMonitor(
                self.run_id, sampling_interval=SAMPLING_SECONDS, samples_before_logging=1, resume_logging=resumed
            )
            self._monitor.start()

        self._try(begin)

    def _try(self, call: Callable[[], Any]) -> None:
        try:
            with patience(retries=0, timeout=SERVER_SECONDS):
                call()
        except (MlflowException, OSError) as error:
            if not self._warned:
                self._warned = True
                log.warning(
                    "tracking server: %s; the training goes on, and what is missing there is "
                    "delivered later", str(error).split("\n")[0][:200],
                )  # fmt: skip

    def params(self, params: dict[str, object]) -> None:
        """Log all params."""
        if self.run_id is not None:
            self._try(lambda: runs.log_params(self._api, self.run_id, params))

    def epoch(self, row: dict[str, float], stamp: int) -> None:
        """Log an epoch's losses."""
        if self.run_id is not None:
            points = runs.epoch_points(row, stamp)
            self._try(lambda: runs.log_metrics(self._api, self.run_id, points))

    def picture(self, path: Path, key: str, step: int, stamp: int) -> None:
        """Log a picture under its step."""
        if self.run_id is not None:
            self._try(
                lambda: runs.log_picture(self._api, self.run_id, path, key, step, stamp, set())
            )

    def _last_sample(self) -> None:
        """Stop measuring; the unfinished interval counts too, or a short training would show nothing."""
        monitor = self._monitor
        monitor.finish()
        monitor.collect_metrics()
        monitor.publish_metrics(monitor.aggregate_metrics())
        monitor.mlflow_logger.flush()

    def stop(self, status: str | None) -> None:
        """Stop measuring the machine; give the run a final status unless that comes later."""
        if self._monitor is not None:
            # this waits for a call in progress, and a hanging server must not hold us up
            ending = threading.Thread(target=self._try, args=(self._last_sample,), daemon=True)
            ending.start()
            ending.join(2 * SERVER_SECONDS)
        if status is not None and self.run_id is not None:
            self._try(lambda: self._api.set_terminated(self.run_id, status))
