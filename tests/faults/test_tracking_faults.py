"""The tracking server is killed, stops, fails, is slow, or its disk is full: trainings end well, no run is lost."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path

import pytest

from support import services
from support.faulty_proxy import FaultyProxy, proxy
from support.undisturbed import Undisturbed, start, tracked, wait_for_no_process

pytestmark = pytest.mark.faults
EPOCHS = 6
MODEL = "tumor"
START, LATER = "tensorflow on", f"epoch 2/{EPOCHS}"  # lines of the training's log at which the faults begin
LONGER = 75  # seconds that a training may take longer: what it waits at most for the server at its end


class Training:
    """A training of some epochs, from the same moment again and again.

    Attributes:
        weights: files of the trained model where nothing disturbed the training.
        seconds: that it took.

    """

    def __init__(self, pipeline: Undisturbed):
        self.pipeline, self.project = pipeline, pipeline.project
        self.restore()
        began = time.monotonic()
        self.project.run("histocae", "train", MODEL)
        self.seconds = time.monotonic() - began
        self.weights = self.trained()

    def restore(self) -> None:
        """Go back to the moment before the training."""
        self.pipeline.restore(f"train@{MODEL}")
        self.project.set(**{"training.epochs": EPOCHS, "training.patience": EPOCHS})

    def trained(self) -> dict[str, bytes]:
        """Read the files of the trained model."""
        return self.project.bytes(f"models/trained/{MODEL}")

    def start(self, address: str, log: Path) -> subprocess.Popen:
        """Start the training."""
        return start(self.project, "histocae", "train", MODEL, log=log, MLFLOW_TRACKING_URI=address)

    def publish(self, address: str, fails: bool = False) -> str:
        """Deliver what the server lacks."""
        return self.project.run("histocae", "publish", MLFLOW_TRACKING_URI=address, fails=fails)


@pytest.fixture(scope="module")
def training(first_stages):
    return Training(first_stages)


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of 30 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = {"check": False, "capture_output": True}
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", folder], **options).returncode
    ):
        pytest.skip("only root can mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def wait_for_line(process: subprocess.Popen, log: Path, text: str) -> None:
    """Wait until a process has written a text, or has ended."""
    while text not in log.read_text() and process.poll() is None:
        time.sleep(0.02)


def check(training: Training, process: subprocess.Popen, log: Path, began: float) -> None:
    """Check that the training ended in time and with the weights of an undisturbed one."""
    assert process.wait(400) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    took = time.monotonic() - began
    assert took < 2 * training.seconds + LONGER, f"{took:.0f} s instead of {training.seconds:.0f}"
    assert training.trained() == training.weights
    wait_for_no_process(training.project.folder)


def check_published(training: Training, address: str, folder: Path) -> None:
    """Publish; the server must have the run with each epoch of each metric once."""
    training.publish(address)
    found = tracked(folder)
    assert found["runs"] == [(MODEL, "FINISHED")]
    keys = ("loss", "validation_loss")
    assert found["points"] == [(MODEL, key, epoch, 1) for key in keys for epoch in range(1, EPOCHS + 1)]
    assert found["models"] == []  # a model is logged once it is evaluated


def break_status(server: FaultyProxy, status: int, share: float = 1.0) -> None:
    server.status, server.share = status, share


FAULTS = {
    "status 500": lambda server: break_status(server, 500),
    "status 429": lambda server: break_status(server, 429),
    "status 503 to half of the requests": lambda server: break_status(server, 503, 0.5),
    "status 404": lambda server: break_status(server, 404),
    "answers after 1 s": lambda server: setattr(server, "delay", 1.0),
    "answers after 5 s": lambda server: setattr(server, "delay", 5.0),
    "answers that break off": lambda server: setattr(server, "cut", True),
}


@pytest.mark.parametrize(
    ("fault", "since"), [*zip(FAULTS, cycle((START, LATER)), strict=False), ("status 500", LATER)]
)
def test_a_training_does_not_notice_a_server_that_fails(training, fault, since, tmp_path, new_tries):
    with (
        new_tries("tracking server", fault).one(),
        services.tracking(tmp_path / "server") as address,
        proxy(address) as between,
    ):
        training.restore()
        if since == START:
            FAULTS[fault](between)
        began = time.monotonic()
        process = training.start(between.address, tmp_path / "log.txt")
        if since != START:
            wait_for_line(process, tmp_path / "log.txt", since)
            FAULTS[fault](between)
        check(training, process, tmp_path / "log.txt", began)
        between.heal()
        check_published(training, address, tmp_path / "server")


@pytest.mark.parametrize(
    ("fault", "since"),
    [
        ("killed", START),
        ("killed", LATER),
        ("killed and started again", LATER),
        ("stopped", START),
        ("stopped", LATER),
        ("stopped for 2 s", LATER),
    ],
)
def test_a_training_does_not_notice_a_server_that_is_killed_or_stops(training, fault, since, tmp_path, new_tries):
    port, folder, log = services.free_port(), tmp_path / "server", tmp_path / "log.txt"
    address = f"http://127.0.0.1:{port}"
    with new_tries("tracking server", fault).one(), ExitStack() as servers:
        training.restore()
        servers.enter_context(services.tracking(folder, port))
        group = services.group_at(port)
        began = time.monotonic()
        process = training.start(address, log)
        wait_for_line(process, log, since)
        os.killpg(group, signal.SIGKILL if fault.startswith("killed") else signal.SIGSTOP)
        if lasts := fault in ("killed", "stopped"):
            check(training, process, log, began)
        if fault.startswith("killed"):
            servers.enter_context(services.tracking(folder, port))
        else:
            time.sleep(2)
            os.killpg(group, signal.SIGCONT)
        if not lasts:
            check(training, process, log, began)
        check_published(training, address, folder)


@pytest.mark.parametrize("since", [START, LATER])
def test_a_training_does_not_notice_a_server_whose_disk_is_full(training, since, disk, tmp_path, new_tries):
    log = tmp_path / "log.txt"
    with new_tries("tracking server", "its disk is full").one(), services.tracking(disk / "server") as address:
        training.restore()
        began = time.monotonic()
        process = training.start(address, log)
        wait_for_line(process, log, since)
        fill(disk)
        check(training, process, log, began)
        assert "\n" not in training.publish(address, fails=True).rstrip().split("histocae publish: ")[1]
        (disk / "filler").unlink()
        check_published(training, address, disk / "server")


def fill(disk: Path) -> None:
    """Fill a disk to the last byte."""
    with open(disk / "filler", "wb", buffering=0) as file:
        for size in (2**20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def test_publish_makes_runs_and_registry_again_in_an_empty_store(pipeline, new_tries):
    folder = pipeline.project.folder
    with new_tries("tracking server", "its database and files are lost; `histocae publish`").one():
        pipeline.restore("register")
        pipeline.project.run(*pipeline.command)
        (folder / "mlflow.db").unlink()
        shutil.rmtree(folder / "mlruns")
        pipeline.project.run("histocae", "publish")
        assert tracked(folder) == pipeline.tracked
