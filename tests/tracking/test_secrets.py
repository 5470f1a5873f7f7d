"""No message, log, tag, param, artifact or database has a credential that a command got."""

import logging
import subprocess

import pytest

from histocae import address
from histocae.errors import TrackingError
from histocae.tracking import delivery, live, server
from histocae.tracking.jobs import job_runs
from support.workspace import ALL_STAGES

CANARY = "CANARY"
# credentials that a process gets by its environment
VARIABLES = {
    "MLFLOW_TRACKING_USERNAME": "somebody",
    "MLFLOW_TRACKING_PASSWORD": f"{CANARY}-mlflow-password",
    "AWS_ACCESS_KEY_ID": f"{CANARY}-aws-id",
    "AWS_SECRET_ACCESS_KEY": f"{CANARY}/aws+secret",
    "AWS_SESSION_TOKEN": f"{CANARY}-aws-token",
    "HTTP_PROXY": f"http://somebody:{CANARY}-proxy@127.0.0.1:9",
    "HTTPS_PROXY": f"http://somebody:{CANARY}-proxy@127.0.0.1:9",
    "DVC_STUDIO_TOKEN": f"{CANARY}-studio",
    "AZURE_STORAGE_CONNECTION_STRING": f"AccountKey={CANARY}-azure",
    "PGPASSWORD": f"{CANARY}-pg",
    "MYSQL_PWD": f"{CANARY}-my",
}
ADDRESSES = (
    f"http://somebody:{CANARY}@127.0.0.1:9",
    f"http://somebody:{CANARY}%40%2F@127.0.0.1:9/mlflow",
    f"http://somebody:{CANARY}@{CANARY}@127.0.0.1:9",
    f"http://somebody:x@y/{CANARY}@127.0.0.1:9",
    f"http://somebody:{CANARY}?{CANARY}#{CANARY}@127.0.0.1:9",
    f"http://somebody:{CANARY}/x@127.0.0.1:9",
    f"http://127.0.0.1:9/?token={CANARY}",
    f"http://127.0.0.1:9/?token=a@{CANARY}",
    f"http://{CANARY}@127.0.0.1:9",
    f"http://somebody:{CANARY}",
    f"http://somebody:{CANARY}@127.0.0.1:port",
    f"http://somebody:{CANARY}@[::1",
    f"http://somebody:{CANARY} {CANARY}@127.0.0.1:9",
    f"postgresql://somebody:{CANARY}@127.0.0.1:9/runs",
    f"mysql+nodriver://somebody:{CANARY}@127.0.0.1:9/runs",
    f"mssql://somebody:{CANARY}@127.0.0.1:9/runs?password={CANARY}",
    f"foo://somebody:{CANARY}@127.0.0.1:9/runs",
    f"somebody:{CANARY}@127.0.0.1:9",
)


@pytest.fixture
def with_secrets(monkeypatch):
    """Credentials in the environment."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:password@host:5000/path?token=x#y", "https://host:5000"),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("http://user:pass/word@host", "http://***"),
        ("http://user:password", "http://***"),
        ("http://host/?token=a@secret", "http://***"),
        ("sqlite:////data/a@b/runs.db?x=1", "sqlite:////data/a@b/runs.db"),
        ("postgresql+psycopg2://user:password@host/runs", "postgresql+psycopg2://host"),
        ("./mlruns", "./mlruns"),
    ],
)
def test_an_address_is_shown_as_scheme_host_and_port(url, shown):
    assert address.origin(url) == shown


@pytest.mark.parametrize(
    "text",
    [
        f"fatal: unable to access 'https://user:{CANARY}@github.com/a/b.git/': Could not resolve host",
        f"Invalid url: http://user:{CANARY}@host:abc/api/2.0",
        f"Max retries exceeded with url: /bucket/key?X-Amz-Signature={CANARY}&x=1",
        f"connection to host failed: user=a password={CANARY} host=b",
        f'answered {{"token": "{CANARY}"}}',
        f"proxy {CANARY}-proxy, key {CANARY}/aws+secret",
        f"GET https://store.example/container/x?sv=2024&sig={CANARY}%2B&se=2026",
        f"headers: {{'Authorization': 'Bearer {CANARY}.abc'}}",
        f"Authorization: Basic {CANARY}",
        f"sent Bearer {CANARY}-0123456789",
        f"password: {CANARY}",
        f"DefaultEndpointsProtocol=https;AccountKey={CANARY}==",
        f"role somebody, password {CANARY}-pg; user somebody, {CANARY}-my",
    ],
)
def test_credentials_in_a_text_are_hidden(text, with_secrets):
    hidden = address.without_credentials(text)
    assert CANARY not in hidden and hidden != text


@pytest.mark.parametrize(
    "text",
    [
        "data.gdc.token_file: /home/me/token can't be read",
        "https://api.gdc.cancer.gov/files?size=1: status 401: a token is required; see data.gdc.token_file",
        "models:/histocae-all@champion, run mlflow db upgrade sqlite:///mlflow.db",
    ],
)
def test_other_texts_stay_as_they_are(text):
    assert address.without_credentials(text) == text


@pytest.mark.parametrize("uri", ADDRESSES)
def test_failures_of_a_server_are_one_line_without_credentials(
    uri, with_secrets, monkeypatch, caplog, capfd, tmp_path
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(delivery, "RETRIES", 0)
    with pytest.raises(server.FAILURES) as error:
        server.experiment(server.client(), "any")
    line = server.failure_message(error.value)
    assert CANARY not in line and "\n" not in line and line.startswith("tracking server")
    live_run = live.LiveRun("any", "all", training_id="id", start=0, tags={}, params={"a": 1})
    live_run.stop("FAILED")
    with pytest.raises(TrackingError) as error, delivery._delivery("any", "slides"):
        pass
    assert CANARY not in str(error.value)
    if not uri.startswith("http"):
        with pytest.raises(Exception, match="another machine can't reach") as error:
            job_runs.environment_of_job([], None)
        assert CANARY not in str(error.value)
    output = capfd.readouterr()
    assert CANARY not in caplog.text + output.out + output.err
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or CANARY.encode() not in file.read_bytes()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("postgresql://u:p@h/runs", "needs the Python module psycopg.*pip install psycopg2-binary"),
        ("mysql://u:p@h/runs", "needs the Python module MySQLdb.*pip install pymysql"),
        ("mssql://u:p@h/runs", "needs the Python module pyodbc.*pip install pyodbc"),
        ("mysql+foo://h/runs", "mysql.foo"),
        ("foo://h", "foo://h names no tracking server; expected https://host"),
        ("./mlruns", "./mlruns names no tracking server"),
        ("http://", "is no address"),
        ("http://host:abc", "is no address"),
        ("http://[::1", "is no address"),
        ("http://ho st", "is no address"),
        ("http://host/?token=x", "a token goes into MLFLOW_TRACKING_TOKEN"),
        ("http://u:p@ss/word@host", "write %40 %2F"),
        ("sqlite://", "is a database in memory"),
        ("sqlite:///:memory:", "is a database in memory"),
        (" ", "names no tracking server"),
    ],
)
def test_an_address_that_cannot_be_used_is_reported_in_one_line(uri, message, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(server.FAILURES, match=message) as error:
        server.client()
    assert "\n" not in server.failure_message(error.value)
    assert not list(tmp_path.iterdir())


def test_what_a_training_leaves_has_no_credentials(project, with_secrets, monkeypatch):
    folder = project.folder
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    git = ["git", "-c", "user.name=tests", "-c", "user.email=tests@example.invalid"]
    for command in (
        ["init", "-q"],
        ["remote", "add", "origin", f"https://oauth2:{CANARY}-git@127.0.0.1/a/b.git"],
        ["commit", "-q", "--allow-empty", "-m", "start"],
    ):
        subprocess.run([*git, *command], check=True)
    (folder / "token").write_text(f"{CANARY}-gdc")
    (folder / "token").chmod(0o600)
    project.slides(*(f"s{i}" for i in range(12)))
    project.params(
        models={"all": {"filters": [4]}},
        patches__max_per_slide=4,
        training__epochs=1,
        data__gdc__token_file=str(folder / "token"),
    )
    output = project.run(*ALL_STAGES, "train all", "evaluate all", "publish")
    assert output.code == 0 and CANARY not in "\n".join(output.lines)
    known = {folder / "token", folder / ".git/config"}
    leaks = [file for file in folder.rglob("*") if file.is_file() and CANARY.encode() in file.read_bytes()]
    assert set(leaks) == known


def test_tags_of_a_job_have_no_credentials_of_the_git_remote(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    api = server.client()
    url = f"https://oauth2:{CANARY}@host/a/b.git"
    tags = {"mlflow.source.git.repoURL": url, "mlflow.source.name": f"{url}#sub", "mlflow.user": "me"}
    run_id = api.create_run(server.experiment(api, "any"), tags=tags).info.run_id
    job = job_runs.mark_scheduled(run_id, {job_runs.HOST: "box"})
    assert job.tags["mlflow.source.git.repoURL"] == job.tags["mlflow.source.name"] == "https://host"
    job_runs.conclude(run_id, "FAILED", f"can't reach {url}")
    assert CANARY not in str(api.get_run(run_id).to_dictionary())


def test_a_message_of_a_library_is_logged_without_credentials(project, with_secrets, monkeypatch):
    def fail(*_):
        logging.getLogger("library").warning("no answer from http://user:%s@host", CANARY)
        raise TrackingError(f"http://user:{CANARY}@host/x is away")

    monkeypatch.setattr("histocae.stages.publish.run", fail)
    result = project.run("publish")
    assert result.code == 1 and len(result.lines) == 2 and CANARY not in "".join(result.lines)
    assert "http://host" in result.lines[0] and "http://host" in result.error


def test_the_working_folder_is_no_secret(monkeypatch):
    """Shells set PWD and OLDPWD, in which messages name files."""
    for name, value in (
        ("PWD", "/home/me"),
        ("OLDPWD", "/home"),
        ("TOKENIZERS_PARALLELISM", "true"),
        ("CREDENTIAL_HELPER", "table"),
        ("DISABLE_TOKEN", "true"),
        ("DATABASE_PASSWORD", "able"),
    ):
        monkeypatch.setenv(name, value)
    for name in ("MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD"):
        monkeypatch.setenv(name, f"canary-{name}")
    text = "/home/me/table.csv: expected true or false"
    assert address.without_credentials(text) == text
    assert "canary" not in address.without_credentials(
        "canary-MLFLOW_TRACKING_TOKEN canary-AWS_SECRET_ACCESS_KEY canary-DB_PASSWORD"
    )


@pytest.mark.parametrize(
    "uri", ["postgresql://u:canary@h:port/db", "mysql+nodriver://u:canary@h/db", "mssql://u:canary@[h/db"]
)
def test_a_database_that_cannot_be_named_so_is_reported_in_one_line(uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(server.FAILURES, match="MLFLOW_TRACKING_URI") as error:
        server.client()
    assert "canary" not in str(error.value) and "\n" not in str(error.value)
