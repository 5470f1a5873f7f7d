"""Watch over a job where it runs: start it, bound it, push what it made, tell the tracking server how it ended.

`python -m histocae.tracking.jobs.supervisor job.json`, started by job.sh; with `--clean-up` after that was killed.
"""

import contextlib
import json
import logging
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import psutil
from configobj import ConfigObj
from filelock import FileLock, Timeout

from histocae import paths
from histocae.errors import HistocaeError, RemoteError, TrackingError
from histocae.files import read_json, replacing_folder, write_json, write_text
from histocae.remote import dvc_locks
from histocae.tracking.jobs.job_runs import CANCELLED
from histocae.tracking.jobs.reporter import Reporter

log = logging.getLogger("histocae.tracking.jobs.supervisor")  # which runs as __main__
LOG, END, CHECKPOINTS = "job.log", "end.json", "checkpoints"
LOOK_SECONDS = 1
TELL_SECONDS = 20  # between two signs of life
GRACE_SECONDS = 10  # for what is told to end; Slurm kills all of it 30 s after it has told it
PUSHES = 3


class Supervisor:
    """One job, in its folder: job.json says all of it (`projects.about`)."""

    def __init__(self, about: dict[str, Any], folder: Path):
        """Prepare; nothing is started."""
        self.about, self.folder = about, folder
        self.work = Path(about["project"])
        # no lock in what signals set: one that comes while another is taken would wait for itself
        self.ended = self.late = False
        self.reporter = Reporter(about["run_id"])

    def end(self, *_: object) -> None:
        """Take a signal: the job is to end."""
        self.ended = True

    def end_late(self, *_: object) -> None:
        """Take a scheduler's signal: the time is nearly over."""
        self.late = self.ended = True

    def run(self) -> int:
        """Run the job to its end, whichever; give an exit code."""
        signal.signal(signal.SIGTERM, self.end)
        signal.signal(signal.SIGINT, self.end)
        signal.signal(signal.SIGUSR1, self.end_late)
        self.reporter.begin()
        before = self._before()
        try:
            self._resume()
            with self._devices() as devices:
                reason = self._payload(devices)
        except HistocaeError as error:
            reason = str(error)
        except OSError as error:  # a disk that is full
            reason = f"{error.filename}: {error.strerror}"
        # what was finished before a failure is finished
        changed = dvc_locks.changes(before, dvc_locks.read(self.work))
        if changed and (problem := self._push(changed)):
            reason, changed = reason or problem, {}
        return self._over(reason, changed)

    def _before(self) -> dict[str, Any]:
        """Tell what DVC's locks held before the first start; a cluster may start a job again."""
        path = self.folder / "before.json"
        if not path.is_file():
            write_json(dvc_locks.read(self.work), path)
        return read_json(path)

    def _resume(self) -> None:
        """Bring the trainings that an earlier job did not finish; a training takes one up only if it is its own."""
        kept, here = self.folder.parents[1] / CHECKPOINTS, self.work / paths.MAIN.checkpoints
        for path in kept.iterdir() if kept.is_dir() else ():
            if path.name in self.about["models"] and not (here / path.name).exists():
                shutil.copytree(path, here / path.name)

    def _keep_checkpoints(self, failed: bool) -> None:
        """Leave what a training reached to the next job; what is finished needs none."""
        kept, here = self.folder.parents[1] / CHECKPOINTS, self.work / paths.MAIN.checkpoints
        for name in self.about["models"]:
            if (here / name).is_dir():
                with replacing_folder(kept / name) as folder:
                    shutil.copytree(here / name, folder, dirs_exist_ok=True)
            elif not failed:
                shutil.rmtree(kept / name, ignore_errors=True)

    @contextlib.contextmanager
    def _devices(self) -> Iterator[str | None]:
        """Take as many graphics cards as were asked for, waiting for other jobs' to become free.

        Yields:
            A value for CUDA_VISIBLE_DEVICES; None leaves it as it is.

        """
        wanted, cards = self.about["gpus"], self.about["devices"]
        if wanted is None or self.about["scheduler"]:
            yield None
            return
        if wanted and cards is None:
            cards = _cards()
        if wanted > len(cards or ()):
            raise RemoteError(f"{wanted} graphics cards asked for, and there are {len(cards or ())}")
        with contextlib.ExitStack() as held:
            free = self._free(wanted, cards or (), held)
            while len(free) < wanted and not self.ended:
                time.sleep(LOOK_SECONDS)
                self.reporter.alive()
                free = self._free(wanted, cards, held)
            yield ",".join(map(str, free))

    def _free(self, wanted: int, cards: list[int], held: contextlib.ExitStack) -> list[int]:
        """Hold the locks of so many cards, or of none."""
        folder = self.folder.parents[1] / "cards"
        folder.mkdir(exist_ok=True)
        with contextlib.ExitStack() as mine:
            free = []
            for card in cards:
                if len(free) == wanted:
                    break
                with contextlib.suppress(Timeout):
                    mine.enter_context(FileLock(folder / f"{card}.lock", timeout=0))
                    free.append(card)
            if len(free) == wanted:
                held.enter_context(mine.pop_all())
                return free
        return []

    def _payload(self, devices: str | None) -> str | None:
        """Run the command of the entry point; give the reason why it failed, if it did."""
        if self.ended:
            return "ended before it began"
        environment = {
            **os.environ,
            **self.about["variables"],
            "MLFLOW_RUN_ID": self.about["run_id"],
            # what is missing and has not changed is fetched, or not needed
            "DVC_REPRO_OPTIONS": "--pull --allow-missing",
        }
        if devices is not None:
            # nvidia-smi's numbers
            environment |= {"CUDA_VISIBLE_DEVICES": devices or "-1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        settings = {
            "cache.dir": str(self.folder.parents[1] / "cache"),
            "cache.type": "reflink,hardlink,copy",
            **self.about["dvc"],
        }
        configure(self.work, settings)
        pulled = list(self.about["needed"])
        if dvc_locks.files_are_elsewhere(self.work):
            environment["HISTOCAE_FILES"] = "elsewhere"
            pulled.append("data/inventory.csv")
        lines = ["set -e", *([shlex.join(["dvc", "pull", *pulled])] if pulled else []), self.about["command"]]
        with subprocess.Popen(
            ["bash", "-c", "\n".join(lines)],
            cwd=self.work,
            env=environment,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
        ) as process:
            write_json({"session": process.pid, "node": platform.node()}, self.folder / "payload.json")
            reason = self._watch(process)
            _end(process.pid)
        if reason is None and process.returncode:
            reason = f"exit code {process.returncode}: {_last_line(self.folder / LOG)}"
        return reason

    def _watch(self, process: subprocess.Popen) -> str | None:
        """Wait for the end of the command within its bounds; give the reason why it was ended, if it was."""
        start = told = time.monotonic()
        # a scheduler keeps to them by itself
        seconds, most = (None, None) if self.about["scheduler"] else (self.about["seconds"], self.about["bytes"])
        over_time = f"ended at its limit of {self.about['time']}"
        while process.poll() is None:
            time.sleep(LOOK_SECONDS)
            if self.ended:
                return over_time if self.late else "ended by a signal"
            if seconds is not None and time.monotonic() - start > seconds:
                return over_time
            if most is not None and (used := _memory(process.pid)) > most:
                return f"ended at its limit of {self.about['memory']}: it used {used / 2**30:.1f}G"
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                self.reporter.alive(self.folder / LOG)
        return None

    def _push(self, changed: dvc_locks.Changes) -> str | None:
        """Push what was made to DVC's remote; give the reason why that failed, if it did."""
        for _ in range(PUSHES):
            done = subprocess.run(["dvc", "push", *dvc_locks.targets(changed)], cwd=self.work, check=False)
            if done.returncode == 0:
                return None
        last = _last_line(self.folder / LOG)
        return f"dvc push failed ({last}); what was made lies in {self.work}, `dvc push` there sends it"

    def _over(self, reason: str | None, changed: dvc_locks.Changes) -> int:
        cancelled = reason is not None and self.reporter.has(CANCELLED)
        status = "FINISHED" if reason is None else "KILLED" if cancelled else "FAILED"
        log.info("%s", "done" if reason is None else f"{status.lower()}: {reason}")
        # what a look takes where the server stays away
        write_json({"status": status, "reason": reason, "changed": changed}, self.folder / END)
        try:
            self.reporter.end(status, reason, changed, self.folder / LOG)
        except TrackingError as error:
            log.error("%s; the next look at the job tells how it ended", error)
        (self.folder / "job.json").unlink(missing_ok=True)  # it holds credentials
        try:
            self._keep_checkpoints(reason is not None)
        except OSError as error:
            log.warning("what the training reached is not kept: %s", error)
        if reason is None:
            shutil.rmtree(self.folder / "work", ignore_errors=True)
            branch = f"refs/heads/jobs/{self.about['run_id']}"  # which kept its commit
            repository = self.folder.parents[1] / "repository.git"
            subprocess.run(["git", "-C", str(repository), "update-ref", "-d", branch], check=False)
        return 0 if reason is None else 1

    def clean_up(self) -> int:
        """End what a killed supervisor left running, and tell of it; or again what the supervisor would have told."""
        with contextlib.suppress(HistocaeError):
            payload = read_json(self.folder / "payload.json")
            if payload["node"] == platform.node():
                _end(payload["session"])
        with contextlib.suppress(HistocaeError):
            end = read_json(self.folder / END)
            return self._over(end["reason"], end["changed"])
        return self._over("killed", {})


def configure(project: Path, settings: dict[str, str]) -> None:
    """Write settings of DVC that are for this machine alone, as `dvc config --local` does.

    They may hold passwords, which would stand on that command's line for all to read.
    """
    path = project / ".dvc/config.local"
    os.umask(0o077)
    config = ConfigObj(str(path), list_values=False)
    for name, value in settings.items():
        section, _, key = name.rpartition(".")
        kind, _, remote = section.partition(".")
        config.setdefault(f'{kind} "{remote}"' if remote else kind, {})[key] = value
    config.filename = None  # so that it gives its lines
    write_text("\n".join([*config.write(), ""]), path)
    path.chmod(0o600)


def _cards() -> list[int]:
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [int(line) for line in listed.split()]


def _memory(session: int) -> int:
    """Add up what processes of a session hold of memory, what they share divided among them, in bytes."""
    used = 0
    for process in _session(session):
        with contextlib.suppress(psutil.Error):
            held = process.memory_full_info()
            used += held.pss
    return used


def _session(session: int) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if os.getsid(process.pid) == session:
                yield process


def _end(session: int) -> None:
    """End what is left of a session: asked first, then killed."""
    left = list(_session(session))
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, left = psutil.wait_procs(left, GRACE_SECONDS)
    for process in [*left, *_session(session)]:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _last_line(path: Path) -> str:
    with open(path, "rb") as handle:
        _seek_back(handle, 4096)
        lines = handle.read().decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _seek_back(handle: IO[bytes], most: int) -> None:
    handle.seek(0, os.SEEK_END)
    handle.seek(max(0, handle.tell() - most))


def main(arguments: list[str]) -> int:
    """Run the job of a file."""
    logging.basicConfig(format="%(asctime)s job: %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("histocae").setLevel(logging.INFO)
    path = Path(arguments[-1])
    about = json.loads(path.read_text(encoding="utf-8"))
    os.environ.update(about["variables"])
    supervisor = Supervisor(about, path.parent)
    return supervisor.clean_up() if "--clean-up" in arguments else supervisor.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
