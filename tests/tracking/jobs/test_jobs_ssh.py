"""Jobs on a machine reached by ssh: a real sshd, a real tracking server, a real DVC remote, all on this machine."""

import contextlib
import json
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from support import make_data, services
from support.laboratory import Laboratory, laboratory
from support.workspace import slide_row

# too long for `make test`; they need no root
pytestmark = [
    pytest.mark.remote,
    pytest.mark.skipif(services.program("sshd") is None, reason="no sshd here: Debian's openssh-server"),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Laboratory:
    with laboratory(tmp_path_factory.mktemp("laboratory")) as new_lab:
        yield new_lab


@pytest.fixture
def clean(lab):
    """The laboratory; changes of the project are undone after the test."""
    yield lab
    lab.run("git", "checkout", "-q", "--", ".")
    lab.run("git", "clean", "-qfd")


def test_a_training_by_ssh_gives_the_lock_file_of_a_local_training(lab):
    output, job = lab.send("train", "model=all")
    run_id, tags = job.info.run_id, job.data.tags
    assert "epoch 2/2" in output and job.info.status == "FINISHED"
    assert tags["mlflow.source.git.commit"] == lab.run("git", "rev-parse", "HEAD").strip()
    assert tags["mlflow.project.backend"] == "histocae-ssh" and tags["git.dirty"] == "false"
    (training,) = lab.children(run_id)
    assert training.info.status == "FINISHED" and training.data.tags["model"] == "all"
    assert training.data.tags["mlflow.source.git.commit"] == tags["mlflow.source.git.commit"]
    assert training.data.tags["git.dirty"] == "false" and "mlflow.parentRunId" not in training.data.tags
    assert "epoch 2/2" in lab.log_of(run_id)

    assert not (lab.project.folder / "models/trained/all").exists()
    lab.run("dvc", "pull", "train@all")
    repeated = lab.run("dvc", "repro", "train@all")
    assert "Stage 'train@all' didn't change, skipping" in repeated
    assert lab.run("git", "status", "--porcelain").split() == ["M", "dvc.lock"]
    # DVC itself writes the same lock file
    before = (lab.project.folder / "dvc.lock").read_bytes()
    lab.run("dvc", "commit", "-f", "train@all")
    assert (lab.project.folder / "dvc.lock").read_bytes() == before
    lab.commit("the training")

    remaining = {path.name for path in (lab.box / "jobs" / run_id).iterdir()}
    assert not remaining & {"work", "job.json"}  # files and credentials are deleted


def test_uncommitted_changes_are_refused_unless_the_config_sends_them(clean):
    clean.project.set(**{"models.tumor.epochs": 1})
    (clean.project.folder / "src/histocae/note.py").write_text('"""A new module."""\n')
    count = len(clean.jobs())
    output, _ = clean.send("train", "model=tumor", fails=True)
    assert "uncommitted changes: params.yaml; src/histocae/note.py; commit them" in output
    assert "Traceback" not in output and len(clean.jobs()) == count

    output, job = clean.send("train", "model=tumor", dirty="send")
    (training,) = clean.children(job.info.run_id)
    assert training.data.params["training.epochs"] == "1"
    for run in (job, training):
        assert run.data.tags["git.dirty"] == "true"
        assert run.data.tags["mlflow.source.git.commit"] == clean.run("git", "rev-parse", "HEAD").strip()
    assert (clean.project.folder / "src/histocae/note.py").is_file()  # the local working tree is unchanged
    assert "Running stage 'train" not in clean.run("dvc", "repro", "--pull", "train@tumor")


def test_a_job_is_listed_and_canceled_and_its_log_is_printed(lab):
    run_id = lab.hold()
    output = lab.run("histocae", "jobs")
    line = next(line for line in output.splitlines() if line.startswith(run_id[:8]))
    assert "hold" in line and "RUNNING" in line and f"ssh {lab.ssh.alias}" in line
    processes = lab.processes(run_id)
    assert len(processes) >= 3
    assert "KILLED" in lab.run("histocae", "jobs", "cancel", run_id[:10])
    assert lab.client.get_run(run_id).info.status == "KILLED"
    lab.until(lambda: not lab.processes(run_id))
    assert "killed: ended by a signal" in lab.run("histocae", "jobs", "log", run_id, fails=True)
    assert "holding" in lab.log_of(run_id)


def test_a_job_that_receives_many_signals_at_once_ends(lab):
    run_id = lab.hold()
    script, supervisor = lab.processes(run_id)[:2]
    for _ in range(3000):  # some arrive while it handles another signal
        with contextlib.suppress(ProcessLookupError):
            os.kill(supervisor, signal.SIGTERM)
            os.kill(script, signal.SIGTERM)
        time.sleep(0.0002)
    end = lab.end_of(run_id)
    assert end.info.status == "FAILED" and end.data.tags["job.reason"] == "ended by a signal"


def test_a_job_whose_supervisor_is_killed_is_ended_and_marked_as_failed(lab):
    run_id = lab.hold()
    _, supervisor = lab.processes(run_id)[:2]
    os.kill(supervisor, signal.SIGKILL)
    end = lab.end_of(run_id)
    assert end.info.status == "FAILED" and end.data.tags["job.reason"] == "killed"
    lab.until(lambda: not lab.processes(run_id))


def test_the_next_poll_marks_a_job_whose_processes_were_killed_as_failed(lab):
    run_id = lab.hold()
    for process in lab.processes(run_id):
        os.kill(process, signal.SIGKILL)
    assert lab.client.get_run(run_id).info.status == "RUNNING"
    lab.run("histocae", "jobs")
    run = lab.client.get_run(run_id)
    assert run.info.status == "FAILED" and "no longer there" in run.data.tags["job.reason"]


def test_a_job_on_an_unreachable_machine_fails_after_a_time_without_signs_of_life(lab):
    run_id = lab.hold(silence=3600)
    file = lab.top / "state/histocae/jobs" / f"{run_id}.json"
    # on ssh's default port no server listens, or it refuses the test's key
    place = json.loads(file.read_text()) | {"host": "127.0.0.1", "ssh_config": "/dev/null"}
    file.write_text(json.dumps(place))
    output = lab.run("histocae", "jobs")
    assert "its last sign of life was" in output and lab.client.get_run(run_id).info.status == "RUNNING"
    file.write_text(json.dumps(place | {"silence": 0}))
    lab.run("histocae", "jobs")
    run = lab.client.get_run(run_id)
    assert run.info.status == "FAILED" and "no sign of life for" in run.data.tags["job.reason"]
    for process in lab.processes(run_id):
        os.kill(process, signal.SIGTERM)


@pytest.mark.parametrize(
    ("entry", "config", "reason"),
    [
        ("hold", {"time": "0:00:03"}, "ended at its limit of 0:00:03"),
        ("fail", {}, "exit code 3: it went wrong"),
        pytest.param("eat", {"memory": "200M"}, "ended at its limit of 200M: it used 0.", marks=pytest.mark.remote),
        pytest.param(
            "hold",
            {"gpus": 2, "devices": [0]},
            "gpus: 2, but the machine lets jobs use 1",
            marks=pytest.mark.remote,
        ),
    ],
)
def test_a_job_that_fails_reports_the_reason(lab, entry, config, reason):
    output, job = lab.send(entry, fails=True, **config)
    assert job.info.status == "FAILED" and job.data.tags["job.reason"].startswith(reason)
    assert f"{job.info.run_id}: failed: {reason}" in output and "Traceback" not in output
    lab.until(lambda: not lab.processes(job.info.run_id))


def test_jobs_share_graphics_cards(lab):
    first, second = (lab.hold(gpus=1, devices=[0, 3]) for _ in range(2))
    third = lab.send("hold", wait=False, gpus=1, devices=[0, 3])[1].info.run_id
    logs = {run: (lab.box / "jobs" / run / "job.log").read_text() for run in (first, second)}
    assert "devices 0" in logs[first] and "devices 3" in logs[second]
    lab.until(lambda: lab.client.get_run(third).info.status == "RUNNING")
    log = lab.box / "jobs" / third / "job.log"
    assert "holding" not in log.read_text()
    lab.run("histocae", "jobs", "cancel", first)
    lab.until(lambda: "devices 0" in log.read_text())
    for run in (second, third):
        lab.run("histocae", "jobs", "cancel", run)


def test_results_are_fetched_later_from_any_clone(lab, tmp_path):
    _, job = lab.send("train", "model=normal", wait=False)
    lab.end_of(job.info.run_id)
    clone = tmp_path / "clone"
    lab.run("git", "clone", "-q", ".", str(clone))
    lock = clone / "dvc.lock"
    assert "train@normal:" not in lock.read_text()
    folder, lab.project.folder = lab.project.folder, clone
    try:
        assert "dvc pull" in lab.run("histocae", "jobs", "fetch")
    finally:
        lab.project.folder = folder
    assert "train@normal:" in lock.read_text()
    assert json.loads(Path(lab.client.download_artifacts(job.info.run_id, "job/result.json")).read_text())


def test_a_sweep_sends_all_models_at_once(clean):
    clean.project.set(
        models={
            "first": {"cohort": "all", "filters": [4], "latent_features": 8, "epochs": 1},
            "second": {"cohort": "all", "filters": [4], "latent_features": 4, "epochs": 1},
            "child": {"cohort": "all", "filters": [4], "latent_features": 8, "epochs": 1, "init_from": "first"},
        }
    )
    clean.commit("models")
    clean.run("histocae", "sweep", "histocae-ssh", str(clean.config()))
    sent = clean.jobs()[:3]
    assert {job.info.run_name for job in sent} == {"train first", "train second", "train child"}
    parents = {job.data.tags["parent"] for job in sent}
    (parent,) = (clean.client.get_run(run_id) for run_id in parents)
    assert parent.info.status == "FINISHED" and parent.info.run_name == "sweep"
    first, second, child = (
        next(job.info for job in sent if job.info.run_name == f"train {name}")
        for name in ("first", "second", "child")
    )
    assert max(first.start_time, second.start_time) < min(first.end_time, second.end_time) <= child.start_time
    trainings = [run for job in sent for run in clean.children(job.info.run_id)]
    assert {run.data.tags["model"] for run in trainings} == {"first", "second", "child"}
    assert {run.data.tags["sweep"] for run in trainings} == parents
    assert {run.info.experiment_id for run in trainings} != {parent.info.experiment_id}
    output = clean.run("dvc", "repro", "--pull", "train@child", "train@second")
    assert "Running stage 'train" not in output


def test_a_job_interrupted_while_it_is_sent_is_marked_as_failed(lab):
    config = lab.config(setup="sleep 10")
    command = ["mlflow", "run", ".", "-e", "hold", "--backend", "histocae-ssh", "--backend-config", str(config)]
    count = len(lab.jobs())
    env = lab.project.environment | {"MLFLOW_TRACKING_URI": lab.uri, "XDG_STATE_HOME": str(lab.top / "state")}
    # a shell may start background processes that ignore the signal of Ctrl-C
    interruptible = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    sending = subprocess.Popen(command, cwd=lab.project.folder, env=env, **interruptible)
    lab.until(lambda: len(lab.jobs()) > count)
    sending.send_signal(signal.SIGINT)
    assert sending.wait(60) != 0
    (run, *_) = lab.jobs()
    assert run.info.status == "FAILED" and run.data.tags["job.reason"] == "not sent: interrupted while it was sent"


def test_a_canceled_training_is_resumed_by_the_next_job(clean):
    clean.project.set(models={"long": {"cohort": "all", "filters": [4], "latent_features": 8, "epochs": 60}})
    clean.project.set(**{"training.patience": 60})
    clean.commit("a long training")
    run_id = clean.send("train", "model=long", wait=False)[1].info.run_id
    log = clean.box / "jobs" / run_id / "job.log"
    clean.until(lambda: log.is_file() and "epoch 3/60" in log.read_text())
    clean.run("histocae", "jobs", "cancel", run_id)
    (training,) = clean.children(run_id)
    assert training.info.status == "KILLED"
    output, job = clean.send("train", "model=long")
    assert job.info.status == "FINISHED"
    assert "epoch 60/60" in output and not any(f"epoch {number}/60" in output for number in (1, 2, 3))
    assert clean.client.get_run(training.info.run_id).info.status == "FINISHED"
    assert not list((clean.box / "checkpoints").iterdir())


def test_slides_may_be_missing_where_the_training_runs(clean):
    slides_folder = clean.top / "own"
    slides_folder.mkdir()
    rows = []
    for number in range(12):
        make_data.write_slide(slides_folder / f"s{number}.tif", make_data.tissue(number, 256, 256), mpp=0.5)
        rows.append(slide_row(f"s{number}", number, f"s{number}.tif"))
    (slides_folder / "table.csv").write_text(make_data.table_text(rows))
    models = {"all": {"cohort": "all", "filters": [4], "latent_features": 8, "epochs": 1}}
    clean.project.set(**{"data.source": "slides", "data.path": str(slides_folder), "models": models})
    clean.run("dvc", "repro", "split")
    clean.run("dvc", "push")
    clean.commit("own slides")
    slides_folder.rename(clean.top / "moved")
    try:
        _, job = clean.send("train", "model=all")
        assert job.info.status == "FINISHED"
        assert "no such" in clean.run("dvc", "repro", "train@all", fails=True)
        output = clean.run("dvc", "repro", "--pull", "train@all", HISTOCAE_FILES="elsewhere")
        assert "Running stage 'train" not in output
    finally:
        (clean.top / "moved").rename(slides_folder)


def test_an_environment_is_made_once_per_lock_file(lab):
    lab.box = lab.top / "bare"
    config = lab.config(wait=False)
    command = ["mlflow", "run", ".", "-e", "fail", "--backend", "histocae-ssh", "--backend-config", str(config)]
    with ThreadPoolExecutor(2) as pool:  # both jobs at once
        outputs = list(pool.map(lambda _: lab.run(*command), range(2)))
    assert sum("making the environment of requirements.lock" in output for output in outputs) == 1
    (environment,) = (path for path in (lab.box / "environments").iterdir() if path.is_dir())
    assert (environment / ".complete").is_file() and (environment / "bin/histocae").is_file()
    for job in lab.jobs()[:2]:
        assert lab.end_of(job.info.run_id).data.tags["job.reason"] == "exit code 3: it went wrong"


def test_the_whole_pipeline_runs_by_ssh_and_its_runs_fill_an_empty_server(clean, tmp_path):
    _, job = clean.send("main")
    assert job.info.status == "FINISHED"
    clean.run("dvc", "pull")
    output = clean.run("dvc", "repro")
    assert output.count("Running stage") == 1 and "Running stage 'inventory" in output
    with services.tracking(tmp_path / "empty") as address:
        clean.project.run("histocae", "publish", MLFLOW_TRACKING_URI=address)
        client = MlflowClient(address)
        experiment = client.get_experiment_by_name("histocae").experiment_id
        runs = {run.info.run_name: run for run in client.search_runs([experiment])}
        models = yaml.safe_load((clean.project.folder / "params.yaml").read_text())["models"]
        assert set(runs) >= set(models)
        assert all("test_mse" in runs[name].data.metrics for name in models)
