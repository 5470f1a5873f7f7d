"""DVC remotes by ssh and in an S3 bucket; the tests start both servers on this machine."""

import shutil
from collections.abc import Iterator

import pytest

from support import services
from support.project import Project

pytestmark = pytest.mark.remote  # too long for `make test`
S3_KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    project = Project(tmp_path_factory.mktemp("remotes") / "project")
    project.run("dvc", "repro", "split")
    return project


@pytest.fixture
def bucket(tmp_path) -> Iterator[dict[str, str]]:
    with services.bucket(tmp_path / "s3", "laboratory") as address:
        yield {"url": "s3://laboratory/histocae", "endpointurl": address}


@pytest.fixture
def ssh_server(tmp_path) -> Iterator[dict[str, str]]:
    if services.program("sshd") is None:
        pytest.skip("no sshd here: Debian's openssh-server")
    with services.sshd(tmp_path / "ssh") as server:
        yield {
            "url": f"ssh://127.0.0.1{tmp_path}/store",
            "port": str(server.port),
            "keyfile": str(server.folder / "user"),
        }


def outputs(project: Project) -> dict[str, bytes]:
    """Read the outputs that DVC stores: all but the slides."""
    files = project.bytes("data", "models", "reports")
    return {name: content for name, content in files.items() if not name.startswith("data/slides/")}


@pytest.mark.parametrize("kind", ["bucket", "ssh_server"])
def test_all_files_are_pulled_from_a_remote_after_the_cache_is_deleted(project, kind, request):
    settings = request.getfixturevalue(kind)
    keys = S3_KEYS if kind == "bucket" else {}
    project.run("dvc", "remote", "add", "--force", "-d", kind, settings.pop("url"))
    for key, value in settings.items():
        project.run("dvc", "remote", "modify", "--local", kind, key, value)
    project.run("dvc", "push", **keys)
    before = outputs(project)
    assert len(before) > 60
    for folder in (".dvc/cache", ".dvc/tmp", ".histocae", "data", "models", "reports"):
        shutil.rmtree(project.folder / folder, ignore_errors=True)
    project.run("dvc", "pull", "--allow-missing", **keys)
    assert outputs(project) == before
    output = project.run("dvc", "repro", "split")
    assert "Running stage 'inventory" in output and output.count("Running stage") == 1
