"""A sweep: every model of params.yaml trained by a job of its own, all at once, under one run."""

import json
import logging
import time
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
    """Send a job per model; wait for them and fetch what they made, unless the config says not to.

    A model that starts from another (`init_from`) is sent when that one's result is here.

    Args:
        params: with the models.
        backend: a name in `config.KINDS`.
        file: the backend config, JSON.

    Raises:
        RemoteError: the config is wrong, a job can't be sent, or some did not go well.
        TrackingError: the server is away or refuses.

    """
    about = config.read(backend, _read(file))
    starts = {name: model.init_from for name, model in params.models.items()}
    if not about.wait and any(starts.values()):
        first = next(name for name, start in starts.items() if start)
        raise RemoteError(f"model {first} starts from {starts[first]}: a sweep has to wait for that; set wait: true")
    try:
        api = client()
        place = experiment(api, f"{params.tracking.experiment}-jobs")
        run = api.create_run(place, run_name="sweep", tags={"models": ", ".join(starts)}).info.run_id
    except FAILURES as error:
        raise TrackingError(failure_message(error)) from None
    swept = _Sweep(backend, about, place, run)
    status = "FAILED"
    try:
        swept.send([name for name, start in starts.items() if not start])
        if about.wait:
            swept.wait(starts)
        status = "FINISHED" if not swept.bad else "FAILED"
    except KeyboardInterrupt:
        swept.cancel()
        raise
    except FAILURES as error:
        raise TrackingError(failure_message(error)) from None
    finally:
        api.set_terminated(run, status)
    if swept.bad:
        raise RemoteError("; ".join(f"{name}: {why}" for name, why in swept.bad.items()))


class _Sweep:
    def __init__(self, backend: str, about: config.Job, place: str, run: str):
        self.backend, self.about, self.place, self.run = backend, about, place, run
        self.going: dict[str, sending.Submitted] = {}
        self.bad: dict[str, str] = {}

    def send(self, names: list[str], locks_changed: bool = False) -> None:
        for name in names:
            try:
                self.going[name] = sending.submit(
                    self.backend,
                    self.about,
                    ".",
                    ENTRY,
                    {"model": name},
                    None,
                    self.place,
                    tags={PARENT: self.run, job_runs.SWEEP: self.run},
                    variables={"HISTOCAE_SWEEP": self.run},
                    locks_changed=locks_changed,
                )
            except HistocaeError as error:
                self.bad[name] = str(error)

    def wait(self, starts: dict[str, str | None]) -> None:
        waiting = [name for name, start in starts.items() if start]
        with bar(None, "sweep", "jobs", len(starts)) as progress:
            while self.going:
                time.sleep(polling.POLL_SECONDS)
                for name in list(self.going):
                    if not self._over(name):
                        continue
                    progress.update()
                    ready = [one for one in waiting if starts[one] == name]
                    waiting = [one for one in waiting if one not in ready]
                    if name in self.bad:
                        self.bad |= dict.fromkeys(ready, f"not sent: it starts from {name}")
                    else:
                        self.send(ready, locks_changed=True)
        self.bad |= {one: f"not sent: it starts from {starts[one]}" for one in waiting}

    def _over(self, name: str) -> bool:
        """Look at a job; where it is over, fetch what it made."""
        submitted = self.going[name]
        try:
            job = submitted.job = polling.poll(submitted.job)
            if not job.is_over:
                return False
            polling.fetch(job, submitted.project)
        except (HistocaeError, *FAILURES) as error:
            # a server or a DVC that is busy for a while keeps no other job from ending well
            log.warning("%s: %s; looked at again", name, error)
            return False
        del self.going[name]
        log.info("%s: %s", name, job.status.lower())
        if job.status != "FINISHED":
            self.bad[name] = f"{job.status.lower()}: {job.tags.get(job_runs.REASON)}"
        return True

    def cancel(self) -> None:
        for problem in polling.cancel_all(one.job for one in self.going.values()):
            log.warning("%s", problem)


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RemoteError(f"{file}: {error.strerror}") from None
    except ValueError as error:
        raise RemoteError(f"{file}: not JSON: {error}") from None
