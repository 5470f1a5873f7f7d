"""A full disk, a read-only folder, too little memory and signals end a stage in one line; the next run goes on."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from histocae.cli import main, signals, system_errors
from histocae.errors import SlideError, system_errno
from histocae.files import reserve
from histocae.networks import weights
from histocae.patches.tiles import read_tile
from histocae.slides.slide import Slide
from histocae.workers import processes
from support import make_data
from support.workspace import ROOT, Result, Workspace, command, slide_row

MODELS = {
    "all": {"filters": [4], "latent_features": 8},
    "tumor": {"cohort": "tumor", "filters": [4], "latent_features": 8},
    "normal": {"cohort": "normal", "filters": [4], "latent_features": 8},
}
SHORT = ("metadata", "slides", "patches", "split")
LONG = ("train all", "evaluate all", "latent all", "tissue", "codecs", "compare", "register")
# what the later ones read
BEFORE = (
    *(f"{stage} {model}" for model in ("tumor", "normal") for stage in ("train", "evaluate", "latent")),
    "crossvalidate",
)
# these differ from run to run: run ids and times
OWN = ("models/runs", "models/registered.json")


def make_project(folder: Path, patch: pytest.MonkeyPatch, *stages: str) -> Workspace:
    """Make a project and run stages, all in this process."""
    project = Workspace(folder)
    patch.chdir(folder)
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    patch.setattr(processes, "_pool", lambda workers: ThreadPoolExecutor(1))
    project.slides(*(f"s{number}" for number in range(12)))
    project.params(
        models=MODELS,
        patches__max_per_slide=12,
        training__epochs=2,
        tissue__bootstrap=100,
        tissue__permutations=100,
        tissue__latents="all",
    )
    return project.make("inventory", *stages)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A project whose stages up to the split are done."""
    with pytest.MonkeyPatch.context() as patch:
        yield make_project(tmp_path_factory.mktemp("short") / "project", patch, *SHORT)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A project whose stages are all done."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("long") / "project"
        yield make_project(folder, patch, *SHORT, *LONG[:1], *BEFORE, *LONG[1:])


def outs(stage: str) -> list[str]:
    """List the outputs of a stage, as dvc.yaml names them."""
    name, _, model = stage.partition(" ")
    described = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][name]
    paths = [next(iter(out)) if isinstance(out, dict) else out for out in described.get("do", described)["outs"]]
    return [path.replace("${key}", model) for path in paths]


def delete(paths: list[str]) -> None:
    for path in map(Path, paths):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def contents(project: Workspace) -> dict[str, bytes]:
    """Read the outputs that equal inputs reproduce."""
    return {
        name: data
        for name, data in project.outputs().items()
        if not name.startswith((*OWN, "models/checkpoints")) and "/." not in name
    }


@contextmanager
def full_disk(disk: Path) -> Iterator[None]:
    state = os.statvfs(disk)
    (disk / "filler").write_bytes(b"x" * (state.f_bavail * state.f_frsize))
    try:
        yield
    finally:
        (disk / "filler").unlink()


@contextmanager
def short_files(_: Path) -> Iterator[None]:
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """Show the working directory where it can't be written to."""
    here, other = Path.cwd(), disk / "read-only"
    other.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", str(here), str(other)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(other)], check=True)
        os.chdir(other)
        yield
    finally:
        os.chdir(here)
        subprocess.run(["umount", str(other)], check=True)


def while_writing(fault: Callable[[], None]) -> Callable[[Path], "Iterator[None]"]:
    """Let a fault happen when the first file has been written."""

    @contextmanager
    def happening(_: Path) -> Iterator[None]:
        happened = []

        def fsync(_: int) -> None:
            if not happened:
                happened.append(True)
                fault()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            yield
        assert happened

    return happening


def lack_memory() -> None:
    np.empty(2**62, np.uint8)


MOUNTED = {
    "full disk": (full_disk, 1, "o space left on device; make space there|disk is full"),
    "read-only": (read_only, 1, "Read-only file system; work in a folder that can be written to"),
}
FAULTS = {
    "file too large": (short_files, 1, "File too large; raise the limit|disk I/O error|database or disk is full"),
    "memory": (while_writing(lack_memory), 1, "out of memory: Unable to allocate 4.00 EiB"),
    "SIGINT": (while_writing(lambda: os.kill(os.getpid(), signal.SIGINT)), 130, "interrupted"),
    "SIGTERM": (while_writing(lambda: os.kill(os.getpid(), signal.SIGTERM)), 143, "terminated"),
}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, where this machine lets the test have one: a small one in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") is not None and os.geteuid() == 0
    if mounted:
        size = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)]
        mounted = subprocess.run(size, capture_output=True, check=False).returncode == 0
    yield folder
    if mounted:
        os.chdir("/")
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(autouse=True)
def heard_signals() -> Iterator[None]:
    """Handle Ctrl-C also where the tests run in the background of a shell, which ignores it there."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


def copy_of(project: Workspace, folder: Path, patch: pytest.MonkeyPatch) -> Workspace:
    shutil.copytree(project.folder, folder, ignore=shutil.ignore_patterns("mlruns", ".histocae"))
    project_copy = Workspace.__new__(Workspace)
    project_copy.folder, project_copy.own = folder, folder / "own"
    patch.chdir(folder)
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    return project_copy


def ends_in_one_line(result: Result, name: str, code: int, text: str) -> bool:
    """Check the exit code and the one line; log lines may stand before it."""
    lines = [line for line in result.lines if not line[:1].isdigit()]
    assert result.code == code and len(lines) == 1 and lines[0] == result.lines[-1], result.lines
    assert lines[0].startswith(f"histocae {name}: ")
    return any(part in lines[0] for part in text.split("|"))


def check_stage(project: Workspace, stage: str, disk: Path) -> None:
    """Run a stage under each fault, without its outputs and with them; then run it to its end."""
    expected, name = contents(project), stage.split()[0]
    mounted = os.path.ismount(disk)
    for fault, code, text in [*(MOUNTED.values() if mounted else ()), *FAULTS.values()]:
        delete(outs(stage))
        with fault(disk):
            result = command(stage)
        assert ends_in_one_line(result, name, code, text), result.lines
        # what is there is whole
        assert contents(project).items() <= expected.items()
    project.make(stage)
    assert contents(project) == expected
    assert not [path for path in project.leftovers() if any(path.startswith(out) for out in outs(stage))]
    if not mounted:
        pytest.skip("the test can't mount a file system here: a full disk and a read-only folder are not tested")


@pytest.mark.parametrize("stage", ["patches", "split"])
def test_a_fault_ends_a_stage_in_one_line_and_the_next_run_goes_on(short, stage, disk, monkeypatch, in_process):
    check_stage(copy_of(short, disk / "project", monkeypatch), stage, disk)


@pytest.mark.faults
@pytest.mark.parametrize("stage", [*SHORT[:2], *LONG])
def test_a_fault_ends_any_stage_in_one_line_and_the_next_run_goes_on(long, stage, disk, monkeypatch, in_process):
    check_stage(copy_of(long, disk / "project", monkeypatch), stage, disk)


@contextmanager
def running(project: Path, *words: str, until: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command, and wait until it logs a text."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from histocae.cli import main; sys.exit(main())", *words],
        cwd=project,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # even if the tests run in the background
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    for line in process.stderr:
        if until in line:
            break
    yield process
    process.communicate(timeout=60)


@pytest.mark.parametrize(
    ("number", "group", "code", "words"),
    [(signal.SIGTERM, False, 143, "terminated"), (signal.SIGINT, True, 130, "interrupted")],
)
def test_a_signal_ends_worker_processes_and_leaves_no_semaphore(
    short, tmp_path, monkeypatch, number, group, code, words
):
    project = copy_of(short, tmp_path / "project", monkeypatch)
    expected = contents(project)
    project.params(models=MODELS, patches__max_per_slide=12, executor__workers=2)
    delete(outs("patches"))
    with running(project.folder, "patches", until="to extract") as process:
        deadline = time.monotonic() + 30
        while len(workers := psutil.Process(process.pid).children()) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, number) if group else process.send_signal(number)
        lines = process.stderr.read().splitlines()
    assert (process.returncode, lines) == (code, [f"histocae patches: {words}"])
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    assert command("patches").code == 0
    assert contents(project) == expected


@pytest.mark.faults
def test_sigterm_marks_the_run_of_a_training_as_killed(long, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    project = copy_of(long, tmp_path / "project", monkeypatch)
    project.params(models=MODELS, patches__max_per_slide=12, training__epochs=500, training__patience=500)
    with running(project.folder, "train", "all", until="epoch 3/500") as process:
        time.sleep(2)  # the run is made by a thread of its own
        process.send_signal(signal.SIGTERM)
        lines = process.stderr.read().splitlines()
    assert process.returncode == 143 and lines[-1] == "histocae train: terminated", lines
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("histocae").experiment_id
    assert "KILLED" in [run.info.status for run in client.search_runs([experiment])]


def test_a_later_second_signal_ends_the_process_at_once():
    code = (
        "import os, signal, time\nfrom histocae.cli import signals\nsignals.REPEATED_SECONDS = 0.1\n"
        "with signals.raised(signals.ALL):\n"
        "    try:\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    except KeyboardInterrupt:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n        time.sleep(0.2)\n        print('here', flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n        time.sleep(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "here\n"), done.stderr


def test_an_ignored_signal_stays_ignored():
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.raised(signals.ALL):
            os.kill(os.getpid(), signal.SIGHUP)  # as under nohup
    finally:
        signal.signal(signal.SIGHUP, former)


@pytest.mark.parametrize(
    ("redirection", "code", "error"),
    [
        ("| true", 141, ""),
        (
            "> /dev/full",
            1,
            "histocae plan: standard output: No space left on device; make space there, then run this again\n",
        ),
        (">&- 2>&- <&-", 0, ""),
        ("2>&1 > /dev/null | true", 0, ""),
    ],
)
def test_output_that_nobody_takes_gives_no_traceback(short, redirection, code, error):
    shell = f'"{sys.executable}" -c "import sys; from histocae.cli import main; sys.exit(main())" plan {redirection}'
    script = f"set -o pipefail; {shell}"
    done = subprocess.run(["bash", "-c", script], cwd=short.folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, error)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", ["--help", "--version", "train --help"])
def test_help_that_cannot_be_written_fails_in_one_line(short, words, unbuffered):
    command = [sys.executable, "-c", "import sys; from histocae.cli import main; sys.exit(main())", *words.split()]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command, cwd=short.folder, stdout=full, stderr=subprocess.PIPE, env=environment, text=True
        )
    remedy = "make space there, then run this again"
    assert done.returncode == 1
    assert done.stderr == f"histocae: standard output: No space left on device; {remedy}\n"


def test_a_terminal_without_unicode_shows_a_plan(short):
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from histocae.cli import main; sys.exit(main())", "plan"],
        cwd=short.folder,
        env={**os.environ, **plain},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "12 slides" in done.stdout


def test_a_full_disk_names_the_file_even_where_the_library_does_not(disk):
    if not os.path.ismount(disk):
        pytest.skip("the test can't mount a file system here")
    import keras

    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)])
    path = disk / "w.weights.h5"
    with full_disk(disk):
        for write in (lambda: weights.save(model, path), lambda: reserve(path, 10_000)):
            with pytest.raises(OSError, match="No space left on device") as caught:
                write()
            assert system_errors.explain(caught.value).startswith(f"{path}: No space left on device; make space")
            assert not path.exists()
    weights.save(model, path)
    assert path.stat().st_size > 64 * 64 * 4


@pytest.mark.parametrize("layers", [0, 6])
def test_enough_space_is_reserved_for_weights(tmp_path, monkeypatch, layers):
    import keras

    sizes = []
    monkeypatch.setattr(weights, "reserve", lambda path, size: sizes.append(size))
    model = keras.Sequential([keras.Input((8,)), *(keras.layers.Dense(8) for _ in range(layers + 1))])
    model.compile("adam", "mse")
    model.fit(np.zeros((2, 8)), np.zeros((2, 8)), verbose=0)
    weights.save(model, tmp_path / "w.weights.h5")
    assert (tmp_path / "w.weights.h5").stat().st_size <= sizes[0]


def test_too_many_open_files_are_no_fault_of_a_slide_or_tile(tmp_path):
    slide = make_data.write_slide(tmp_path / "a.tif", make_data.tissue(0, 64, 64), 0.5)
    former, held = resource.getrlimit(resource.RLIMIT_NOFILE), []
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 20, former[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                held.append(open(slide, "rb"))  # noqa: SIM115 - closed below
        for read in (Slide, read_tile):
            with pytest.raises(OSError, match="Too many open files"):
                read(slide)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, former)
        for handle in held:
            handle.close()
    (tmp_path / "b.tif").write_bytes(b"no slide")
    with pytest.raises(SlideError, match="can't be opened as a slide"):
        Slide(tmp_path / "b.tif")


def test_errors_of_the_system_are_told_from_bugs():
    import tensorflow as tf

    explain = system_errors.explain
    assert explain(PermissionError(errno.EACCES, "Permission denied", "reports")).startswith(
        "reports: Permission denied; change its owner or mode"
    )
    assert explain(OSError("100 requested and 10 written")).startswith("No space left on device; make space")
    h5py = "Can't write (time = 1\n, filename = 'a.h5', file descriptor = 3, errno = 28, error message = 'No space')"
    assert explain(RuntimeError(h5py)).startswith("a.h5: No space left on device; make space")
    assert explain(MemoryError()).startswith("out of memory; close other programs")
    exhausted = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor\nmore")
    assert explain(exhausted).startswith("out of memory: OOM when allocating tensor; close")
    assert explain(RuntimeError("can't start new thread")).startswith("can't start new thread; raise the limit of")
    assert explain(FileNotFoundError(errno.ENOENT, "No such file", "data/x.csv")).endswith("this one: dvc repro")
    for bug in (ValueError("x"), KeyError(28), RuntimeError("28"), FileNotFoundError(errno.ENOENT, "", "other")):
        assert explain(bug) is None
    assert system_errno(ValueError("errno = 280,")) is None


def test_a_bug_keeps_its_traceback(short, monkeypatch):
    monkeypatch.chdir(short.folder)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("histocae.stages.split.run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["split"])


def test_a_full_disk_sets_no_slide_aside(short, tmp_path, monkeypatch, in_process):
    project = copy_of(short, tmp_path / "project", monkeypatch)
    project.table([slide_row(f"s{number}", number) for number in range(6)])
    project.make("inventory", "metadata", "slides")
    before = project.outputs()
    with short_files(tmp_path):
        assert "File too large; raise the limit (ulimit -f)" in command("patches").error
    assert project.outputs() == before
    project.make("patches")
    assert project.read("reports/set_aside.csv").empty
