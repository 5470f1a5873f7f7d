"""What is told before a job is sent, and what of a job's end needs no machine."""

import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from mlflow import projects
from mlflow.cli import cli as mlflow_cli
from ruamel.yaml import YAML

from conftest import Project
from histocae.remote import dvc_locks, pod
from histocae.remote.host import Host

ROOT = Path(__file__).resolve().parents[1]
SERVER = "http://127.0.0.1:9"  # where nobody listens


@pytest.fixture
def send(project: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Give what `mlflow run` says of a job that can't be sent."""
    shutil.copy(ROOT / "MLproject", project.folder)
    shutil.copy(ROOT / "python_env.yaml", project.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "tests")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "tests@example.invalid")
    git("init", "-q")

    def run(*more: str, entry: str = "train", backend: str = "histocae-ssh", **config: object) -> str:
        about = json.dumps({"host": "nowhere.invalid", "folder": "/nowhere", **config})
        command = ["run", ".", "-e", entry, "--backend", backend, "--backend-config", about, "--experiment-id", "0"]
        said = io.StringIO()
        monkeypatch.setattr("mlflow.cli._logger.error", lambda text, *some: said.write(text % some))
        done = CliRunner().invoke(mlflow_cli, [*command, *more])
        assert done.exit_code == 1 and isinstance(done.exception, SystemExit), done.output
        return said.getvalue().strip("= ")

    return run


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True)


def commit() -> None:
    git("add", "-A")
    git("commit", "-qm", "all")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"memory": "lots"}, "memory: expected a number with K, M, G or T, as in 32G, got 'lots'"),
        ({"time": "3 hours"}, "time: expected H:MM:SS or D-HH:MM:SS, got '3 hours'"),
        ({"partition": "gpu"}, "partition: unknown key"),
        ({"gpu": 1}, "gpu: unknown key; did you mean gpus?"),
        ({"gpus": "one"}, "gpus: expected an integer, got 'one'"),
        ({"folder": "somewhere"}, "folder: string should match"),
        ({"host": "-oProxyCommand=x"}, "host: string should match"),
        ({"host": None}, "host: expected text, got None"),
        ({"environment": ["NOT_SET_ANYWHERE"]}, "environment: NOT_SET_ANYWHERE is not set here"),
        ({"dirty": "maybe"}, "dirty: expected one of 'refuse' or 'send', got 'maybe'"),
    ],
)
def test_a_config_that_is_wrong_is_told_in_one_line(send, config, told):
    assert send(**config).startswith(f"backend config: {told}")


def test_slurm_knows_more_and_needs_no_host(send):
    assert "devices: unknown key" in send(backend="histocae-slurm", devices=[0])
    commit()
    said = send(backend="histocae-slurm", host=None, partition="main", folder="/proc/nowhere", entry="main")
    assert said.startswith("this machine: mkdir: ")


def test_a_database_is_no_server(send, monkeypatch):
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
    said = send(entry="main")
    assert said.startswith("uncommitted changes: ") and '"a new file"' in said
    assert said.endswith('; commit them, or set "dirty": "send" in the backend config')


def test_a_model_that_is_none_is_told_before_anything_is_sent(send):
    commit()
    assert send("-P", "model=none").startswith("models has no entry 'none'; it has ")


def test_a_machine_that_is_none_is_told(send):
    commit()
    assert send(entry="main").startswith("nowhere.invalid: ssh: Could not resolve hostname")


def test_jobs_and_sweep_tell_a_server_that_is_away(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert f"tracking server {SERVER} can't be reached" in project.run("jobs").only_line
    assert "gpu.json: No such file" in project.run("sweep histocae-ssh gpu.json").only_line
    Path("gpu.json").write_text("{")
    assert "gpu.json: not JSON" in project.run("sweep histocae-ssh gpu.json").only_line
    Path("gpu.json").write_text('{"host": "nowhere.invalid", "folder": "~"}')
    assert f"tracking server {SERVER} can't be reached" in project.run("sweep histocae-ssh gpu.json").only_line


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20), max_size=5))
def test_arguments_arrive_as_they_are(words):
    script = 'printf "%s\\0" "$@"; cat'  # which finds nothing to read, and not the rest of the script
    assert Host(None).run(script, *words) == "".join(f"{word}\0" for word in words or [""])


ENTRY = st.fixed_dictionaries({"cmd": st.sampled_from("ab"), "params": st.none() | st.integers(0, 2)})
STAGES = st.dictionaries(st.sampled_from(["train@a", "train@b", "split"]), ENTRY)


@given(before=STAGES, after=STAGES, here=STAGES)
def test_what_a_job_changed_is_taken_over_where_nothing_else_did(tmp_path_factory, before, after, here):
    folder = tmp_path_factory.mktemp("project")
    (folder / ".dvc/tmp").mkdir(parents=True)
    path = folder / "dvc.lock"
    with open(path, "w") as handle:
        YAML().dump({"schema": "2.0", "stages": here}, handle)
    changed = dvc_locks.changes({"dvc.lock": before}, {"dvc.lock": after})
    taken, left = dvc_locks.merge(folder, changed)
    found = dvc_locks.read(folder).get("dvc.lock", {})
    for stage in {*before, *after, *here}:
        # (a stage that a job's commit no longer has stays)
        job_changed = stage in after and after[stage] != before.get(stage)
        free = here.get(stage) in (before.get(stage), after.get(stage))
        if job_changed and free:
            assert found[stage] == after[stage] and stage in taken
        else:
            assert found.get(stage) == here.get(stage)
            assert (stage in left) == job_changed
    again = path.read_bytes()
    dvc_locks.merge(folder, changed)
    assert path.read_bytes() == again


def test_what_is_there_for_kubernetes_has_the_form_that_mlflow_and_docker_take(monkeypatch):
    spec = projects.load_project(str(ROOT / "kubernetes"))
    assert spec.docker_env["image"].startswith("registry.example/histocae")
    assert spec.get_entry_point("train").compute_command({"model": "deep"}, None) == (
        "python -m histocae.remote.pod train@deep"
    )
    monkeypatch.chdir(ROOT)
    config = projects._parse_kubernetes_config(json.loads(Path("kubernetes/config.json").read_text()))
    job = config["kube-job-template"]
    assert job["kind"] == "Job" and job["metadata"]["namespace"] == "default"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    copied = re.findall(r"^COPY (.+) \S+$", Path("kubernetes/Dockerfile").read_text(), re.MULTILINE)
    assert copied and all(Path(one).exists() for line in copied for one in line.split())


def test_a_pod_without_a_run_is_told(project, capsys, monkeypatch):
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    assert pod.main([]) == 1
    assert capsys.readouterr().err == (
        "histocae.remote.pod: MLFLOW_RUN_ID is not set; this is for mlflow run with the backend kubernetes\n"
    )
