"""A training's run while it goes on. Nothing here ever fails or holds up the training."""

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from histocae.model import CAE
from histocae.progress import bar
from histocae.samples import write_sample
from histocae.store import Pictures
from histocae.tracking import runs
from histocae.tracking.record import flat, provenance
from histocae.tracking.server import FAILURES, client, experiment, patience, told
from histocae.training import Options, State, train

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
        except FAILURES as error:
            if not self._warned:
                self._warned = True
                log.warning("%s; the training goes on, and what is missing there is delivered later", told(error))

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
        # what a server that is away loses here are figures of the machine, nothing of the training
        with contextlib.suppress(*FAILURES):
            monitor.publish_metrics(monitor.aggregate_metrics())
            monitor.mlflow_logger.flush()

    def stop(self, status: str | None) -> None:
        """Stop measuring the machine; give the run a final status unless that comes later."""
        if self._monitor is not None:
            # this waits for a call in progress, and a hanging server must not hold us up
            ending = threading.Thread(target=self._last_sample, daemon=True)
            with patience(retries=0, timeout=SERVER_SECONDS):
                ending.start()
                ending.join(2 * SERVER_SECONDS)
        if status is not None and self.run_id is not None:
            self._try(lambda: self._api.set_terminated(self.run_id, status))


def train_live(
    cae: CAE,
    patches: dict[str, Pictures],
    options: Options,
    checkpoint: Path,
    record: dict[str, Any],
    experiment_name: str,
    name: str,
    command: str,
) -> tuple[State, dict[str, Any]]:
    """Train with a live run beside it.

    Args:
        cae: trained in place; ends with the weights of its best epoch.
        patches: `train` and `validation`.
        options: how to train.
        checkpoint: folder of what a killed training goes on from; its `samples/` get the
            pictures of the epochs.
        record: what `recipe.describe` tells of the training.
        experiment_name: of MLflow.
        name: of the run.
        command: that trains the model.

    Returns:
        The training's end, and what models/runs/<model>.json keeps of it.

    Raises:
        TrainingError: the loss is no longer a number.

    """
    live: list[LiveRun] = []

    def on_start(state: State) -> None:
        tags = {**provenance(), "mlflow.source.name": command, "model": name, "cohort": record["cohort"]}
        live.append(LiveRun(experiment_name, name, state.training_id, state.start, tags))
        live[0].params(flat(record["params"]))

    def sample(epoch: int) -> Path:
        return checkpoint / "samples" / f"epoch_{epoch:03d}.png"

    def on_epoch(state: State) -> None:
        if options.shows(len(state.rows)):
            write_sample(cae, patches["validation"], sample(len(state.rows)))

    def on_saved(state: State) -> None:
        epoch, stamp = len(state.rows), state.stamps[-1]
        live[0].epoch(state.rows[-1], stamp)
        if options.shows(epoch):
            live[0].picture(sample(epoch), "reconstruction", epoch, stamp)

    fresh = State(training_id=str(uuid.uuid4()), start=int(time.time() * 1000))
    try:
        state = train(
            cae, patches["train"], patches["validation"], options, fresh, checkpoint,
            record["made_from"], on_start, on_epoch, on_saved, bar,
        )  # fmt: skip
    except BaseException as error:
        if live:
            live[0].stop("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    live[0].stop(None)
    return state, {
        "training_id": state.training_id, "run_id": live[0].run_id, "start": state.start,
        "end": int(time.time() * 1000), "seconds": round(state.seconds, 3), "stamps": state.stamps,
        "tags": provenance(),
    }  # fmt: skip
