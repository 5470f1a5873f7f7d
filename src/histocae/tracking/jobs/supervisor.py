"""Supervise a job where it runs: start it, keep it within its limits, push its outputs, report its end.

job.sh starts `python -m histocae.tracking.jobs.supervisor job.json`; with `--clean-up` after a supervisor was killed.
"""

import contextlib
import logging
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, cast

import psutil
import tenacity
from configobj import ConfigObj
from filelock import FileLock, Timeout

from histocae import paths
from histocae.asides import recover
from histocae.errors import HistocaeError, RemoteError, TrackingError
from histocae.files import read_json, replacing_folder, write_json, write_text
from histocae.remote import dvc_locks
from histocae.tracking.jobs.job_files import DESCRIPTION, LOG, JobDescription, JobEnd, Payload
from histocae.tracking.jobs.job_runs import CANCELLED
from histocae.tracking.jobs.reporter import Reporter

log = logging.getLogger("histocae.tracking.jobs.supervisor")  # which runs as __main__
CHECKPOINTS = "checkpoints"
POLL_SECONDS = 1
REPORT_SECONDS = 20  # between two signs of life
GRACE_SECONDS = 10  # for processes to end; Slurm kills all processes of a job 30 s after its signal
PUSHES = 3


class Supervisor:
    """One job in its folder: `jobs/<run>` of a folder that all jobs share."""

    def __init__(self, description: JobDescription, folder: Path):
        """Prepare; nothing is started.

        Args:
            description: of the job.
            folder: of the job, with job.json and job.log.

        """
        self.description, self.folder, self.shared = description, folder, folder.parents[1]
        self.work = Path(description.project)
        # no lock in the signal handlers: a signal that comes while another is handled would wait for itself
        self.ended = self.late = False
        self.reporter = Reporter(description.run_id)

    def end(self, *_: object) -> None:
        """Handle a signal that ends the job."""
        self.ended = True

    def end_late(self, *_: object) -> None:
        """Handle a scheduler's signal that the job's time is nearly over."""
        self.late = self.ended = True

    def run(self) -> int:
        """Run the job to its end; return the exit code."""
        signal.signal(signal.SIGTERM, self.end)
        signal.signal(signal.SIGINT, self.end)
        signal.signal(signal.SIGUSR1, self.end_late)
        self.reporter.begin()
        before = self._locks_before()
        try:
            self._restore_checkpoints()
            with self._devices() as devices:
                reason = self._run_command(devices)
        except HistocaeError as error:
            reason = str(error)
        except OSError as error:  # a full disk
            reason = f"{error.filename}: {error.strerror}"
        # stages that finished before a failure are results too
        changed = dvc_locks.changes(before, dvc_locks.read(self.work))
        if changed and (problem := self._push(changed)):
            reason, changed = reason or problem, {}
        return self._conclude(reason, changed)

    def _locks_before(self) -> dvc_locks.Locks:
        """Read what DVC's locks held before the first start: a cluster may start a job a second time."""
        path = self.folder / "before.json"
        if not path.is_file():
            write_json(dvc_locks.read(self.work), path)
        return cast("dvc_locks.Locks", read_json(path))

    def _restore_checkpoints(self) -> None:
        """Copy checkpoints that earlier jobs left; a training resumes only from a checkpoint of its own."""
        kept, here = self.shared / CHECKPOINTS, self.work / paths.MAIN.checkpoints
        for name in self.description.models:
            recover(kept / name)
            if (kept / name).is_dir() and not (here / name).exists():
                shutil.copytree(kept / name, here / name)

    def _keep_checkpoints(self, failed: bool) -> None:
        """Keep the checkpoints of unfinished trainings for the next job, and delete those of finished ones."""
        kept, here = self.shared / CHECKPOINTS, self.work / paths.MAIN.checkpoints
        for name in self.description.models:
            if (here / name).is_dir():
                with replacing_folder(kept / name) as folder:
                    shutil.copytree(here / name, folder, dirs_exist_ok=True)
            elif not failed:
                shutil.rmtree(kept / name, ignore_errors=True)

    @contextlib.contextmanager
    def _devices(self) -> Iterator[str | None]:
        """Reserve the job's graphics cards, waiting until other jobs release enough of them.

        Yields:
            A value for CUDA_VISIBLE_DEVICES; None leaves it as it is.

        """
        count = self.description.gpus
        if count is None or self.description.scheduler:
            yield None
            return
        cards = self.description.devices
        if cards is None:
            cards = _cards() if count else []
        if count > len(cards):
            raise RemoteError(f"gpus: {count}, but the machine lets jobs use {len(cards)}")
        with contextlib.ExitStack() as locks:
            reserved = self._reserve(count, cards, locks)
            while len(reserved) < count and not self.ended:
                time.sleep(POLL_SECONDS)
                self.reporter.alive()
                reserved = self._reserve(count, cards, locks)
            yield ",".join(map(str, reserved))

    def _reserve(self, count: int, cards: Collection[int], locks: contextlib.ExitStack) -> list[int]:
        """Lock `count` cards and return their numbers; lock none where fewer are free."""
        folder = self.shared / "cards"
        folder.mkdir(exist_ok=True)
        with contextlib.ExitStack() as attempt:
            free: list[int] = []
            for card in cards:
                if len(free) == count:
                    break
                with contextlib.suppress(Timeout):
                    attempt.enter_context(FileLock(folder / f"{card}.lock", timeout=0))
                    free.append(card)
            if len(free) == count:
                locks.enter_context(attempt.pop_all())
                return free
        return []

    def _run_command(self, devices: str | None) -> str | None:
        """Run the command of the entry point; return the reason of its failure, if it failed."""
        if self.ended:
            return "ended before it began"
        environment = {
            **os.environ,
            **self.description.variables,
            "MLFLOW_RUN_ID": self.description.run_id,
            # files that are missing and did not change are pulled, or not needed
            "DVC_REPRO_OPTIONS": "--pull --allow-missing",
        }
        if devices is not None:
            # the numbers of nvidia-smi
            environment |= {"CUDA_VISIBLE_DEVICES": devices or "-1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        settings = {
            "cache.dir": str(self.shared / "cache"),
            "cache.type": "reflink,hardlink,copy",
            **self.description.dvc,
        }
        configure(self.work, settings)
        pulled = list(self.description.needed)
        if lists := dvc_locks.lists_of_files_elsewhere(self.work):
            environment["HISTOCAE_FILES"] = "elsewhere"
            pulled += lists
        lines = ["set -e", *([shlex.join(["dvc", "pull", *pulled])] if pulled else []), self.description.command]
        with subprocess.Popen(
            ["bash", "-c", "\n".join(lines)],
            cwd=self.work,
            env=environment,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
        ) as process:
            Payload(process.pid, platform.node()).write(self.folder)
            reason = self._wait(process)
            _end(process.pid)
        if reason is None and process.returncode:
            reason = f"exit code {process.returncode}: {_last_line(self.folder / LOG)}"
        return reason

    def _wait(self, process: subprocess.Popen[bytes]) -> str | None:
        """Wait for the end of the command; return the reason why it has to be ended, if it has to be."""
        start = reported = time.monotonic()
        # a scheduler enforces its own limits
        limited = not self.description.scheduler
        seconds, most = self.description.seconds, self.description.bytes
        over_time = f"ended at its limit of {self.description.time}"
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            if self.ended:
                return over_time if self.late else "ended by a signal"
            if limited and seconds is not None and time.monotonic() - start > seconds:
                return over_time
            if limited and most is not None and (used := _memory(process.pid)) > most:
                return f"ended at its limit of {self.description.memory}: it used {used / 2**30:.1f}G"
            if time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                self.reporter.alive(self.folder / LOG)
        return None

    def _push(self, changed: dvc_locks.Changes) -> str | None:
        """Push the outputs to DVC's remote; return the reason if that failed."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(subprocess.CalledProcessError),
            stop=tenacity.stop_after_attempt(PUSHES),
            reraise=True,
        )
        try:
            retrying(subprocess.run, ["dvc", "push", *dvc_locks.targets(changed)], cwd=self.work, check=True)
        except subprocess.CalledProcessError:
            last = _last_line(self.folder / LOG)
            return f"dvc push failed ({last}); the outputs are in {self.work}: run dvc push there"
        return None

    def _conclude(self, reason: str | None, changed: dvc_locks.Changes) -> int:
        """Report how the job ended and clear its folder; return the exit code."""
        canceled = reason is not None and self.reporter.has(CANCELLED)
        status = "FINISHED" if reason is None else "KILLED" if canceled else "FAILED"
        log.info("%s", "done" if reason is None else f"{status.lower()}: {reason}")
        # for the next poll, where the server stays unreachable
        JobEnd(status, reason, changed).write(self.folder)
        try:
            self.reporter.end(status, reason, changed, self.folder / LOG)
        except TrackingError as error:
            log.error("%s; the next poll of the job reports how it ended", error)
        (self.folder / DESCRIPTION).unlink(missing_ok=True)  # it holds credentials
        try:
            self._keep_checkpoints(reason is not None)
        except OSError as error:
            log.warning("the checkpoint of the training is not kept: %s", error)
        if reason is None:
            shutil.rmtree(self.folder / "work", ignore_errors=True)
            branch = f"refs/heads/jobs/{self.description.run_id}"  # kept the commit from git's garbage collection
            repository = self.shared / "repository.git"
            subprocess.run(["git", "-C", str(repository), "update-ref", "-d", branch], check=False)
        return 0 if reason is None else 1

    def clean_up(self) -> int:
        """End the processes that a killed supervisor left, and report the job's end; return the exit code."""
        with contextlib.suppress(HistocaeError):
            payload = Payload.read(self.folder)
            if payload.node == platform.node():
                _end(payload.session)
        with contextlib.suppress(HistocaeError):
            end = JobEnd.read(self.folder)
            return self._conclude(end.reason, end.changed)
        return self._conclude("killed", {})


def configure(project: Path, settings: Mapping[str, str]) -> None:
    """Write DVC's settings of this machine alone, as `dvc config --local` does.

    They may hold passwords, which that command would show to all users of the machine.

    Args:
        project: the folder.
        settings: values by dotted name, as `dvc config` takes them.

    """
    path = project / ".dvc/config.local"
    os.umask(0o077)
    config = ConfigObj(str(path), list_values=False)
    for name, value in settings.items():
        section, _, key = name.rpartition(".")
        kind, _, remote = section.partition(".")
        config.setdefault(f'{kind} "{remote}"' if remote else kind, {})[key] = value
    config.filename = None  # then write() returns the lines
    write_text("\n".join([*config.write(), ""]), path)
    path.chmod(0o600)


def _cards() -> list[int]:
    """List the graphics cards by number, as nvidia-smi does; none where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            return list(range(pynvml.nvmlDeviceGetCount()))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return []


def _memory(session: int) -> int:
    """Add up the memory of all processes of a session, in bytes; processes that share memory split it."""
    used = 0
    for process in _session(session):
        with contextlib.suppress(psutil.Error):
            used += process.memory_full_info().pss
    return used


def _session(session: int) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if os.getsid(process.pid) == session:
                yield process


def _end(session: int) -> None:
    """End the processes of a session: terminate them, and kill those that remain."""
    processes = list(_session(session))
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, remaining = psutil.wait_procs(processes, GRACE_SECONDS)
    for process in [*remaining, *_session(session)]:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _last_line(path: Path) -> str:
    with open(path, "rb") as handle:
        _seek_back(handle, 4096)
        lines = handle.read().decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def _seek_back(handle: IO[bytes], most: int) -> None:
    """Go `most` bytes back from the end of a file, or to its start."""
    handle.seek(0, os.SEEK_END)
    handle.seek(max(0, handle.tell() - most))


def main(arguments: list[str]) -> int:
    """Supervise the job that a job.json describes; return the exit code."""
    logging.basicConfig(format="%(asctime)s job: %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("histocae").setLevel(logging.INFO)
    path = Path(arguments[-1])
    description = JobDescription.read(path)
    os.environ.update(description.variables)
    supervisor = Supervisor(description, path.parent)
    return supervisor.clean_up() if "--clean-up" in arguments else supervisor.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
