"""`dvc repro` with nothing to do, beside that of a pipeline of as many stages that has nothing in it."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from harness import in_turn, record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from project import Project, imported

GOAL = 1.5
ROUNDS = 9


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        ours = Project(Path(folder) / "ours", **{"training.epochs": 1})
        ours.run("dvc", "config", "core.analytics", "false")  # as in the project itself
        ours.run("dvc", "repro")
        stages = ours.run("dvc", "stage", "list", "--name-only").split()
        print(f"{len(stages)} stages ran, {time.perf_counter() - start:.0f} s")
        empty, still = Path(folder) / "empty", Path(folder) / "still"
        make_empty(empty, len(stages), ours.environment)
        make_still(ours.folder, still, ours.environment)
        medians = in_turn(
            {
                "empty pipeline": repro(empty, ours.environment),
                "this pipeline, no stage run": repro(still, ours.environment),
                "this pipeline": repro(ours.folder, ours.environment),
            },
            ROUNDS, unit="repros", warm=2,
        )  # fmt: skip
        nothing, unrun, all_of_it = medians.values()
        locked = (ours.folder / "dvc.lock").read_text(encoding="utf-8")
        record(
            "repro_no_op_vs_empty", all_of_it / nothing, GOAL, "lower",
            "`dvc repro` of this pipeline with nothing to do against one of as many stages "
            f"({len(stages)}) of one small dep and out each",
            reason=f"of {all_of_it / nothing:.2f}, DVC alone takes {unrun / nothing:.2f} and runs nothing in it: it "
            f"reads dvc.lock ({len(locked.splitlines())} lines) twice and params.yaml once a stage, and looks at "
            f"{locked.count('path: ')} deps and outs. The other {(all_of_it - unrun) / nothing:.2f} is the inventory "
            "which always runs, since DVC can't watch a user's folder: its process "
            f"({seconds_of_inventory(ours) / nothing:.2f}), and DVC's reading and writing of dvc.lock after it",
        )  # fmt: skip
        found = imported(lambda env: ours.run("dvc", "repro", **env), Path(folder) / "imports")
    if found:
        print(f"a repro with nothing to do loads {', '.join(sorted(found))}")
    return len(found)


def repro(folder: Path, environment: dict[str, str]) -> Callable[[], None]:
    """Give what runs `dvc repro` in a folder; it must succeed."""
    return lambda: dvc(folder, environment, "repro")


def dvc(folder: Path, environment: dict[str, str], *command: str) -> None:
    subprocess.run(["dvc", *command, "--quiet"], cwd=folder, env=environment, check=True)


def make_empty(folder: Path, count: int, environment: dict[str, str]) -> None:
    """Make a pipeline of stages in a row, each of which wrote one small file from the one before it."""
    folder.mkdir()
    (folder / "0.txt").write_text("0\n", encoding="utf-8")
    stages = {
        f"stage-{i}": {"cmd": f"echo {i} > {i}.txt", "deps": [f"{i - 1}.txt"], "outs": [f"{i}.txt"]}
        for i in range(1, count + 1)
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False), encoding="utf-8")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, env=environment, check=True)
    dvc(folder, environment, "init")
    dvc(folder, environment, "config", "core.analytics", "false")
    dvc(folder, environment, "repro")


def make_still(ours: Path, folder: Path, environment: dict[str, str]) -> None:
    """Copy a pipeline that ran, and take from its inventory that it always runs."""
    shutil.copytree(ours, folder, symlinks=True)
    path = folder / "dvc.yaml"
    pipeline = yaml.safe_load(path.read_text(encoding="utf-8"))
    del pipeline["stages"]["inventory"]["always_changed"]
    path.write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
    dvc(folder, environment, "commit", "--force")


def seconds_of_inventory(ours: Project) -> float:
    """Time the inventory by itself."""
    start = time.perf_counter()
    ours.run("histocae", "inventory")
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
