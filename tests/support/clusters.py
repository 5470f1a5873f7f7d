"""Clusters for tests: a running Dask cluster with workers in processes of their own, and jobs of Slurm."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support import services
from support.workspace import ROOT

SLURM = {"cores": 1, "memory": "1G", "time": "0:10:00", "partition": "main"}
on_slurm = [
    pytest.mark.remote,
    pytest.mark.skipif(services.SLURM not in os.environ, reason="no Slurm: make test-remote starts one, as root"),
]


@contextmanager
def dask(folder: Path, **env: str) -> Iterator[str]:
    """Start a scheduler and two workers, as an administrator would; yield the scheduler's address."""
    port = services.free_port()
    address = f"tcp://127.0.0.1:{port}"
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])} | env
    with ExitStack() as started:
        command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", str(port), "--no-dashboard"]
        started.enter_context(services.running([*command, "--host", "127.0.0.1"], folder, "scheduler", **path))
        services.wait_for(lambda: services.is_listening(port), "dask scheduler")
        command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
        started.enter_context(services.running([*command, "--nworkers", "2"], folder, "workers", **path))
        yield address


def queue() -> bytes:
    """List the jobs that wait or run."""
    return subprocess.run(["squeue", "--noheader"], capture_output=True, check=True).stdout
