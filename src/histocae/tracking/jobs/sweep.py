"""A sweep: each model of params.yaml is trained in a job of its own, all at once, under one run."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from histocae.errors import HistocaeError, RemoteError, TrackingError
from histocae.params import Params
from histocae.progress import bar
from histocae.remote import config
from histocae.tracking.jobs import job_runs, polling, sending
from histocae.tracking.record import PARENT
from histocae.tracking.server import FAILURES, client, experiment, failure_message

log = logging.getLogger(__name__)
ENTRY = "train"


def sweep(params: Params, backend: str, file: Path) -> None:
    """Send a job per model; wait for the jobs and fetch their changes, unless the config says not to wait.

    A model that starts from another (`init_from`) is sent when the other's training is fetched.

    Args:
        params: with the models.
        backend: a name in `histocae.remote.config.KINDS`.
        file: the backend config, JSON.

    Raises:
        RemoteError: the config is wrong, or a job can't be sent or fails.
        TrackingError: the server is unreachable or refuses.

    """
    job_config = config.read(backend, _read(file))
    starts = {name: model.init_from for name, model in params.models.items()}
    if not job_config.wait and (dependent := next((name for name, start in starts.items() if start), None)):
        raise RemoteError(
            f"model {dependent} starts from {starts[dependent]}: a sweep has to wait for that; set wait: true"
        )
    try:
        api = client()
        experiment_id = experiment(api, f"{params.tracking.experiment}-jobs")
        run_id = api.create_run(experiment_id, run_name="sweep", tags={"models": ", ".join(starts)}).info.run_id
    except FAILURES as error:
        raise TrackingError(failure_message(error)) from None
    jobs = _Sweep(backend, job_config, experiment_id, run_id)
    status = "FAILED"
    try:
        jobs.send([name for name, start in starts.items() if not start])
        if job_config.wait:
            jobs.wait(starts)
        status = "FINISHED" if not jobs.failures else "FAILED"
    except KeyboardInterrupt:
        jobs.cancel()
        raise
    except FAILURES as error:
        raise TrackingError(failure_message(error)) from None
    finally:
        api.set_terminated(run_id, status)
    if jobs.failures:
        raise RemoteError("; ".join(f"{name}: {reason}" for name, reason in jobs.failures.items()))


class _Sweep:
    """The jobs of a sweep: those that run, and the failures so far, by model."""

    def __init__(self, backend: str, job_config: config.JobConfig, experiment_id: str, run_id: str):
        self.backend, self.config, self.experiment_id, self.run_id = backend, job_config, experiment_id, run_id
        self.running: dict[str, sending.Submitted] = {}
        self.failures: dict[str, str] = {}

    def send(self, names: Sequence[str], locks_changed: bool = False) -> None:
        for name in names:
            try:
                self.running[name] = sending.submit(
                    self.backend,
                    self.config,
                    ".",
                    entry_point=ENTRY,
                    params={"model": name},
                    version=None,
                    experiment_id=self.experiment_id,
                    tags={PARENT: self.run_id, job_runs.SWEEP: self.run_id},
                    variables={"HISTOCAE_SWEEP": self.run_id},
                    locks_changed=locks_changed,
                )
            except HistocaeError as error:
                self.failures[name] = str(error)

    def wait(self, starts: Mapping[str, str | None]) -> None:
        waiting = [name for name, start in starts.items() if start]
        with bar(None, "sweep", "jobs", len(starts)) as progress:
            while self.running:
                time.sleep(polling.POLL_SECONDS)
                for name in list(self.running):
                    if not self._is_over(name):
                        continue
                    progress.update()
                    ready = [model for model in waiting if starts[model] == name]
                    waiting = [model for model in waiting if model not in ready]
                    if name in self.failures:
                        self.failures |= dict.fromkeys(ready, f"not sent: it starts from {name}")
                    else:
                        self.send(ready, locks_changed=True)
        self.failures |= {model: f"not sent: it starts from {starts[model]}" for model in waiting}

    def _is_over(self, name: str) -> bool:
        """Poll a job; where it is over, fetch its changes."""
        submitted = self.running[name]
        try:
            job = submitted.job = polling.poll(submitted.job)
            if not job.is_over:
                return False
            if submitted.project is not None:
                polling.fetch(job, submitted.project)
        except (HistocaeError, *FAILURES) as error:
            # a server or a DVC that is busy for a while does not keep the other jobs from ending well
            log.warning("%s: %s; the job will be polled again", name, error)
            return False
        del self.running[name]
        log.info("%s: %s", name, job.status.lower())
        if job.status != "FINISHED":
            self.failures[name] = f"{job.status.lower()}: {job.tags.get(job_runs.REASON)}"
        return True

    def cancel(self) -> None:
        for problem in polling.cancel_all(submitted.job for submitted in self.running.values()):
            log.warning("%s", problem)


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except OSError as error:
        raise RemoteError(f"{file}: {error.strerror}") from None
    except RecursionError:
        raise RemoteError(f"{file}: not JSON: nested too deeply") from None
    except ValueError as error:
        raise RemoteError(f"{file}: not JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that occurs twice, of which Python would take the last one."""
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return dict(pairs)
