"""`dvc repro` with nothing to do, compared with that of as many trivial stages."""

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
from support.project import Project, heavy_imports

GOAL = 1.5
ROUNDS = 9


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        project = Project(Path(folder) / "project", **{"training.epochs": 1})
        project.run("dvc", "config", "core.analytics", "false")  # as in this repository
        project.run("dvc", "repro")
        stages = project.run("dvc", "stage", "list", "--all", "--name-only").split()
        print(f"{len(stages)} stages ran, {time.perf_counter() - start:.0f} s")
        empty, without_inventory, without_params = (
            Path(folder) / name for name in ("empty", "without_inventory", "without_params")
        )
        make_empty(empty, len(stages), project.environment)
        copy_without(project, without_inventory, "inventory/dvc.yaml", "always_changed")
        copy_without(project, without_params, "dvc.yaml", "params")
        medians = in_turn(
            {
                "empty pipeline": repro(empty, project.environment),
                "this pipeline, no stage run": repro(without_inventory, project.environment),
                "this pipeline, no params": repro(without_params, project.environment),
                "this pipeline": repro(project.folder, project.environment),
            },
            ROUNDS,
            unit="repros",
            warm=2,
        )
        of_empty, of_no_stage, of_no_params, of_project = medians.values()
        lock_file = (project.folder / "dvc.lock").read_text(encoding="utf-8")
        of_inventory = seconds_of_inventory(project)
        record(
            "repro_no_op_vs_empty",
            of_project / of_empty,
            GOAL,
            "lower",
            "`dvc repro` with nothing to do: this pipeline against a pipeline of as many stages "
            f"({len(stages)}) with one small dep and out each",
            reason=f"the inventory adds {(of_project - of_no_stage) / of_empty:.2f}: it always runs, since DVC can't "
            f"watch a user's folder (its process takes {of_inventory / of_empty:.2f}). The params that stages name "
            f"add {(of_project - of_no_params) / of_empty:.2f}: DVC reads them once per stage, and `dvc params diff` "
            f"shows them. For the rest DVC reads dvc.lock ({len(lock_file.splitlines())} lines) and checks "
            f"{lock_file.count('path: ')} deps and outs",
        )
        modules = heavy_imports(lambda env: project.run("dvc", "repro", **env), Path(folder) / "imports")
    if modules:
        print(f"a repro with nothing to do loads {', '.join(sorted(modules))}")
    return len(modules)


def repro(folder: Path, environment: dict[str, str]) -> Callable[[], None]:
    """Make a function that runs `dvc repro` in a folder; it must succeed."""
    return lambda: dvc(folder, environment, "repro")


def dvc(folder: Path, environment: dict[str, str], *command: str) -> None:
    subprocess.run(["dvc", *command, "--quiet"], cwd=folder, env=environment, check=True)


def make_empty(folder: Path, count: int, environment: dict[str, str]) -> None:
    """Make and run a pipeline of stages in a row; each has one small out, and the out of the stage before as dep."""
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


def copy_without(project: Project, folder: Path, file: str, key: str) -> None:
    """Copy a pipeline that ran, and remove a key from the stages of one of its files."""
    shutil.copytree(project.folder, folder, symlinks=True)
    path = folder / file
    pipeline = yaml.safe_load(path.read_text(encoding="utf-8"))
    for stage in pipeline["stages"].values():
        stage.get("do", stage).pop(key, None)
    path.write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
    dvc(folder, project.environment, "commit", "--force")


def seconds_of_inventory(project: Project) -> float:
    """Time `histocae inventory` alone."""
    start = time.perf_counter()
    project.run("histocae", "inventory")
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
