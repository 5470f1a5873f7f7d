"""dvc.yaml against the code: what a stage uses and DVC does not see never reruns it."""

import ast
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from histocae import params
from histocae.cli import COMMANDS
from histocae.pipeline import lineage
from histocae.stages import patches
from histocae.training import recipe
from support.project import Project

ROOT = Path(__file__).resolve().parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
FIRST = yaml.safe_load((ROOT / "inventory/dvc.yaml").read_text())["stages"]


def test_each_stage_depends_on_the_file_of_its_code():
    assert tuple(STAGES) == lineage.STAGES
    for stage in STAGES:
        deps = STAGES[stage].get("do", STAGES[stage])["deps"]
        assert [one for one in deps if one.startswith("data/code")] == [f"data/code/{stage}.txt"]
        assert not [one for one in deps if one.startswith("src/")]


def test_stages_that_ask_for_all_models_depend_on_all_of_their_entries():
    asking = {stage for stage in STAGES if "models/lineage" in STAGES[stage].get("do", STAGES[stage])["deps"]}
    assert asking == {"tissue", "crossvalidate", "compare", "register"}
    assert "models/lineage/${key}.json" in STAGES["train"]["do"]["deps"]


CHANGES = {
    "statistics/intervals.py": {"latent", "tissue", "crossvalidate"},
    "networks/fused.py": {"train", "evaluate", "tissue", "crossvalidate"},
    "training/mirrored.py": {"train", "crossvalidate"},
    "stages/split.py": {"split"},
    "sources/gdc/client.py": {"metadata", "slides", "patches"},
    "report/templates/index.html": {"compare"},
    "tracking/registry.py": {"register"},
    "tracking/trainings.py": {"train", "crossvalidate"},
    "params.py": set(),
    "progress.py": set(),
    "mnist/classes.py": set(),
}


@pytest.fixture(scope="module")
def inventoried(tmp_path_factory):
    """A project with an inventory, what it wrote of the code, and the folder of a copy of the package."""
    folder = tmp_path_factory.mktemp("graph")
    shutil.copytree(lineage.PACKAGE, folder / "histocae", ignore=shutil.ignore_patterns("__pycache__"))
    project = Project(folder / "project")
    project.run("histocae", "inventory", PYTHONPATH=str(folder))
    return project, project.bytes("data/code"), folder


@pytest.mark.parametrize("file", CHANGES)
def test_a_change_of_code_is_noticed_by_the_stages_that_use_it(inventoried, file):
    project, before, folder = inventoried
    assert set(before) == {f"data/code/{stage}.txt" for stage in STAGES}
    path = folder / "histocae" / file
    former = path.read_bytes()
    path.write_bytes(former + b"\n")
    project.run("histocae", "inventory", PYTHONPATH=str(folder))
    path.write_bytes(former)  # which the next inventory has to notice as well
    after = project.bytes("data/code")
    assert {Path(name).stem for name in before if before[name] != after[name]} == CHANGES[file]


def test_a_stage_whose_code_is_no_longer_that_of_the_inventory_is_refused(inventoried):
    """Else what other code made would be kept as made by the code that the inventory saw."""
    project, _, folder = inventoried
    path = folder / "histocae" / "stages" / "metadata.py"
    former, env = path.read_bytes(), {"PYTHONPATH": str(folder), "DVC_STAGE": "metadata"}
    project.run("histocae", "inventory", PYTHONPATH=str(folder))
    project.run("histocae", "metadata", **env)
    before = project.bytes("data")
    path.write_bytes(former + b"\n")
    told = project.run("histocae", "metadata", fails=True, **env)
    assert f"{path} changed since this repro began" in told and "Traceback" not in told
    assert project.bytes("data") == before
    path.write_bytes(former)
    project.run("histocae", "metadata", **env)


def test_a_training_param_is_told_of_all_models_and_a_former_stage_is_gone(inventoried):
    project, _, folder = inventoried
    (project.folder / "data/code/former.txt").write_text("")
    (project.folder / "data/code/note.md").write_text("a user's own")
    project.set(**{"training.learning_rate": 0.003})
    project.run("histocae", "inventory", PYTHONPATH=str(folder))
    for name, text in project.bytes("models/lineage").items():
        assert json.loads(text)[Path(name).stem]["learning_rate"] == 0.003
    assert {one.name for one in (project.folder / "data/code").iterdir()} == {
        "note.md",
        *(f"{stage}.txt" for stage in STAGES),
    }


def test_code_that_is_no_python_is_told_in_one_line(inventoried):
    project, _, folder = inventoried
    path, before = folder / "histocae" / "latent" / "plots.py", project.bytes("data/code")
    former = path.read_bytes()
    path.write_bytes(former + b"def (\n")
    told = project.run("histocae", "inventory", fails=True, PYTHONPATH=str(folder))
    path.write_bytes(former)
    assert f"{path}: line {len(former.splitlines()) + 1}: invalid syntax; fix it" in told
    assert "Traceback" not in told
    assert project.bytes("data/code") == before


def test_code_of_no_stage_is_left_out_on_purpose():
    """A module that no stage depends on is one of another command, or was left out with a reason."""
    files = {
        one.relative_to(lineage.PACKAGE).as_posix()
        for one in lineage.PACKAGE.rglob("*")
        if one.suffix in (".py", ".html") and one.stem != "__init__"
    }
    unused = files - {file for stage in STAGES for file in lineage.code_of(stage)}
    assert {one for one in unused if not one.startswith("mnist/")} == {
        "cli/completion.py",
        "cli/jobs.py",
        "cli/plan.py",
        "cli/stages.py",
        "errors.py",
        "params.py",
        "params_file.py",
        "paths.py",
        "pipeline/lineage.py",
        "pipeline/locks.py",
        "pipeline/watch.py",
        "planning/cohort.py",
        "planning/command.py",
        "planning/figures.py",
        "planning/model.py",
        "planning/networks.py",
        "planning/options.py",
        "planning/plan.py",
        "planning/stage.py",
        "progress.py",
        "stages/inventory.py",
        "report/templates/mnist.html",
        "tracking/environment.py",
        "tracking/live.py",
        "tracking/server.py",
        "workers/dask_cluster.py",
        "workers/processes.py",
        # jobs on other machines, of which no stage knows
        "remote/config.py",
        "remote/dvc_locks.py",
        "remote/host.py",
        "remote/places.py",
        "remote/queues.py",
        "remote/tree.py",
        "tracking/jobs/polling.py",
        "tracking/jobs/backends.py",
        "tracking/jobs/reporter.py",
        "tracking/jobs/sending.py",
        "tracking/jobs/commands.py",
        "tracking/jobs/job_files.py",
        "tracking/jobs/job_runs.py",
        "tracking/jobs/pod.py",
        "tracking/jobs/supervisor.py",
        "tracking/jobs/sweep.py",
    }


def test_packages_do_nothing_by_themselves():
    """Their __init__ is not followed: cli runs commands, tracking sets how MLflow logs; no output depends on them."""
    busy = {
        file.parent.relative_to(lineage.PACKAGE).as_posix()
        for file in lineage.PACKAGE.rglob("__init__.py")
        if len(ast.parse(file.read_bytes()).body) > 1
    }
    assert busy == {".", "cli", "tracking"}


def test_what_makes_shards_and_checkpoints_anew_is_code_that_their_stages_list():
    for stage, code in (("patches", patches.CODE), ("train", recipe.CODE)):
        assert {f"{name}.py" for name in code} <= set(lineage.code_of(stage))


def test_every_stage_is_a_command():
    assert set(COMMANDS) == {*STAGES, *FIRST, "publish"}
    for name, stage in {**FIRST, **STAGES}.items():
        command = stage.get("do", stage)["cmd"].split()
        assert command[:2] == ["histocae", name]
        assert COMMANDS[name].by_model == ("foreach" in stage)


def test_dvc_asks_the_gdc_again_where_another_answer_is_wanted():
    """All but how it is asked decides which slides there are."""
    watched = {one.removeprefix("data.gdc.") for one in STAGES["metadata"]["params"] if one.startswith("data.gdc.")}
    assert watched == set(params.Gdc.model_fields) - {"streams", "tries"}
    for stage in ("slides", "patches", "tissue"):
        assert not [one for one in STAGES[stage]["params"] if one in ("data", "data.gdc")]


def test_no_params_key_that_dvc_overlooks():
    """DVC's run cache ignores keys called size or nfiles: a change of them alone would restore old outputs."""
    keys = set(re.findall(r"^\s*([\w-]+):", (ROOT / "params.yaml").read_text(), re.MULTILINE))
    for section in vars(params).values():
        if isinstance(section, type) and issubclass(section, params.Section):
            keys |= set(section.model_fields)
    assert not {"size", "nfiles"} & keys


def test_no_output_lies_inside_another():
    outs = []
    for stage in [*FIRST.values(), *STAGES.values()]:
        for out in stage.get("do", stage)["outs"]:
            outs.append(out if isinstance(out, str) else next(iter(out)))
    for one in outs:
        for other in outs:
            assert one == other or not one.startswith(f"{other}/")
    assert len(outs) == len(set(outs))
