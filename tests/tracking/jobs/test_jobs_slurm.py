"""Jobs on a real Slurm of one node on this machine: make test-remote."""

import os
import signal
import subprocess

import pytest

from support import services
from support.laboratory import Laboratory, laboratory

pytestmark = [
    pytest.mark.remote,
    pytest.mark.skipif(services.SLURM not in os.environ, reason="no Slurm: make test-remote starts one, as root"),
]
BACKEND = "histocae-slurm"


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Laboratory:
    with laboratory(tmp_path_factory.mktemp("laboratory")) as new_lab:
        yield new_lab


def queue(*options: str) -> str:
    return subprocess.run(["squeue", "--noheader", *options], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("by_ssh", [False, True])
def test_a_training_on_a_cluster_gives_the_lock_file_of_a_local_training(lab, by_ssh):
    model = "tumor" if by_ssh else "all"
    login = {"host": lab.ssh.alias, "ssh_config": str(lab.ssh.config)} if by_ssh else {}
    if by_ssh:
        login["setup"] = f"export SLURM_CONF={os.environ['SLURM_CONF']}"
    output, job = lab.send("train", f"model={model}", backend=BACKEND, partition="main", time="0:10:00", **login)
    assert "epoch 2/2" in output and job.info.status == "FINISHED"
    assert job.data.tags["job.id"].isdecimal() and job.data.tags["mlflow.project.backend"] == BACKEND
    (training,) = lab.children(job.info.run_id)
    assert training.info.status == "FINISHED" and "epoch 2/2" in lab.log_of(job.info.run_id)
    lab.run("dvc", "pull", f"train@{model}")
    assert f"Stage 'train@{model}' didn't change, skipping" in lab.run("dvc", "repro", f"train@{model}")
    lab.commit("the training")


def test_resources_reach_the_scheduler(lab):
    options = ["--comment=from-the-config"]
    run_id = lab.hold(BACKEND, gpus=1, cpus=2, memory="500M", time="0:05:00", partition="main", options=options)
    job = lab.client.get_run(run_id).data.tags["job.id"]
    listing = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
    expected = (
        "NumCPUs=2",
        "MinMemoryNode=500M",
        "TimeLimit=00:05:00",
        "Partition=main",
        "gres:gpu:1",
        "Comment=from-",
    )
    assert [setting for setting in expected if setting not in listing] == [], listing
    assert "devices 0" in (lab.box / "jobs" / run_id / "job.log").read_text()  # as the scheduler set them
    # the only card is in use: another job waits, and can be canceled while it waits
    waiting = lab.send("hold", backend=BACKEND, wait=False, gpus=1)[1].info.run_id
    assert "SCHEDULED" in next(
        line for line in lab.run("histocae", "jobs").splitlines() if line.startswith(waiting[:8])
    )
    lab.run("histocae", "jobs", "cancel", waiting)
    assert lab.client.get_run(waiting).info.status == "KILLED"
    lab.run("histocae", "jobs", "cancel", run_id)
    assert lab.client.get_run(run_id).info.status == "KILLED"
    lab.until(lambda: not queue())


def test_a_job_over_its_time_limit_is_marked_before_the_scheduler_kills_it(lab):
    _, job = lab.send("hold", backend=BACKEND, fails=True, time="0:01:00")
    assert job.info.status == "FAILED" and job.data.tags["job.reason"] == "ended at its limit of 0:01:00"
    assert "holding" in lab.log_of(job.info.run_id)


def test_a_job_canceled_by_the_scheduler_reports_the_signal(lab):
    run_id = lab.hold(BACKEND)
    subprocess.run(["scancel", lab.client.get_run(run_id).data.tags["job.id"]], check=True)
    run = lab.end_of(run_id)
    assert run.info.status == "FAILED" and run.data.tags["job.reason"] == "ended by a signal"


def test_the_next_poll_marks_a_job_of_a_node_that_died_as_failed(lab):
    run_id = lab.hold(BACKEND)
    for process in lab.processes(run_id):
        os.kill(process, signal.SIGKILL)
    lab.until(lambda: not queue())
    lab.run("histocae", "jobs")
    run = lab.client.get_run(run_id)
    assert run.info.status == "FAILED" and "no longer there" in run.data.tags["job.reason"]


def test_an_error_of_sbatch_is_reported_in_one_line(lab):
    output, job = lab.send("hold", backend=BACKEND, fails=True, partition="nowhere")
    assert "Invalid partition name specified" in output and "Traceback" not in output
    assert job.info.status == "FAILED" and "not sent: " in job.data.tags["job.reason"]


def test_models_of_a_sweep_train_at_once(lab):
    lab.project.set(
        models={
            name: {"cohort": "all", "filters": [4], "latent_features": count, "epochs": 1}
            for name, count in (("first", 8), ("second", 4))
        }
    )
    lab.commit("models")
    lab.run("histocae", "sweep", BACKEND, str(lab.config(BACKEND)))
    first, second = (job.info for job in lab.jobs()[:2])
    assert max(first.start_time, second.start_time) < min(first.end_time, second.end_time)
    output = lab.run("dvc", "repro", "--pull", "train@first", "train@second")
    assert "Running stage 'train" not in output
