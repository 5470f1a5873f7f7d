"""Fixtures that tests share, such as project folders and real data, and the order and marks of slow tests."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

from histocae.workers import processes
from support.workspace import ROOT, Result, Workspace, command

# the same examples in every run, so that a failure can be repeated
settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")

# files that take minutes; they run first, so that all pytest workers end at about the same time
LONGEST = (
    "test_jobs_ssh",
    "test_pipeline",
    "test_kills",
    "test_real_data",
    "test_cluster",
    "test_score_on_clusters",
    "test_crossvalidation",
    "test_registry",
    "test_mnist",
    "test_architectures",
    "test_gdc_download",
    "test_remotes",
)
# parts of tests/support that start servers or run whole pipelines as processes
STARTING = ("fuzzing", "gdc_server", "laboratory", "project", "registered", "services", "undisturbed")
STARTERS = {f"support.{name}" for name in STARTING}


def is_slow(module: ModuleType) -> bool:
    """Whether a file of tests takes minutes, starts a server, or runs a whole pipeline as processes."""
    values = vars(module).values()
    origins = {getattr(value, "__module__", None) or getattr(value, "__name__", None) for value in values}
    return not STARTERS.isdisjoint(origins) or Path(module.__file__ or "").stem in LONGEST


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of slow files, and put those of the longest files first; the others keep their order."""
    order = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONGEST)))
    slow_files = {item.path: is_slow(item.module) for item in items if isinstance(item, pytest.Function)}
    for item in items:
        if slow_files.get(item.path):
            item.add_marker("slow")


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the work of processes in a thread of this process, since starting processes takes a second."""
    monkeypatch.setattr(processes, "_pool", lambda workers: ThreadPoolExecutor(1))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: None) -> Workspace:
    """A project folder that is the working directory."""
    workspace = Workspace(tmp_path / "project")
    monkeypatch.chdir(workspace.folder)
    return workspace


@pytest.fixture
def new_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: None) -> Callable[[str], Workspace]:
    """Make project folders by name; the newest is the working directory."""

    def make(name: str) -> Workspace:
        workspace = Workspace(tmp_path / name)
        monkeypatch.chdir(workspace.folder)
        return workspace

    return make


@pytest.fixture
def run_stages(monkeypatch: pytest.MonkeyPatch, in_process: None) -> Callable[..., Result]:
    """Run stages of a project in this process: a process for each stage takes seconds to load its libraries."""

    def run(folder: Path, *stages: str) -> Result:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # unreachable: other tests are of tracking
        return command(*stages)

    return run


@pytest.fixture(scope="session")
def shared() -> Path:
    """The real slides and tiles beside the checkout."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no shared data beside the checkout: the tests of real slides and tiles need them")
    return folder


@pytest.fixture
def broken_table(project: Workspace) -> Callable[..., str]:
    """Replace the table of a project that has outputs; return the error line. The outputs must stay unchanged."""
    project.slides("a", "b")
    project.make("inventory", "metadata", "slides")
    before = project.outputs()

    def error_line(text: str | bytes) -> str:
        data = text.encode() if isinstance(text, str) else text
        (project.own / "table.csv").write_bytes(data)
        messages = {command: project.run(command).only_line for command in ("inventory", "metadata")}
        assert project.outputs() == before
        assert not project.leftovers()
        reasons = {message.removeprefix(f"histocae {command}") for command, message in messages.items()}
        assert len(reasons) == 1
        return messages["metadata"]

    return error_line
