"""A laboratory on this machine: a project, a machine reached by ssh, a tracking server, a DVC remote."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from support import services
from support.project import ROOT, Project

# entry points that replace a training: a long one, one that needs much memory, and one that fails
ENTRIES = {
    "hold": 'echo holding; echo "devices $CUDA_VISIBLE_DEVICES"; sleep 600',
    "eat": "python -c \"x = b'x' * 3 * 10**8; import time; time.sleep(600)\"",
    "fail": "echo it went wrong; exit 3",
}


class Laboratory:
    """The project, with its outputs up to the split pushed; `box` is the folder on the other machine."""

    def __init__(self, top: Path, box: services.Sshd, uri: str):
        self.top, self.ssh, self.uri, self.box = top, box, uri, top / "box"
        self.project = Project(top / "project")
        self.client = MlflowClient(uri)
        for name in ("requirements.lock", "Makefile", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, self.project.folder / name)
        spec = yaml.safe_load((self.project.folder / "MLproject").read_text())
        spec["entry_points"] |= {name: {"command": command} for name, command in ENTRIES.items()}
        (self.project.folder / "MLproject").write_text(yaml.safe_dump(spec))
        self.run("dvc", "remote", "add", "-d", "store", str(top / "store"))
        self.run("dvc", "repro", "split")
        self.run("dvc", "push")
        self.commit("pushed outputs")
        self._link_environment()

    def _link_environment(self) -> None:
        """Link the tests' environment on the other machine: to make a new one takes minutes."""
        lock = (self.project.folder / "requirements.lock").read_bytes()
        version = "%d.%d\n" % sys.version_info[:2]  # noqa: UP031 (as Python on the other machine prints it)
        name = hashlib.sha256(lock + version.encode()).hexdigest()[:16]
        folder = self.box / "environments"
        folder.mkdir(parents=True)
        (folder / name).symlink_to(sys.prefix)

    def run(self, *command: str, fails: bool = False, **env: str) -> str:
        """Run a command in the project, with the laboratory's server."""
        # records of where jobs run, apart from those of the user who runs the tests
        state = str(self.top / "state")
        return self.project.run(*command, fails=fails, MLFLOW_TRACKING_URI=self.uri, XDG_STATE_HOME=state, **env)

    def commit(self, message: str) -> None:
        """Commit everything."""
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message, "--allow-empty")

    def config(self, backend: str = "histocae-ssh", **keys: object) -> Path:
        """Write a backend config."""
        config = {"folder": str(self.box), "python": sys.executable, **keys}
        if backend == "histocae-ssh":
            config = {"host": self.ssh.alias, "ssh_config": str(self.ssh.config), **config}
        path = self.top / "config.json"
        path.write_text(json.dumps(config))
        return path

    def send(
        self, entry: str, *params: str, backend: str = "histocae-ssh", fails: bool = False, **config: object
    ) -> tuple[str, Run]:
        """Run `mlflow run`; return its output and the job's run."""
        file = self.config(backend, **config)
        options = [word for param in params for word in ("-P", param)]
        output = self.run(
            "mlflow",
            "run",
            ".",
            "-e",
            entry,
            *options,
            "--backend",
            backend,
            "--backend-config",
            str(file),
            fails=fails,
        )
        return output, next(iter(self.jobs()), None)

    def hold(self, backend: str = "histocae-ssh", **config: object) -> str:
        """Send a job that runs until it is killed, and wait until it runs; return the id of its run."""
        run_id = self.send("hold", backend=backend, wait=False, **config)[1].info.run_id
        log = self.box / "jobs" / run_id / "job.log"
        self.until(lambda: log.is_file() and "holding" in log.read_text())
        return run_id

    def jobs(self) -> list[Run]:
        """List the runs of all jobs, the newest first."""
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        return self.client.search_runs(
            experiments, "tags.`job.backend` LIKE 'histocae-%'", order_by=["start_time DESC"]
        )

    def children(self, run_id: str) -> list[Run]:
        """List the runs whose parent is a run."""
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        return self.client.search_runs(experiments, f"tags.parent = '{run_id}'")

    def end_of(self, run_id: str) -> Run:
        """Wait until a run has its final status."""
        self.until(lambda: self.client.get_run(run_id).info.status in ("FINISHED", "FAILED", "KILLED"))
        return self.client.get_run(run_id)

    def log_of(self, run_id: str) -> str:
        """Read the log of a job that was uploaded to its run."""
        return Path(self.client.download_artifacts(run_id, "job/job.log")).read_text()

    @staticmethod
    def until(ready: Callable[[], bool], seconds: float = 120) -> None:
        """Wait until a condition holds."""
        start = time.monotonic()
        while not ready():
            assert time.monotonic() - start < seconds, f"not within {seconds} s"
            time.sleep(0.2)

    def processes(self, run_id: str) -> list[int]:
        """List the processes of a job: job.sh, the supervisor, and those of the command."""
        listing = subprocess.run(["pgrep", "-f", f"jobs/{run_id}/job"], capture_output=True, text=True, check=False)
        ids = [int(word) for word in listing.stdout.split()]
        # Slurm runs a copy of the script under another name
        parents = [psutil.Process(process).parent() for process in ids]
        scripts = [
            parent for parent in parents if parent is not None and "slurm_script" in " ".join(parent.cmdline())
        ]
        ids = [script.pid for script in scripts] + ids
        payload = self.box / "jobs" / run_id / "payload.json"
        if payload.is_file():
            session = json.loads(payload.read_text())["session"]
            members = subprocess.run(["pgrep", "-s", str(session)], capture_output=True, text=True, check=False)
            ids += [int(word) for word in members.stdout.split()]
        return [process for process in ids if process != os.getpid()]


@contextmanager
def laboratory(top: Path) -> Iterator[Laboratory]:
    """Start sshd and a tracking server, and make the project."""
    with ExitStack() as started:
        box = started.enter_context(services.sshd(top / "ssh"))
        uri = started.enter_context(services.tracking(top / "tracking"))
        yield Laboratory(top, box, uri)
