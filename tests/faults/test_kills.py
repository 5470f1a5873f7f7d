"""`dvc repro`, its stages and their workers are killed at any moment; the next `dvc repro` ends as if undisturbed."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
import yaml

from support.tries import Tries
from support.undisturbed import (
    DATABASE,
    SECONDS,
    Undisturbed,
    contents,
    database_begun,
    repair_dvc,
    running_stages,
    start,
    tracked,
    wait_for_no_process,
)

KILLS = int(os.environ.get("FAULTS_KILLS", "50"))
SEED = os.environ.get("FAULTS_SEED", "1")
NewTries = Callable[[str, str], Tries]
VICTIMS = ("all processes", "dvc alone", "one process of the stage")


def kill(process: subprocess.Popen, victim: str, choice: random.Random) -> str:
    """Kill the victim with SIGKILL, and wait for the end of dvc; return which process it was."""
    if victim == "one process of the stage":
        try:
            children = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            children = []
        if children:
            chosen = choice.choice(sorted(children, key=lambda child: child.pid))
            try:
                victim = f"{victim}: {' '.join(chosen.cmdline())}"
                chosen.kill()
            except psutil.NoSuchProcess:
                pass  # it ended by itself meanwhile
            process.wait(SECONDS)
            return victim
        victim = "all processes"
    with suppress(ProcessLookupError):
        (os.killpg if victim == "all processes" else os.kill)(process.pid, signal.SIGKILL)
    process.wait(SECONDS)
    return victim


def disturb(pipeline: Undisturbed, window: str, victim: str, choice: random.Random, log: Path) -> str:
    """Set the pipeline back to a window, and kill it there at a random moment; return a description for messages."""
    in_database = window == DATABASE
    stage = pipeline.database_stage if in_database else window
    again = [] if pipeline.target is None else pipeline.stages
    pipeline.restore(stage, run_again=again)
    moment = choice.random() * pipeline.seconds[window]
    process = start(pipeline.project, *pipeline.command, log=log)
    folder = pipeline.project.folder
    while process.poll() is None and not (database_begun(folder) if in_database else stage in running_stages(log)):
        time.sleep(0.005)
    time.sleep(moment)
    victim = kill(process, victim, choice)
    return f"{moment:.3f} s into {window}, SIGKILL to {victim}"


def survive(pipeline: Undisturbed, number: int, windows: list[str], tmp_path: Path, new_tries: NewTries) -> None:
    """Kill the pipeline once; then `dvc repro` must end with what the undisturbed pipeline has."""
    choice = random.Random(f"{SEED} {number}")
    window = windows[number % len(windows)]
    victim = VICTIMS[(number + number // len(windows)) % len(VICTIMS)]
    folder = pipeline.project.folder
    with new_tries("kills", f"`dvc repro` killed: {victim}").one(), ExitStack() as by_hand:
        described = disturb(pipeline, window, victim, choice, tmp_path / "killed.txt")
        if repair_dvc(folder):
            by_hand.enter_context(new_tries("kills", "such a kill left a file of DVC half-written: deleted").one())
        # at once: the stage of a killed dvc may still be running
        output = pipeline.project.run(*pipeline.command)
        wait_for_no_process(folder)
        faults = pipeline.faults(folder)
        assert not faults, f"{described}: {faults}\n{(tmp_path / 'killed.txt').read_text()}\n{output}"
        if number % 5 == 0:
            again = pipeline.project.run(*pipeline.command)
            assert again.count("Running stage '") == 1, f"{described}: {again}"  # the inventory


def test_first_stages_that_are_killed_end_as_if_undisturbed(first_stages, tmp_path, new_tries):
    for number, window in enumerate(("patches", DATABASE)):
        survive(first_stages, number, [window], tmp_path, new_tries)


@pytest.mark.long
def test_a_training_that_ended_just_before_dvc_was_killed_is_kept(first_stages):
    project, stage = first_stages.project, "train@tumor"
    first_stages.restore(stage)
    project.run("dvc", "repro", stage)
    before, run = contents(project.folder), (project.folder / "models/runs/tumor.json").read_bytes()

    # as if dvc had been killed before it wrote dvc.lock
    lock = project.folder / "dvc.lock"
    locked = yaml.safe_load(lock.read_text())
    del locked["stages"][stage]
    lock.write_text(yaml.safe_dump(locked))
    first_stages.forget_runs(stage)

    assert "epoch" not in project.run("dvc", "repro", stage)
    assert contents(project.folder) == before
    assert (project.folder / "models/runs/tumor.json").read_bytes() == run
    assert tracked(project.folder) == first_stages.tracked

    # recorded by now: who asks for another training gets one
    project.run("dvc", "repro", "--single-item", "--force", stage)
    assert contents(project.folder) == before
    assert [name for name, _ in tracked(project.folder)["runs"]] == ["tumor", "tumor"]


@pytest.mark.faults
@pytest.mark.parametrize("number", range(KILLS))
def test_a_killed_pipeline_ends_as_if_undisturbed(pipeline, number, tmp_path, new_tries):
    survive(pipeline, number, [*pipeline.stages, DATABASE], tmp_path, new_tries)
