"""A training's run while the training is running. Nothing here makes the training fail or wait."""

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
from histocae.training.loop import Callbacks, Options, train

if TYPE_CHECKING:  # MLflow takes seconds to import, and its database takes seconds to create
    from mlflow.entities import Run
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

log = logging.getLogger(__name__)
SAMPLING_SECONDS = 10
SERVER_SECONDS = 3
LAST_SECONDS = 20


class LiveRun:
    """The run of a training in progress. A thread of its own does all the work with MLflow, and imports it.

    Attributes:
        run_id: None while no server has accepted the run.

    """

    def __init__(
        self,
        experiment_name: str,
        name: str,
        *,
        training_id: str,
        start: int,
        tags: dict[str, str],
        params: dict[str, object],
    ):
        """Start the thread, which finds or creates the run and logs its params.

        Args:
            experiment_name: of MLflow.
            name: of the run.
            training_id: by which the run of a resumed training is found.
            start: of the training, milliseconds since 1970.
            tags: of the run.
            params: by dotted key.

        """
        self.run_id: str | None = None
        self._over = self._unreachable = self._warned = self._abandoned = False
        self._monitor: SystemMetricsMonitor | None = None
        # each call, and whether to make it even after the training's end with the server unreachable at the last call
        self._calls: SimpleQueue[tuple[Callable[[], Any], bool] | None] = SimpleQueue()
        self._calls.put((lambda: self._begin(experiment_name, name, training_id, start, tags), False))
        self._later(lambda run_id: self._runs.log_params(self._api, run_id, params))
        self._calls.put((_load_delivery, False))
        self._thread = threading.Thread(target=self._work, daemon=True)
        # set here what MLflow would set in the thread: only the thread that trains may change the environment
        self._limits = contextlib.ExitStack()
        self._limits.enter_context(call_limits(retries=0, timeout=SERVER_SECONDS))
        os.environ["MLFLOW_TRACKING_URI"] = address()
        self._thread.start()

    def _work(self) -> None:
        with uncollected():
            from histocae.tracking import runs, server

        self._runs, self._server = runs, server
        while (item := self._calls.get()) is not None and not self._abandoned:
            call, always = item
            if self._over and self._unreachable and not always:
                continue  # the training is over: do not wait for the server again
            try:
                call()
                self._unreachable = False
            except server.FAILURES as error:
                self._unreachable = True
                if not self._warned:
                    self._warned = True
                    message = server.failure_message(error)
                    log.warning("%s; the training continues, and its run is completed later", message)

    def _begin(self, experiment_name: str, name: str, training_id: str, start: int, tags: dict[str, str]) -> None:
        with uncollected():
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self._api = self._server.client()
        experiment_id = self._server.experiment(self._api, experiment_name)
        former: Run | None = self._runs.find(self._api, experiment_id, training_id, None)
        if self._abandoned:
            return  # by now the delivery creates the run
        if former is None:
            run = self._runs.create(self._api, experiment_id, name, training_id=training_id, start=start, tags=tags)
        else:
            run = former
            self._api.update_run(run.info.run_id, status="RUNNING")
        self.run_id = run.info.run_id
        self._monitor = SystemMetricsMonitor(  # type: ignore[no-untyped-call]  # MLflow has no types here
            run.info.run_id,
            sampling_interval=SAMPLING_SECONDS,
            samples_before_logging=1,
            resume_logging=former is not None,
        )
        self._monitor.start()  # type: ignore[no-untyped-call]  # MLflow has no types here

    def _later(self, call: Callable[[str], Any], always: bool = False) -> None:
        """Queue a call that takes the run's id; it is made if there is a run by then."""
        self._calls.put((lambda: call(self.run_id) if self.run_id is not None else None, always))

    def epoch(self, row: dict[str, float], stamp: int) -> None:
        """Log an epoch's losses.

        Args:
            row: of the history.
            stamp: the epoch's end, milliseconds since 1970.

        """
        self._later(lambda run_id: self._runs.log_metrics(self._api, run_id, self._runs.epoch_points(row, stamp)))

    def image(self, path: Path, key: str, step: int, stamp: int) -> None:
        """Log an image.

        Args:
            path: of the image.
            key: under which the UI shows it.
            step: the same.
            stamp: milliseconds since 1970.

        """
        self._later(
            lambda run_id: self._runs.log_image(self._api, run_id, path, key=key, step=step, stamp=stamp, known=set())
        )

    def _last_sample(self) -> None:
        """Stop measuring the machine, and log the unfinished interval: a short training has no other.

        MLflow has no call for this; these are the methods that the monitor's own thread calls (MLflow 3.17).
        """
        monitor = self._monitor
        if monitor is None:
            return
        monitor.finish()  # type: ignore[no-untyped-call]  # MLflow has no types here
        monitor.collect_metrics()  # type: ignore[no-untyped-call]  # MLflow has no types here
        # an unreachable server loses measurements of the machine here, nothing of the training
        with contextlib.suppress(*self._server.FAILURES):
            monitor.publish_metrics(monitor.aggregate_metrics())  # type: ignore[no-untyped-call]  # ... here
            monitor.mlflow_logger.flush()  # type: ignore[no-untyped-call]  # MLflow has no types here

    def stop(self, status: str | None) -> None:
        """Make the queued calls, and stop measuring the machine.

        It waits LAST_SECONDS at most for a server that hangs.

        Args:
            status: final status of the run; None where the delivery sets it later.

        """
        self._over = True
        self._later(lambda _: self._last_sample(), always=True)
        if (final := status) is not None:
            self._later(lambda run_id: self._api.set_terminated(run_id, final), always=True)
        self._calls.put(None)
        self._thread.join(LAST_SECONDS)
        if self._thread.is_alive():
            self._abandoned = True  # it ends after its current call, and needs the environment as it is until then
        else:
            self._limits.close()


def _load_delivery() -> None:
    """Import the modules that the end of the training needs."""
    with uncollected():
        from histocae.tracking import delivery

        delivery.load()


def train_live(
    cae: CAE,
    patches: dict[str, Images],
    options: Options,
    *,
    checkpoint: Path,
    description: dict[str, Any],
    experiment_name: str,
    name: str,
    command: str,
) -> tuple[State, dict[str, Any]]:
    """Train with a live run beside it.

    Args:
        cae: trained in place; it ends with the weights of its best epoch.
        patches: `train` and `validation`.
        options: how to train.
        checkpoint: folder from which a killed training resumes; its `samples/` get the images of the epochs.
        description: of the training, by `recipe.describe`.
        experiment_name: of MLflow.
        name: of the run.
        command: that trains the model.

    Returns:
        The state at the training's end, and the content of models/runs/<model>.json.

    Raises:
        TrainingError: the loss is no longer a number.

    """
    live: list[LiveRun] = []
    # rounding depends on the number of devices
    tags = {**provenance(), "devices": str(options.devices)}

    def on_start(state: State) -> None:
        run_tags = {**tags, "mlflow.source.name": command, "model": name, "cohort": description["cohort"]}
        live.append(
            LiveRun(
                experiment_name,
                name,
                training_id=state.training_id,
                start=state.start,
                tags=run_tags,
                params=flat(description["params"]),
            )
        )

    def sample(epoch: int) -> Path:
        return checkpoint / "samples" / f"epoch_{epoch:03d}.png"

    def on_epoch(state: State) -> None:
        if options.shows(len(state.rows)):
            write_sample(cae, patches["validation"], sample(len(state.rows)))

    def on_saved(state: State) -> None:
        epoch, stamp = len(state.rows), state.stamps[-1]
        live[0].epoch(state.rows[-1], stamp)
        if options.shows(epoch):
            live[0].image(sample(epoch), "reconstruction", epoch, stamp)

    fresh = State(training_id=str(uuid.uuid4()), start=int(time.time() * 1000))
    try:
        state = train(
            cae,
            patches["train"],
            patches["validation"],
            options,
            state=fresh,
            folder=checkpoint,
            fingerprint=description["made_from"],
            callbacks=Callbacks(on_start=on_start, on_epoch=on_epoch, on_saved=on_saved, bar=bar),
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
