"""Two commands at once in one project: the outputs are those of one."""

import re
import time

import pytest

from support.undisturbed import Undisturbed, contents, leftovers, stale_locks, start, tracked, wait_for_no_process

pytestmark = pytest.mark.faults
LATER = (0.0, 0.3, 1.0, 3.0)  # seconds from the first command to the second


def run_twice(pipeline: Undisturbed, command: tuple[str, ...], later: float, tmp_path) -> list[tuple[int, str]]:
    """Run a command twice at once; return exit code and output of both."""
    logs = [tmp_path / f"{number}.txt" for number in range(2)]
    first = start(pipeline.project, *command, log=logs[0])
    time.sleep(later)
    second = start(pipeline.project, *command, log=logs[1])
    codes = [process.wait(400) for process in (first, second)]
    wait_for_no_process(pipeline.project.folder)
    return [(code, log.read_text()) for code, log in zip(codes, logs, strict=True)]


@pytest.mark.parametrize("later", LATER)
def test_two_pipelines_at_once_leave_the_outputs_of_one(pipeline, later, tmp_path, new_tries):
    with new_tries("two at once", "two `dvc repro`").one():
        pipeline.restore("patches")
        results = run_twice(pipeline, pipeline.command, later, tmp_path)
        assert 0 in {code for code, _ in results}, results
        for code, output in results:
            if code:  # DVC's own line
                errors = [line for line in output.splitlines() if line.startswith("ERROR")]
                assert len(errors) == 1 and "lock" in errors[0] and "Traceback" not in output, output
        faults = pipeline.faults(pipeline.project.folder)
        assert not faults, (faults, results)


@pytest.mark.parametrize("later", LATER[:3])
@pytest.mark.parametrize("stage", ["slides", "patches", "split", "train@tumor", "evaluate@tumor", "register"])
def test_a_stage_that_runs_twice_at_once_leaves_the_outputs_of_one(pipeline, stage, later, tmp_path, new_tries):
    command = ("histocae", *stage.split("@"))
    with new_tries("two at once", f"two `{' '.join(command).replace('tumor', 'MODEL')}`").one():
        pipeline.restore(stage)
        folder = pipeline.project.folder
        before = set(contents(folder))
        results = run_twice(pipeline, command, later, tmp_path)
        assert 0 in {code for code, _ in results}, results
        for code, output in results:
            assert "Traceback" not in output
            assert code == 0 or len(re.findall(r"^histocae ", output, re.MULTILINE)) == 1, output
        after = contents(folder)
        assert [name for name, data in after.items() if pipeline.contents.get(name) != data] == [], results
        assert stage == "train@tumor" or set(after) > before or stage == "patches", "no output"
        assert not leftovers(folder) and not stale_locks(folder)
        if stage == "train@tumor":
            expected = [row for row in pipeline.tracked["runs"] if row[0] == "tumor"]
            assert tracked(folder)["runs"] == expected, results
        elif stage == "register":
            assert tracked(folder) == pipeline.tracked, results
