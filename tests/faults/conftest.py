"""Counts injected faults, and prints the table of docs/reliability.md."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import tries
from support.undisturbed import Undisturbed


@pytest.fixture
def new_tries(request: pytest.FixtureRequest) -> Callable[[str, str], tries.Tries]:
    """Begin to count tries: `new_tries(kind, what is done)`."""
    return lambda kind, done: tries.record(request.node, kind, done)


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    """The whole pipeline, undisturbed."""
    folder = tmp_path_factory.mktemp("pipeline")
    yield Undisturbed(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def first_stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    """The pipeline up to its first training, undisturbed."""
    folder = tmp_path_factory.mktemp("first_stages")
    yield Undisturbed(folder, "train@tumor")
    shutil.rmtree(folder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Put the counts of a test into its report, also where it fails."""
    try:
        return (yield)
    finally:
        tries.attach(item)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table; write it into the document that FAULTS_TABLE names."""
    reports = [
        report for word in ("passed", "failed") for report in terminalreporter.stats.get(word, ()) if report.when
    ]
    text = tries.table(reports)
    if not text:
        return
    terminalreporter.section("injected faults")
    terminalreporter.write_line(text)
    if name := os.environ.get("FAULTS_TABLE"):
        tries.write(text, Path(name))
