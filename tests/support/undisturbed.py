"""A tiny pipeline that ran undisturbed, with a snapshot before each stage, to compare disturbed runs with."""

import csv
import io
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

import psutil
import yaml
from filelock import FileLock

from support.project import Project

TINY = {
    "data.demo.side_microns": 128.0,
    "patches.pixels": 32,
    "training.epochs": 1,
    "latent.clusters": 2,
    "tissue.latents": None,
    "models": {
        "tumor": {"cohort": "tumor", "filters": [2]},
        "normal": {"cohort": "normal", "filters": [2]},
    },
}
DATABASE = "mlflow.db"  # also names the moments in which the database is made
OUTPUTS = ("data", "models", "reports")
SECONDS = 300  # more than any command here takes on a slow machine
_TIMES = {"run_id", "model_id", "training_id", "start", "end", "seconds", "stamps"}


def running_stages(log: Path) -> list[str]:
    """List the stages that a `dvc repro` has started so far, in order; the inventory has a separate dvc.yaml."""
    return re.findall(r"^Running stage '(?:inventory/dvc\.yaml:)?([^']+)'", log.read_text(), re.MULTILINE)


def start(project: Project, *command: str, log: Path, **env: str) -> subprocess.Popen:
    """Start a command in a session of its own; its output goes to a file."""
    with open(log, "wb") as out:
        return subprocess.Popen(
            command,
            cwd=project.folder,
            env=project.environment | {"PYTHONUNBUFFERED": "1"} | env,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def processes(folder: Path) -> list[psutil.Process]:
    """List the processes whose working directory is a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
            continue
    return found


def wait_for_no_process(folder: Path) -> None:
    """Wait until no process works in a folder: the stage of a killed dvc may outlive it."""
    last = time.monotonic() + SECONDS
    while left := processes(folder):
        assert time.monotonic() < last, [process.info for process in left]
        time.sleep(0.1)


def contents(folder: Path) -> dict[str, bytes]:
    """Read all outputs, without ids, times and durations, which differ from run to run."""
    found = {}
    for root in OUTPUTS:
        for path in sorted((folder / root).rglob("*")):
            if path.is_file():
                name = path.relative_to(folder).as_posix()
                found[name] = _without_times(name, path.read_bytes())
    return found


def _without_times(name: str, data: bytes) -> bytes:
    if name.startswith("models/runs/") or name == "models/registered.json":
        return json.dumps(_masked(json.loads(data)), sort_keys=True).encode()
    if name == "reports/comparison.csv":
        rows = csv.DictReader(io.StringIO(data.decode()))
        return "\n".join(str({key: cell for key, cell in row.items() if key != "seconds"}) for row in rows).encode()
    return data


def _masked(value: object) -> object:
    if not isinstance(value, dict):
        return value
    masked = {}
    for key, inner in value.items():
        if key == "dvc.stage":  # a stage may also run without DVC
            continue
        number = len(inner) if isinstance(inner, list) else None
        masked[key] = [key, number, inner is None] if key in _TIMES else _masked(inner)
    return masked


def differences(folder: Path, expected: dict[str, bytes]) -> list[str]:
    """Name the outputs that differ from those expected, are missing, or are there besides them."""
    found = contents(folder)
    return [name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]


def leftovers(folder: Path) -> list[str]:
    """List temporary files in the outputs and in the package's folder, and checkpoints of finished trainings."""
    roots = [folder / name for name in (*OUTPUTS, ".histocae")]
    return [
        path.relative_to(folder).as_posix()
        for root in roots
        for path in root.rglob("*")
        if path.name.endswith((".part", ".former")) or path.parent.name == "checkpoints"
    ]


def stale_locks(folder: Path) -> list[str]:
    """List locks that are held although no process works in the folder.

    DVC's file `rwlock` may name a killed process: DVC removes it when it next needs the path.
    """
    held = []
    for path in [folder / ".dvc/tmp/lock", *(folder / ".histocae/locks").glob("*.lock")]:
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except TimeoutError:
            held.append(path.name)
        else:
            lock.release()
    return held


def repair_dvc(folder: Path) -> bool:
    """Delete what a kill left half-written of DVC's own files; return whether there was anything.

    DVC writes dvc.lock and its list of paths in use in place, and refuses to run while it holds no JSON. It makes
    a folder before the entry of its cache of runs, and fails where the folder is empty. docs/reliability.md names
    both remedies.
    """
    found = [path for path in (folder / ".dvc/cache/runs").glob("*/*") if not any(path.iterdir())]
    for path in found:
        path.rmdir()
    rwlock = folder / ".dvc/tmp/rwlock"
    with suppress(FileNotFoundError):
        try:
            json.loads(rwlock.read_text())
        except ValueError:
            rwlock.unlink()
            found.append(rwlock)
    for lock in (folder / "dvc.lock", folder / "inventory/dvc.lock"):
        if lock.is_file() and not _is_lock(lock):
            lock.unlink()  # DVC restores the outputs of finished stages from its cache
            found.append(lock)
    return bool(found)


def _is_lock(path: Path) -> bool:
    try:
        return "stages" in yaml.safe_load(path.read_text())
    except (TypeError, yaml.YAMLError):
        return False


def tracked(folder: Path) -> dict[str, list]:
    """Read MLflow's database: its runs, the points of each epoch, logged models, and versions in the registry."""
    with closing(sqlite3.connect(f"file:{folder / DATABASE}?mode=ro", uri=True)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        queries = {
            "runs": "SELECT name, status FROM runs WHERE lifecycle_stage = 'active' ORDER BY name, status",
            "points": "SELECT name, key, step, COUNT(*) FROM metrics JOIN runs USING (run_uuid) "
            "WHERE key IN ('loss', 'validation_loss') AND lifecycle_stage = 'active' "
            "GROUP BY run_uuid, key, step ORDER BY name, key, step",
            "models": "SELECT runs.name, logged_models.status FROM logged_models "
            "JOIN runs ON source_run_id = run_uuid WHERE logged_models.lifecycle_stage = 'active' "
            "ORDER BY runs.name",
            "versions": "SELECT name, version FROM model_versions ORDER BY name, version",
            "aliases": "SELECT name, alias, version FROM registered_model_aliases ORDER BY name, alias",
        }
        return {name: database.execute(query).fetchall() for name, query in queries.items()}


class Undisturbed:
    """A project that ran once, and can be set back to the moment before each of its stages.

    Attributes:
        project: whose folder is the same in every run, since MLflow keeps absolute paths.
        target: stage up to which `dvc repro` runs; None for all stages.
        seconds: how long each stage ran; under `DATABASE`, how long MLflow's database was being made.
        contents: the outputs after the last stage.
        tracked: what MLflow had after the last stage.

    """

    def __init__(self, top: Path, target: str | None = None):
        self.top, self.target = top, target
        self.project = Project(top / "project", **TINY)
        self.command = ("dvc", "repro", *([target] if target else []))
        self.seconds: dict[str, float] = {}
        self._run()
        self.contents = contents(self.project.folder)
        self.tracked = tracked(self.project.folder)
        assert not leftovers(self.project.folder)

    def _run(self) -> None:
        """Run the pipeline; stop it at the start of each stage for a snapshot."""
        process = start(self.project, *self.command, log=self.top / "log.txt")
        known, began, made = 0, time.monotonic(), None
        stages: list[str] = []
        while process.poll() is None:
            time.sleep(0.005)
            if made is None and database_begun(self.project.folder):
                made = time.monotonic()
            if made is not None and DATABASE not in self.seconds and _is_complete(self.project.folder / DATABASE):
                self.seconds[DATABASE] = time.monotonic() - made
            stages = running_stages(self.top / "log.txt")
            if len(stages) == known:
                continue
            os.killpg(process.pid, signal.SIGSTOP)
            if known:
                self.seconds[stages[known - 1]] = time.monotonic() - began
            self._save(stages[known])
            known += 1
            os.killpg(process.pid, signal.SIGCONT)
            began = time.monotonic()
        self.seconds[stages[-1]] = time.monotonic() - began
        assert process.returncode == 0, (self.top / "log.txt").read_text()
        assert len(stages) == known, "two stages began within a moment"
        shutil.copytree(self.project.folder / ".dvc/cache", self.top / "cache")

    def _save(self, stage: str) -> None:
        ignored = shutil.ignore_patterns("cache", "rwlock")  # dvc is running, and would find its lock there
        shutil.copytree(self.project.folder, self.top / "snapshots" / stage, symlinks=True, ignore=ignored)

    @property
    def stages(self) -> list[str]:
        """The stages in their order."""
        return [stage for stage in self.seconds if stage != DATABASE]

    @property
    def database_stage(self) -> str:
        """The stage that makes MLflow's database: the first training."""
        return next(stage for stage in self.stages if stage.startswith("train@"))

    def restore(self, stage: str, run_again: Sequence[str] = ()) -> None:
        """Set the project back to the moment before a stage.

        DVC restores later stages from its cache where their inputs are as in the undisturbed run, which saves
        minutes. It does not restore this stage, nor those of `run_again`.
        """
        wait_for_no_process(self.project.folder)
        shutil.rmtree(self.project.folder)
        shutil.copytree(self.top / "snapshots" / stage, self.project.folder, symlinks=True)
        # DVC never changes a file of its cache: hard links save time
        cache = self.project.folder / ".dvc/cache"
        shutil.copytree(self.top / "cache", cache, copy_function=os.link)
        self.forget_runs(stage, *run_again)

    def forget_runs(self, *stages: str) -> None:
        """Delete stages from DVC's cache of runs, from which it restores outputs."""
        commands = {f"cmd: histocae {name.replace('@', ' ')}" for name in stages}
        for folder in (self.project.folder / ".dvc/cache/runs").glob("*/*"):
            if any(commands & set(path.read_text().splitlines()) for path in folder.iterdir()):
                shutil.rmtree(folder)  # the folder too: DVC fails if it is empty

    def faults(self, folder: Path) -> dict[str, object]:
        """Say in what a project differs from the undisturbed one; empty where in nothing."""
        found = {
            "outputs": differences(folder, self.contents),
            "leftovers": leftovers(folder),
            "locks": stale_locks(folder),
            "processes": [process.pid for process in processes(folder)],
            "mlflow": {key: value for key, value in tracked(folder).items() if value != self.tracked[key]},
        }
        return {name: value for name, value in found.items() if value}


def database_begun(folder: Path) -> bool:
    """Whether MLflow's database is there or being made: it is made aside."""
    return (folder / DATABASE).exists() or any(folder.glob(f".{DATABASE}.*.part"))


def _is_complete(database: Path) -> bool:
    """Whether MLflow's database has the project's experiment."""
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=0)) as connection:
            return bool(connection.execute("SELECT 1 FROM experiments WHERE name = 'histocae'").fetchall())
    except sqlite3.OperationalError:
        return False
