"""Work on Dask workers writes the same bytes as work in processes, also if workers die."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from distributed import Client, Security

from histocae.evaluation import reconstruction
from histocae.workers import processes
from support import services, tasks
from support.clusters import SLURM, dask, on_slurm, queue
from support.workspace import ALL_STAGES, ROOT, Workspace


def refuses_clients_without_keys(params: processes.ExecutorParams) -> bool:
    """Check that clients without the scheduler's keys cannot connect to it."""
    with processes.held(params):
        ((_, address),) = processes.spread(tasks.scheduler_address, [0], params, "tests", "tasks")
        assert address.startswith("tls://")
        for client_address, keys in ((address.replace("tls", "tcp"), None), (address, Security.temporary())):
            with pytest.raises(OSError, match=r"Timed out|reset by peer|TLS certificate"):
                Client(client_address, security=keys, timeout=1)
    return True


@pytest.fixture
def extracted_project(new_project) -> Workspace:
    """A project whose patches were extracted by processes."""
    workspace = new_project("processes")
    workspace.slides("a", "b", "c", "d")
    workspace.make(*ALL_STAGES[:-1])
    return workspace


def dask_project(new_project, **params: object) -> Workspace:
    """Make the same project for Dask, as the working directory."""
    project = new_project("dask")
    project.slides("a", "b", "c", "d")
    project.params(executor__kind="dask", **params)
    return project


def same_outputs(first: Workspace, second: Workspace) -> bool:
    return first.outputs("data", "reports") == second.outputs("data", "reports")


def test_local_dask_workers_write_the_same_bytes_as_processes(extracted_project, new_project):
    project = dask_project(new_project, executor__workers=2)
    project.make(*ALL_STAGES[:-1])
    assert len(project.index) > 0 and same_outputs(extracted_project, project)
    assert not project.leftovers()


def test_local_dask_refuses_clients_without_keys(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refuses_clients_without_keys(
        processes.ExecutorParams(kind="dask", workers=1, devices=1, scheduler=None, slurm=None)
    )


def test_a_running_cluster_is_used_and_loses_no_slide_when_a_worker_dies(extracted_project, new_project, tmp_path):
    with dask(tmp_path) as address:
        project = dask_project(new_project, executor__scheduler=address)
        project.make(*ALL_STAGES[:-1])
        assert len(project.index) > 0 and same_outputs(extracted_project, project)
        params = processes.ExecutorParams(kind="dask", workers=None, devices=1, scheduler=address, slurm=None)
        arguments = [(str(tmp_path), number) for number in range(6)]
        results = dict(processes.spread(tasks.kill_worker, arguments, params, "tests", "tasks"))
        assert isinstance(results.pop(1), processes.WorkerDiedError)
        assert results == {0: 0, 2: 2, 3: 3, 4: 4, 5: 5} and (tmp_path / "2").exists()


def test_an_unreachable_cluster_or_other_code_on_its_workers_is_reported(new_project, tmp_path, monkeypatch):
    monkeypatch.setattr("histocae.workers.dask_cluster.CONNECT_SECONDS", 1)
    project = dask_project(new_project, executor__scheduler=f"tcp://127.0.0.1:{services.free_port()}")
    message = project.run("inventory", "metadata", "slides").error
    assert "executor.scheduler: tcp://127.0.0.1:" in message and "is unreachable" in message
    monkeypatch.undo()
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr("histocae.workers.dask_cluster.code", lambda: "another")
    with dask(tmp_path) as address:
        project.params(executor__kind="dask", executor__scheduler=address)
        message = project.run("inventory", "metadata", "slides").error
    assert "the Dask worker on " in message and "than this process; start workers" in message


@pytest.fixture
def trained_project(project, monkeypatch) -> tuple[Workspace, dict[str, bytes]]:
    """A project with a model that one process evaluated in small parts, and the outputs of the evaluation."""
    monkeypatch.setattr("histocae.evaluation.inference.PART", 2 * reconstruction.BATCH)
    project.slides(*(f"s{number}" for number in range(12)))
    project.params(models={"all": {"filters": [4], "latent_features": 8}}, training__epochs=1)
    project.make(*ALL_STAGES, "train all", "evaluate all")
    assert len(project.index) > 300
    return project, project.outputs("models/latents", "reports/models")


def test_workers_evaluate_and_encode_with_a_model_as_one_process_does(trained_project):
    project, before = trained_project
    shutil.rmtree("models/latents")
    project.params(
        models={"all": {"filters": [4], "latent_features": 8}},
        training__epochs=1,
        executor__kind="dask",
        executor__workers=2,
    )
    project.make("evaluate all")
    assert project.outputs("models/latents", "reports/models") == before


def test_ctrl_c_ends_work_on_dask_as_interrupted_not_as_done(project, tmp_path):
    """A library that Dask's jobs need would end the process with exit code 0."""
    project.slides("a", "b", "c", "d")
    project.make(*ALL_STAGES[:-2])
    project.params(executor__kind="dask", executor__workers=2)
    command = [sys.executable, "-c", "import sys; from histocae.cli import main; sys.exit(main())", "patches"]
    interruptible = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    keys = tmp_path / "temporary"
    keys.mkdir()
    options = {"cwd": project.folder, "env": os.environ | {"TMPDIR": str(keys)}, **interruptible}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options) as stage:
        services.wait_for(lambda: list(keys.glob("histocae-keys-*")), "dask")
        stage.send_signal(signal.SIGINT)
        lines = stage.communicate(timeout=60)[1].splitlines()
    assert stage.returncode == 130 and lines[-1] == "histocae patches: interrupted", lines
    assert not [line for line in lines[:-1] if "patches of 4 slides to extract" not in line]
    assert not list(keys.glob("histocae-keys-*"))


def test_conflicting_params_are_reported(project):
    project.params(executor__kind="dask", executor__scheduler="tcp://127.0.0.1:1", executor__slurm=SLURM)
    assert "executor: scheduler names a running cluster, slurm starts one" in project.run("metadata").only_line
    project.params(executor__scheduler="127.0.0.1")
    assert "executor.scheduler: " in project.run("metadata").only_line
    project.params(executor__slurm={"cores": 1, "memory": "much", "time": "0:10:00"})
    assert "executor.slurm.memory: " in project.run("metadata").only_line


class TestSlurm:
    pytestmark = on_slurm

    def test_two_jobs_write_the_same_bytes_as_processes(self, extracted_project, new_project):
        project = dask_project(new_project, executor__workers=2, executor__slurm=SLURM)
        project.make(*ALL_STAGES[:-1])
        assert len(project.index) > 0 and same_outputs(extracted_project, project)
        assert len(list((project.folder / ".histocae/dask").glob("*.out"))) == 4  # two jobs of slides, two of patches
        services.wait_for(lambda: not queue(), "the end of the jobs")

    def test_jobs_refuse_clients_without_keys(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        slurm = SLURM | {"setup": f'export PYTHONPATH="{ROOT / "tests"}"'}
        params = processes.ExecutorParams(kind="dask", workers=1, devices=1, scheduler=None, slurm=slurm)
        assert refuses_clients_without_keys(params)
        assert not list((tmp_path / ".histocae/dask").glob("*keys-*"))
        services.wait_for(lambda: not queue(), "the end of the jobs")

    def test_a_killed_worker_loses_no_slide(self, extracted_project, new_project):
        project = dask_project(new_project, executor__workers=2, executor__slurm=SLURM)
        project.make(*ALL_STAGES[:-2])
        services.wait_for(lambda: not queue(), "the end of the jobs")
        command = [Path(sys.executable).with_name("histocae"), "patches"]
        stage = subprocess.Popen(command, cwd=project.folder)
        try:
            killed = kill_a_worker(stage)
            assert stage.wait(120) == 0 and killed
        finally:
            stage.kill()
        assert len(project.index) > 0 and same_outputs(extracted_project, project)

    def test_jobs_evaluate_and_encode_with_a_model_as_one_process_does(self, trained_project):
        project, before = trained_project
        shutil.rmtree("models/latents")
        project.params(
            models={"all": {"filters": [4], "latent_features": 8}},
            training__epochs=1,
            executor__kind="dask",
            executor__workers=2,
            executor__slurm=SLURM | {"memory": "3G"},
        )
        project.make("evaluate all")
        assert project.outputs("models/latents", "reports/models") == before

    def test_an_error_of_slurm_is_reported(self, new_project):
        project = dask_project(new_project, executor__slurm=SLURM | {"partition": "nowhere"})
        message = project.run("inventory", "metadata", "slides").error
        assert "executor.slurm: " in message and "invalid partition" in message

    def test_jobs_that_end_at_once_are_reported(self, new_project):
        project = dask_project(new_project, executor__slurm=SLURM | {"setup": "exit 1"})
        message = project.run("inventory", "metadata", "slides").error
        assert "all jobs of Slurm have ended before the work was done: see .histocae/dask" in message


def kill_a_worker(stage: subprocess.Popen) -> bool:
    """Kill the first worker that has started; return whether there was one."""
    while stage.poll() is None:
        for process in psutil.process_iter():
            try:
                arguments = process.cmdline()
            except psutil.Error:
                continue
            if "distributed.cli.dask_worker" in arguments:
                for child in process.children():
                    os.kill(child.pid, signal.SIGKILL)
                    return True
        time.sleep(0.1)
    return False
