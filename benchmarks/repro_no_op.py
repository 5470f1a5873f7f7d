"""`dvc repro` with nothing to do, compared with a pipeline of as many trivial stages."""

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
from support.project import Project, imported

GOAL = 1.5
ROUNDS = 9


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        ours = Project(Path(folder) / "ours", **{"training.epochs": 1})
        ours.run("dvc", "config", "core.analytics", "false")  # as in the project itself
        ours.run("dvc", "repro")
        stages = ours.run("dvc", "stage", "list", "--all", "--name-only").split()
        print(f"{len(stages)} stages ran, {time.perf_counter() - start:.0f} s")
        empty, still, bare = (Path(folder) / name for name in ("empty", "still", "bare"))
        make_empty(empty, len(stages), ours.environment)
        make_other(ours, still, "inventory/dvc.yaml", "always_changed")
        make_other(ours, bare, "dvc.yaml", "params")
        medians = in_turn(
            {
                "empty pipeline": repro(empty, ours.environment),
                "this pipeline, no stage run": repro(still, ours.environment),
                "this pipeline, no params": repro(bare, ours.environment),
                "this pipeline": repro(ours.folder, ours.environment),
            },
            ROUNDS,
            unit="repros",
            warm=2,
        )
        nothing, unrun, unasked, whole = medians.values()
        locked = (ours.folder / "dvc.lock").read_text(encoding="utf-8")
        process = seconds_of_inventory(ours)
        record(
            "repro_no_op_vs_empty",
            whole / nothing,
            GOAL,
            "lower",
            "`dvc repro` of this pipeline with nothing to do against one of as many stages "
            f"({len(stages)}) of one small dep and out each",
            reason=f"{(whole - unrun) / nothing:.2f} of it is the inventory, which always runs since DVC can't watch "
            f"a user's folder (its process takes {process / nothing:.2f}); {(whole - unasked) / nothing:.2f} that "
            "stages name the params they use, which DVC reads once a stage and `dvc params diff` shows; the rest is "
            f"DVC's reading of dvc.lock ({len(locked.splitlines())} lines) and its look at {locked.count('path: ')} "
            "deps and outs",
        )
        found = imported(lambda env: ours.run("dvc", "repro", **env), Path(folder) / "imports")
    if found:
        print(f"a repro with nothing to do loads {', '.join(sorted(found))}")
    return len(found)


def repro(folder: Path, environment: dict[str, str]) -> Callable[[], None]:
    """Make a function that runs `dvc repro` in a folder; it must succeed."""
    return lambda: dvc(folder, environment, "repro")


def dvc(folder: Path, environment: dict[str, str], *command: str) -> None:
    subprocess.run(["dvc", *command, "--quiet"], cwd=folder, env=environment, check=True)


def make_empty(folder: Path, count: int, environment: dict[str, str]) -> None:
    """Make a pipeline of stages in a row; each wrote a small file from the file of the stage before."""
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


def make_other(ours: Project, folder: Path, file: str, key: str) -> None:
    """Copy a pipeline that ran, and remove a key from the stages of one of its files."""
    shutil.copytree(ours.folder, folder, symlinks=True)
    path = folder / file
    pipeline = yaml.safe_load(path.read_text(encoding="utf-8"))
    for stage in pipeline["stages"].values():
        stage.get("do", stage).pop(key, None)
    path.write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
    dvc(folder, ours.environment, "commit", "--force")


def seconds_of_inventory(ours: Project) -> float:
    """Time only the inventory."""
    start = time.perf_counter()
    ours.run("histocae", "inventory")
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
