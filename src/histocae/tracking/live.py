"""A training's run while it goes on. Nothing here ever fails or holds up the training."""

import contextlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from histocae.evaluation.samples import write_sample
from histocae.networks.backend import uncollected
from histocae.networks.cae import CAE
from histocae.patches.images import Images
from histocae.progress import bar
from histocae.tracking.environment import address, call_limits
from histocae.tracking.record import flat, provenance
from histocae.training.checkpoint import State
from histocae.training.loop import Options, train

if TYPE_CHECKING:  # MLflow takes seconds to load, and its database as many to make
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

log = logging.getLogger(__name__)
SAMPLING_SECONDS = 10
SERVER_SECONDS = 3
LAST_SECONDS = 20


class LiveRun:
    """The run of a training in progress. All that concerns MLflow, its import too, is done by a thread of its own.

    Attributes:
        run_id: None while no server has taken the run.

    """

    def __init__(
        self,
        experiment_name: str,
        name: str,
        training_id: str,
        start: int,
        tags: dict[str, str],
        params: dict[str, object],
    ):
        """Begin to find or make the run and to log its params; `start` in milliseconds since 1970."""
        self.run_id: str | None = None
        self._over = self._away = self._warned = self._left = False
        self._monitor: SystemMetricsMonitor | None = None
        # what to call, and whether to do so even when the training is over and the server was away the last time
        self._calls: SimpleQueue[tuple[Callable[[], Any], bool] | None] = SimpleQueue()
        self._calls.put((lambda: self._begin(experiment_name, name, training_id, start, tags), False))
        self._later(lambda: self._runs.log_params(self._api, self.run_id, params))
        self._calls.put((_load_delivery, False))
        self._thread = threading.Thread(target=self._work, daemon=True)
        # all that MLflow would set in the thread, and what bounds its calls there
        self._patience = contextlib.ExitStack()
        self._patience.enter_context(call_limits(retries=0, timeout=SERVER_SECONDS))
        os.environ["MLFLOW_TRACKING_URI"] = address()
        self._thread.start()

    def _work(self) -> None:
        with uncollected():
            from histocae.tracking import runs, server

        self._runs, self._server = runs, server
        while (item := self._calls.get()) is not None and not self._left:
            call, always = item
            if self._over and self._away and not always:
                continue  # it is not waited for again
            try:
                call()
                self._away = False
            except server.FAILURES as error:
                self._away = True
                if not self._warned:
                    self._warned = True
                    told = server.failure_message(error)
                    log.warning("%s; the training goes on, and what is missing there is delivered later", told)

    def _begin(self, experiment_name: str, name: str, training_id: str, start: int, tags: dict[str, str]) -> None:
        with uncollected():
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self._api = self._server.client()
        place = self._server.experiment(self._api, experiment_name)
        run = self._runs.find(self._api, place, training_id, None)
        resumed = run is not None
        if self._left:
            return  # the delivery makes the run by now
        if not resumed:
            run = self._runs.create(self._api, place, name, training_id, start, tags)
        else:
            self._api.update_run(run.info.run_id, status="RUNNING")
        self.run_id = run.info.run_id
        self._monitor = SystemMetricsMonitor(
            self.run_id, sampling_interval=SAMPLING_SECONDS, samples_before_logging=1, resume_logging=resumed
        )
        self._monitor.start()

    def _later(self, call: Callable[[], Any], always: bool = False) -> None:
        """Have something logged when its turn comes, if there is a run by then."""
        self._calls.put((lambda: call() if self.run_id is not None else None, always))

    def epoch(self, row: dict[str, float], stamp: int) -> None:
        """Log an epoch's losses."""
        self._later(lambda: self._runs.log_metrics(self._api, self.run_id, self._runs.epoch_points(row, stamp)))

    def picture(self, path: Path, key: str, step: int, stamp: int) -> None:
        """Log a picture under its step."""
        self._later(lambda: self._runs.log_picture(self._api, self.run_id, path, key, step, stamp, set()))

    def _last_sample(self) -> None:
        """Stop measuring; the unfinished interval counts too, or a short training would show nothing."""
        monitor = self._monitor
        if monitor is None:
            return
        monitor.finish()
        monitor.collect_metrics()
        # what a server that is away loses here are figures of the machine, nothing of the training
        with contextlib.suppress(*self._server.FAILURES):
            monitor.publish_metrics(monitor.aggregate_metrics())
            monitor.mlflow_logger.flush()

    def stop(self, status: str | None) -> None:
        """Log what is left, and stop measuring the machine; give a run a final status unless that comes later.

        A server that hangs is waited for LAST_SECONDS at most.
        """
        self._over = True
        self._later(self._last_sample, always=True)
        if status is not None:
            self._later(lambda: self._api.set_terminated(self.run_id, status), always=True)
        self._calls.put(None)
        self._thread.join(LAST_SECONDS)
        if self._thread.is_alive():
            self._left = True  # it ends after the call that it is at, and till then needs the environment as it is
        else:
            self._patience.close()


def _load_delivery() -> None:
    """Load what the end of the training needs."""
    with uncollected():
        from histocae.tracking import delivery

        delivery.load()


def train_live(
    cae: CAE,
    patches: dict[str, Images],
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
    # rounding depends on it
    tags = {**provenance(), "devices": str(options.devices)}

    def on_start(state: State) -> None:
        about = {**tags, "mlflow.source.name": command, "model": name, "cohort": record["cohort"]}
        live.append(LiveRun(experiment_name, name, state.training_id, state.start, about, flat(record["params"])))

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
            cae,
            patches["train"],
            patches["validation"],
            options,
            fresh,
            checkpoint,
            record["made_from"],
            on_start,
            on_epoch,
            on_saved,
            bar,
        )
    except BaseException as error:
        if live:
            live[0].stop("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    live[0].stop(None)
    return state, {
        "training_id": state.training_id,
        "run_id": live[0].run_id,
        "start": state.start,
        "end": int(time.time() * 1000),
        "seconds": round(state.seconds, 3),
        "stamps": state.stamps,
        "tags": tags,
    }
