"""`histocae score` on Dask workers writes the same bytes as in one process, also if a worker dies."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pandas as pd
import pytest
from distributed import Client

from histocae.scoring import command
from support import registered, services
from support.clusters import SLURM, dask, on_slurm, queue
from support.registered import Registered
from support.workspace import command as run

SLIDES = ("s0", "s1", "s2", "s3")
JOBS = SLURM | {"memory": "3G"}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Registered:
    """A project with registered models, which tests only read."""
    with pytest.MonkeyPatch.context() as patch:
        return registered.make(tmp_path_factory.mktemp("registered") / "project", patch)


@pytest.fixture
def here(project, tmp_path, monkeypatch, in_process) -> Path:
    """A working directory with a damaged slide among good ones; the environment names the tracking server."""
    registered.enter(project, monkeypatch)
    (tmp_path / "here/in").mkdir(parents=True)
    for name in SLIDES:
        shutil.copy(project.own / f"{name}.tif", tmp_path / "here/in")
    (tmp_path / "here/in/damaged.tif").write_bytes((project.own / "s4.tif").read_bytes()[:50_000])
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(command, "_MODELS", {})
    return tmp_path / "here"


def score(out: str, *options: object) -> list[str]:
    """Score the slides, whose folder and that of the results are relative paths; return the lines of the log."""
    result = run(" ".join(["score", "in", "--out", out, "--model", "histocae-all", *map(str, options)]))
    assert result.code == 0, result.lines
    assert list(pd.read_csv(f"{out}/set_aside.csv")["slide_id"]) == ["damaged"]
    return result.lines


def in_words(slurm: dict) -> str:
    """Write settings of Slurm as JSON without spaces, since `run` divides words at spaces."""
    return json.dumps(slurm, separators=(",", ":"))


def contents(folder: Path, out: str) -> dict[str, bytes]:
    """Read all results, without the hidden folder of models."""
    files = {path.relative_to(folder / out): path for path in (folder / out).rglob("*") if path.is_file()}
    found = {str(name): path.read_bytes() for name, path in files.items() if name.parts[0] != ".models"}
    assert {f"{name}/patches.parquet" for name in SLIDES} <= set(found)
    assert not [name for name in found if Path(name).name.endswith((".part", ".former"))]
    return found


def kill_a_busy_worker(address: str, killed: list[str]) -> None:
    with Client(address, set_as_default=False) as client:
        services.wait_for(lambda: any(client.processing().values()), "a slide")
        worker = next(name for name, tasks in client.processing().items() if tasks)
        os.kill(client.run(os.getpid, workers=[worker])[worker], signal.SIGKILL)
    killed.append(worker)


def test_a_running_cluster_scores_the_same_bytes_also_if_a_worker_dies(here, tmp_path):
    score("one", "--latents", "--export", "all")
    (tmp_path / "elsewhere").mkdir()
    with dask(tmp_path / "elsewhere") as address:
        cluster, killed = ("--executor", "dask", "--scheduler", address), list[str]()
        killer = Thread(target=kill_a_busy_worker, args=(address, killed))
        killer.start()
        score("many", "--latents", "--export", "all", *cluster)
        killer.join()
        assert killed and contents(here, "many") == contents(here, "one")
        shutil.rmtree("many/s2")
        lines = score("many", "--latents", "--export", "all", *cluster)
        assert len([line for line in lines if line.endswith("by an earlier call")]) == len(SLIDES) - 1
        assert contents(here, "many") == contents(here, "one")
        # the running scheduler has the default port of Dask's pages
        score("local", "--latents", "--export", "all", "--executor", "dask", "--workers", "1")
        assert contents(here, "local") == contents(here, "one")
    assert {path.name for path in here.iterdir()} == {"in", "one", "many", "local"}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no files that only one process sees")
def test_a_path_that_workers_do_not_see_ends_the_command(here, tmp_path):
    with dask(tmp_path) as address, open("in/s0.tif", "rb") as opened:
        os.dup2(opened.fileno(), 200)
        try:
            mine = Path("/proc/self/fd/200")
            message = run(f"score {mine} --model histocae-all --executor dask --scheduler {address}").error
        finally:
            os.close(200)
    assert f"{mine}: the worker on {os.uname().nodename} does not see it; all workers need the slides" in message
    assert not Path("scores/set_aside.csv").exists()


def test_results_that_are_not_here_end_the_command(here, monkeypatch):
    """As those of a worker with a folder of its own under the same path."""
    written = command.results.write

    def write_elsewhere(*given: object) -> command.Result:
        result = written(*given)
        result.folder.rename(here / "of the worker")
        return result

    monkeypatch.setattr(command.results, "write", write_elsewhere)
    message = run("score in/s0.tif --model histocae-all").error
    assert "scores/s0: a worker wrote it, and it is not here; choose a shared folder by --out" in message


def test_a_slide_that_is_deleted_meanwhile_is_set_aside(here, monkeypatch):
    work = command._work

    def delete_first(task: command._Task) -> object:
        task.given.paths[0].unlink()
        return work(task)

    monkeypatch.setattr(command, "_work", delete_first)
    message = run("score in/s0.tif --model histocae-all").error
    assert f"no slide could be scored: s0: can't be read: {here / 'in/s0.tif'} is no longer there" in message


def test_an_unreachable_cluster_is_reported_by_the_name_of_the_option(here, monkeypatch):
    monkeypatch.setattr("histocae.workers.dask_cluster.CONNECT_SECONDS", 1)
    address = f"tcp://127.0.0.1:{services.free_port()}"
    message = run(f"score in --model histocae-all --executor dask --scheduler {address}").error
    assert f"histocae score: --scheduler: {address} is unreachable: " in message
    assert message.endswith("; start it, or correct the address")


class TestSlurm:
    pytestmark = on_slurm

    def test_two_jobs_score_the_same_bytes_as_one_process(self, here):
        score("one", "--latents")
        score("many", "--latents", "--executor", "dask", "--workers", "2", "--slurm", in_words(JOBS))
        assert contents(here, "many") == contents(here, "one")
        assert len(list((here / ".histocae/dask").glob("*.out"))) == 2
        services.wait_for(lambda: not queue(), "the end of the jobs")

    def test_slurms_reason_why_jobs_wait_is_reported(self, here):
        """Slurm takes jobs that ask for more time than their partition gives, and never starts them."""
        options = ["--executor", "dask", "--slurm", in_words(JOBS | {"time": "20:00:00"})]
        words = [Path(sys.executable).with_name("histocae"), "score", "in", "--model", "histocae-all", *options]
        interruptible = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
        with open("log", "w") as log:
            scoring = subprocess.Popen(words, stderr=log, **interruptible)
        try:
            reason = "waiting for workers (Slurm's reason: PartitionTimeLimit)"
            services.wait_for(lambda: reason in Path("log").read_text(), "the reason", scoring)
        finally:
            scoring.send_signal(signal.SIGINT)
        assert scoring.wait(60) == 130 and not list(Path(".histocae/dask").glob("*keys-*"))
        services.wait_for(lambda: not queue(), "the end of the jobs")

    def test_an_error_of_slurm_is_reported_by_the_name_of_the_option(self, here):
        slurm = in_words(JOBS | {"partition": "nowhere"})
        message = run(f"score in --model histocae-all --executor dask --slurm {slurm}").error
        assert "histocae score: --slurm: " in message and "invalid partition" in message
