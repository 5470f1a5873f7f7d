"""Jobs without another machine: errors before a job is sent, its results, and reports of its end."""

import dataclasses
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient, projects
from mlflow.cli import cli as mlflow_cli
from mlflow.exceptions import MlflowException
from ruamel.yaml import YAML

from histocae.errors import RemoteError, TrackingError
from histocae.remote import dvc_locks, places
from histocae.remote.host import Host, UnreachableError
from histocae.tracking.jobs import job_runs, pod, reporter, supervisor
from histocae.tracking.jobs.job_files import JobDescription
from support.workspace import Workspace

ROOT = Path(__file__).resolve().parents[3]
SERVER = "http://127.0.0.1:9"  # a port on which no server listens


@pytest.fixture
def send(project: Workspace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return the error with which `mlflow run` refuses to send a job."""
    shutil.copy(ROOT / "MLproject", project.folder)
    shutil.copy(ROOT / "python_env.yaml", project.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "tests")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "tests@example.invalid")
    git("init", "-q")

    def run(*options: str, entry: str = "train", backend: str = "histocae-ssh", **config: object) -> str:
        text = json.dumps({"host": "nowhere.invalid", "folder": "/nowhere", **config})
        command = ["run", ".", "-e", entry, "--backend", backend, "--backend-config", text, "--experiment-id", "0"]
        errors = io.StringIO()
        monkeypatch.setattr("mlflow.cli._logger.error", lambda error, *values: errors.write(error % values))
        done = CliRunner().invoke(mlflow_cli, [*command, *options])
        assert done.exit_code == 1 and isinstance(done.exception, SystemExit), done.output
        return errors.getvalue().strip("= ")

    return run


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True)


def commit() -> None:
    git("add", "-A")
    git("commit", "-qm", "all")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"memory": "lots"}, "memory: expected a number with K, M, G or T, as in 32G, got 'lots'"),
        ({"time": "3 hours"}, "time: expected H:MM:SS or D-HH:MM:SS, got '3 hours'"),
        ({"partition": "gpu"}, "partition: unknown key"),
        ({"gpu": 1}, "gpu: unknown key; did you mean gpus?"),
        ({"gpus": "one"}, "gpus: expected an integer, got 'one'"),
        ({"folder": "somewhere"}, "folder: string should match"),
        ({"folder": "/data/my box"}, "folder: string should match"),
        ({"folder": "/data/$(true)"}, "folder: string should match"),
        ({"devices": [0, 0]}, "devices: expected each card once, got [0, 0]"),
        ({"time": "0:00:00"}, "time: expected some time, got '0:00:00'"),
        ({"host": "-oProxyCommand=x"}, "host: string should match"),
        ({"host": None}, "host: expected text, got None"),
        ({"environment": ["NOT_SET_ANYWHERE"]}, "environment: NOT_SET_ANYWHERE is not set here"),
        ({"dirty": "maybe"}, "dirty: expected one of 'refuse' or 'send', got 'maybe'"),
    ],
)
def test_a_wrong_config_is_reported_in_one_line(send, config, message):
    assert send(**config).startswith(f"backend config: {message}")


def test_slurm_has_its_own_keys_and_needs_no_host(send):
    assert "devices: unknown key" in send(backend="histocae-slurm", devices=[0])
    commit()
    message = send(backend="histocae-slurm", host=None, partition="main", folder="/proc/nowhere", entry="main")
    assert message.startswith("this machine: mkdir: ")


def test_a_database_is_refused_as_tracking_server(send, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert "sqlite:///mlflow.db, which another machine can't reach; name a server" in send()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert "sqlite:///mlflow.db, which another machine can't reach" in send()


def test_a_project_without_a_commit_is_refused(send, project):
    assert send(entry="main") == f"{project.folder}: no commit of a git repository; git init and commit first"
    shutil.rmtree(".git")
    assert send(entry="main") == f"{project.folder}: no commit of a git repository; git init and commit first"


def test_uncommitted_changes_are_named(send):
    commit()
    Path("a new file").touch()
    git("mv", "MLproject", "MLproject.former")
    shutil.copy("MLproject.former", "MLproject")
    message = send(entry="main")
    assert message.startswith("uncommitted changes: ") and '"a new file"' in message
    assert message.endswith('; commit them, or set "dirty": "send" in the backend config')


def test_a_commit_with_the_former_layout_is_refused(send):
    former = Path("src/histocae/remote/job.py")
    former.parent.mkdir(parents=True)
    former.touch()
    commit()
    message = send(entry="main")
    assert message.startswith("commit ") and message.endswith("which only that version can send; install it")


def test_an_unknown_model_is_reported_before_anything_is_sent(send):
    commit()
    assert send("-P", "model=none").startswith("models has no entry 'none'; it has ")


def test_a_network_that_does_not_travel_is_reported_before_anything_is_sent(send, project):
    def entry(file: str) -> dict:
        return {"filters": [4], "loss": "perceptual", "perceptual": {"network": file, "layers": ["a"]}}

    Path("data").mkdir(exist_ok=True)
    for file in ("data/a.keras", "../a.keras", "a.keras"):
        Path(file).write_bytes(b"")
        project.params(models={"all": {"filters": [4]}, "x": entry(file)})
        Path(".gitignore").write_text("/data/*\n/a.keras\n")
        commit()
        message = send("-P", "model=all")
        assert message.startswith(f"models.x.perceptual.network: {file} is not in the commit that is sent; git add")
    Path(".gitignore").unlink()
    commit()
    assert send().startswith("nowhere.invalid: ssh: ")  # the next check
    project.params(models={"all": {"filters": [4]}, "x": entry("/there/a.keras")})
    commit()
    assert send().startswith("nowhere.invalid: ssh: ")


def test_an_unknown_host_is_reported(send):
    commit()
    assert send(entry="main").startswith("nowhere.invalid: ssh: Could not resolve hostname")


def test_jobs_and_sweep_report_an_unreachable_server(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert f"tracking server {SERVER} can't be reached" in project.run("jobs").only_line
    assert "gpu.json: No such file" in project.run("sweep histocae-ssh gpu.json").only_line
    Path("gpu.json").write_text("{")
    assert "gpu.json: not JSON" in project.run("sweep histocae-ssh gpu.json").only_line
    Path("gpu.json").write_text('{"host": "nowhere.invalid", "folder": "~"}')
    assert f"tracking server {SERVER} can't be reached" in project.run("sweep histocae-ssh gpu.json").only_line


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20), max_size=5))
def test_arguments_reach_a_script_unchanged(words):
    script = 'printf "%s\\0" "$@"; cat'  # cat reads an empty input, not the remaining script
    assert Host(None).run(script, *words) == "".join(f"{word}\0" for word in words or [""])


def test_a_command_on_a_machine_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr("histocae.remote.host.ANSWER_SECONDS", 0.2)
    with pytest.raises(UnreachableError, match=r"^this machine: no answer within 0\.2 s$"):
        Host(None).run("sleep 20")


ENTRY = st.fixed_dictionaries({"cmd": st.sampled_from("ab"), "params": st.none() | st.integers(0, 2)})
STAGES = st.dictionaries(st.sampled_from(["train@a", "train@b", "split"]), ENTRY)


@given(before=STAGES, after=STAGES, local=STAGES)
def test_changes_of_a_job_are_merged_where_the_local_entry_did_not_change(tmp_path_factory, before, after, local):
    folder = tmp_path_factory.mktemp("project")
    (folder / ".dvc/tmp").mkdir(parents=True)
    path = folder / "dvc.lock"
    with open(path, "w") as handle:
        YAML().dump({"schema": "2.0", "stages": local}, handle)
    changes = dvc_locks.changes({"dvc.lock": before}, {"dvc.lock": after})
    merged_stages, kept_stages = dvc_locks.merge(folder, changes)
    merged = dvc_locks.read(folder).get("dvc.lock", {})
    for stage in {*before, *after, *local}:
        # a stage that the job's commit no longer has is kept
        job_changed = stage in after and after[stage] != before.get(stage)
        unchanged = local.get(stage) in (before.get(stage), after.get(stage))
        if job_changed and unchanged:
            assert merged[stage] == after[stage] and stage in merged_stages
        else:
            assert merged.get(stage) == local.get(stage)
            assert (stage in kept_stages) == job_changed
    contents = path.read_bytes()
    dvc_locks.merge(folder, changes)
    assert path.read_bytes() == contents


@pytest.mark.parametrize("file", ["../dvc.lock", "/etc/dvc.lock", "params.yaml", "data/../../dvc.lock"])
def test_a_result_changes_only_lock_files_of_the_project(tmp_path, file):
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    with pytest.raises(RemoteError, match="is no lock file of DVC in the project"):
        dvc_locks.merge(tmp_path, {file: {"train@a": {"before": None, "after": {}}}})


def test_a_lock_file_that_is_no_yaml_is_reported(tmp_path):
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\n<<<<<<< HEAD\nstages: {}\n=======\n")
    with pytest.raises(RemoteError, match=r"dvc.lock: not YAML: .*; mend it, or git checkout it"):
        dvc_locks.read(tmp_path)


@pytest.fixture
def server(project, monkeypatch, tmp_path) -> MlflowClient:
    """A tracking server, and a user who has sent no job yet."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")


def job(server: MlflowClient, **tags: str) -> str:
    """Create the run of a running job; return its id."""
    job_tags = {"job.backend": "histocae-ssh", "job.host": "", "job.head": "0" * 40, "job.id": "1"}
    job_tags |= {key.replace("_", "."): value for key, value in tags.items()}
    return server.create_run("0", tags=job_tags).info.run_id


def test_text_that_other_users_write_to_the_server_is_never_executed(server, project, tmp_path, capsys):
    command = f"touch {tmp_path / 'harm'}"
    substituted = f"$({command})"
    run_id = job(
        server, job_setup=command, job_folder=substituted, job_host=f"-oProxyCommand={command}", job_id=substituted
    )
    server.create_run("0", tags={"job.backend": "histocae-ssh"})  # a job without its other tags
    assert project.run("jobs").code == 0
    assert run_id[:8] in capsys.readouterr().out
    for action in ("log", "cancel"):
        assert "from another machine or account" in project.run(f"jobs {action} {run_id}").error
    assert not (tmp_path / "harm").exists() and server.get_run(run_id).info.status == "RUNNING"


def test_the_end_of_a_job_is_read_from_its_machine_if_the_server_was_unreachable(server, project, tmp_path):
    run_id = job(server)
    folder = tmp_path / "jobs" / run_id
    folder.mkdir(parents=True)
    changed = {"dvc.lock": {"train@a": {"before": None, "after": {"cmd": "a"}}}}
    (folder / "end.json").write_text(json.dumps({"status": "FINISHED", "reason": None, "changed": changed}))
    (folder / "job.json").write_text("credentials")
    place = places.Place(
        backend="histocae-ssh", host=None, ssh_config=None, setup="", folder=str(folder), silence=600, id="1"
    )
    places.write(run_id, place)
    assert project.run("jobs").code == 0
    assert server.get_run(run_id).info.status == "FINISHED"
    assert not (folder / "job.json").exists()
    (project.folder / ".dvc/tmp").mkdir(parents=True)
    git("init", "-q")
    assert "of another repository" in project.run(f"jobs fetch {run_id}").error
    assert job_runs.changes_of(job_runs.read(run_id)) == changed


def test_settings_of_dvc_can_be_read_only_by_their_user(project, monkeypatch):
    dvc = Path(sys.executable).with_name("dvc")
    subprocess.run([dvc, "init", "-q", "--no-scm"], check=True)
    settings = {"remote.lab.password": "a#b 'c\"d", "cache.dir": "/scratch/cache", "core.analytics": "false"}
    former_umask = os.umask(0o022)
    try:
        supervisor.configure(project.folder, settings)
        supervisor.configure(project.folder, {"remote.lab.url": "/data"})
    finally:
        os.umask(former_umask)
    assert stat.S_IMODE(Path(".dvc/config.local").stat().st_mode) == 0o600
    listed = subprocess.run([dvc, "config", "--list", "--local"], capture_output=True, text=True, check=True).stdout
    assert set(listed.splitlines()) == {
        "remote.lab.password=a#b 'c\"d",
        "remote.lab.url=/data",
        "cache.dir=/scratch/cache",
        "core.analytics=false",
    }


def test_files_for_kubernetes_have_the_form_that_mlflow_and_docker_expect(monkeypatch):
    spec = projects.load_project(str(ROOT / "kubernetes"))
    assert spec.docker_env["image"].startswith("registry.example/histocae")
    assert spec.get_entry_point("train").compute_command({"model": "deep"}, None) == (
        "python -m histocae.tracking.jobs.pod train@deep"
    )
    monkeypatch.chdir(ROOT)
    config = projects._parse_kubernetes_config(json.loads(Path("kubernetes/config.json").read_text()))
    job = config["kube-job-template"]
    assert job["kind"] == "Job" and job["metadata"]["namespace"] == "default"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    copy_lines = re.findall(r"^COPY (.+) \S+$", Path("kubernetes/Dockerfile").read_text(), re.MULTILINE)
    assert copy_lines and all(Path(path).exists() for line in copy_lines for path in line.split())


def test_a_pod_without_a_run_is_reported(project, capsys, monkeypatch):
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    assert pod.main([]) == 1
    assert capsys.readouterr().err == (
        "histocae.tracking.jobs.pod: MLFLOW_RUN_ID is not set; this is for mlflow run with the backend kubernetes\n"
    )


class Clock:
    """A clock that advances in time.sleep, and the pauses so far."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now, self.pauses = 0.0, []
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        monkeypatch.setattr("time.sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def unreachable() -> MlflowClient:
    raise MlflowException("no answer")


def test_reporting_the_end_of_a_job_waits_ten_minutes_for_the_server(monkeypatch, tmp_path):
    monkeypatch.setattr(reporter, "client", unreachable)
    clock = Clock(monkeypatch)
    with pytest.raises(TrackingError, match="no answer"):
        reporter.Reporter("0").end("FINISHED", None, {}, tmp_path / "job.log")
    assert clock.pauses[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert set(clock.pauses[8:]) == {60} and 600 <= clock.now < 660


def test_the_end_of_a_job_is_reported_when_the_server_responds(monkeypatch, tmp_path):
    clock, reports = Clock(monkeypatch), []
    monkeypatch.setattr(reporter, "client", lambda: unreachable() if len(clock.pauses) < 2 else None)
    monkeypatch.setattr(reporter, "conclude", lambda *report: reports.append(report))
    reporter.Reporter("0").end("FAILED", "a reason", {}, tmp_path / "job.log")
    assert clock.pauses == [1, 2] and reports == [("0", "FAILED", "a reason", {})]


@pytest.mark.parametrize("failures", [0, 2, 3])
def test_outputs_are_pushed_in_three_attempts_at_most(monkeypatch, tmp_path, failures):
    folder = tmp_path / "jobs/0"
    folder.mkdir(parents=True)
    (folder / "job.log").write_text("no space left\n")
    commands = []

    def run(command: list[str], **_: object) -> None:
        commands.append(command)
        if len(commands) <= failures:
            raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(subprocess, "run", run)
    clock = Clock(monkeypatch)
    empty_fields = dict.fromkeys(field.name for field in dataclasses.fields(JobDescription))
    description = JobDescription(**empty_fields | {"run_id": "0", "project": str(folder / "work")})
    problem = supervisor.Supervisor(description, folder)._push({"dvc.lock": {"train@a": {}}})
    assert commands == [["dvc", "push", "train@a"]] * min(failures + 1, 3) and not clock.now
    if failures == 3:
        assert problem.startswith("dvc push failed (no space left); ") and str(folder / "work") in problem
    else:
        assert problem is None


@pytest.mark.parametrize(("count", "cards"), [(2, [0, 1]), (0, []), (None, [])])
def test_graphics_cards_are_listed_by_number_and_without_a_driver_there_are_none(monkeypatch, count, cards):
    nvml = types.ModuleType("pynvml")
    nvml.NVMLError = type("NVMLError", (Exception,), {})

    def start() -> None:
        if count is None:
            raise nvml.NVMLError

    nvml.nvmlInit, nvml.nvmlDeviceGetCount, nvml.nvmlShutdown = start, lambda: count, lambda: None
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert supervisor._cards() == cards
