"""dvc.yaml agrees with the code: DVC reruns a stage only for the dependencies that dvc.yaml names."""

import ast
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from histocae import params, paths
from histocae.cli import COMMANDS
from histocae.pipeline import lineage
from histocae.stages import patches
from histocae.training import recipe
from support.project import Project

ROOT = Path(__file__).resolve().parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
INVENTORY_STAGES = yaml.safe_load((ROOT / "inventory/dvc.yaml").read_text())["stages"]


def test_each_stage_depends_on_the_file_of_its_code():
    assert tuple(STAGES) == lineage.STAGES
    for stage in STAGES:
        deps = STAGES[stage].get("do", STAGES[stage])["deps"]
        assert [path for path in deps if path.startswith("data/code")] == [f"data/code/{stage}.txt"]
        assert not [path for path in deps if path.startswith("src/")]


def test_stages_that_use_all_models_depend_on_the_lineage_of_all():
    stages = {stage for stage in STAGES if "models/lineage" in STAGES[stage].get("do", STAGES[stage])["deps"]}
    assert stages == {"tissue", "crossvalidate", "codecs", "compare", "register"}
    assert "models/lineage/${key}.json" in STAGES["train"]["do"]["deps"]


def test_a_change_of_the_given_split_reruns_the_stages_that_divide_cases_but_not_the_extraction_of_patches():
    given = str(paths.GIVEN_SPLIT)
    assert given in STAGES["metadata"]["outs"]
    stages = {stage for stage in STAGES if given in STAGES[stage].get("do", STAGES[stage])["deps"]}
    assert stages == {"split", "crossvalidate"}


# which stages use a file of the package
USERS = {
    "statistics/intervals.py": {"latent", "tissue", "crossvalidate"},
    "networks/fused.py": {"train", "evaluate", "tissue", "crossvalidate", "codecs", "register"},
    "networks/exported.py": {"register"},
    "contrast/training_data.py": {"evaluate", "tissue"},
    "evaluation/codecs.py": {"codecs"},
    "exports/geojson.py": {"tissue"},
    "exports/outside.py": {"latent", "tissue", "crossvalidate"},
    "latent/outside.py": {"latent"},
    "contrast/outside.py": {"tissue", "crossvalidate"},
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
def inventory(tmp_path_factory):
    """A project whose inventory ran, the files that it wrote in data/code, and the folder of a copied package."""
    folder = tmp_path_factory.mktemp("graph")
    shutil.copytree(lineage.PACKAGE, folder / "histocae", ignore=shutil.ignore_patterns("__pycache__"))
    project = Project(folder / "project")
    project.run("histocae", "inventory", PYTHONPATH=str(folder))
    return project, project.bytes("data/code"), folder


@pytest.mark.parametrize("file", USERS)
def test_a_change_of_code_is_noticed_by_the_stages_that_use_it(inventory, file):
    project, before, folder = inventory
    assert set(before) == {f"data/code/{stage}.txt" for stage in STAGES}
    path = folder / "histocae" / file
    former = path.read_bytes()
    path.write_bytes(former + b"\n")
    project.run("histocae", "inventory", PYTHONPATH=str(folder))
    path.write_bytes(former)  # the next inventory has to notice this too
    after = project.bytes("data/code")
    assert {Path(name).stem for name in before if before[name] != after[name]} == USERS[file]


def test_a_stage_is_refused_if_its_code_changed_after_the_inventory(inventory):
    """Otherwise DVC would cache outputs of changed code under the hashes of the former code."""
    project, _, folder = inventory
    path = folder / "histocae" / "stages" / "metadata.py"
    former, env = path.read_bytes(), {"PYTHONPATH": str(folder), "DVC_STAGE": "metadata"}
    project.run("histocae", "inventory", PYTHONPATH=str(folder))
    project.run("histocae", "metadata", **env)
    before = project.bytes("data")
    path.write_bytes(former + b"\n")
    message = project.run("histocae", "metadata", fails=True, **env)
    assert f"{path} changed since this repro began" in message and "Traceback" not in message
    assert project.bytes("data") == before
    path.write_bytes(former)
    project.run("histocae", "metadata", **env)


def test_the_inventory_updates_training_params_and_deletes_former_stages(inventory):
    project, _, folder = inventory
    (project.folder / "data/code/former.txt").write_text("")
    (project.folder / "data/code/note.md").write_text("a user's own")
    project.set(**{"training.learning_rate": 0.003})
    project.run("histocae", "inventory", PYTHONPATH=str(folder))
    for name, text in project.bytes("models/lineage").items():
        assert json.loads(text)[Path(name).stem]["learning_rate"] == 0.003
    assert {path.name for path in (project.folder / "data/code").iterdir()} == {
        "note.md",
        *(f"{stage}.txt" for stage in STAGES),
    }


def test_code_that_is_no_python_is_reported_in_one_line(inventory):
    project, _, folder = inventory
    path, before = folder / "histocae" / "latent" / "plots.py", project.bytes("data/code")
    former = path.read_bytes()
    path.write_bytes(former + b"def (\n")
    message = project.run("histocae", "inventory", fails=True, PYTHONPATH=str(folder))
    path.write_bytes(former)
    assert f"{path}: line {len(former.splitlines()) + 1}: invalid syntax; fix it" in message
    assert "Traceback" not in message
    assert project.bytes("data/code") == before


def test_no_module_is_left_out_of_the_lineage_by_mistake():
    """A module on which no stage depends belongs to another command, or is exempt for a reason."""
    files = {
        path.relative_to(lineage.PACKAGE).as_posix()
        for path in lineage.PACKAGE.rglob("*")
        if path.suffix in (".py", ".html") and path.stem != "__init__"
    }
    unused = files - {file for stage in STAGES for file in lineage.code_of(stage)}
    assert {file for file in unused if not file.startswith("mnist/")} == {
        "asides.py",
        "cli/completion.py",
        "cli/export.py",
        "cli/jobs.py",
        "cli/plan.py",
        "cli/score.py",
        "cli/signals.py",
        "cli/stages.py",
        "cli/streams.py",
        "cli/system_errors.py",
        "errors.py",
        "exports/columns.py",
        "exports/evaluated.py",
        "exports/existing.py",
        "exports/features.py",
        "exports/forms.py",
        "exports/tables.py",
        "exports/writing.py",
        "params.py",
        "params_file.py",
        "paths.py",
        "pipeline/dvc_state.py",
        "pipeline/lineage.py",
        "pipeline/locks.py",
        "pipeline/user_files.py",
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
        "stages/export.py",
        "stages/inventory.py",
        "stages/verify.py",
        "report/templates/mnist.html",
        "report/templates/scores.html",
        "scoring/api.py",
        "scoring/batches.py",
        "scoring/command.py",
        "scoring/default.py",
        "scoring/exporting.py",
        "scoring/flagging.py",
        "scoring/given.py",
        "scoring/heatmaps.py",
        "scoring/inputs.py",
        "scoring/model.py",
        "scoring/models.py",
        "scoring/names.py",
        "scoring/outputs.py",
        "scoring/page.py",
        "scoring/remarks.py",
        "scoring/results.py",
        "scoring/scored.py",
        "scoring/slides.py",
        "scoring/summary.py",
        "scoring/tiles.py",
        "scoring/wording.py",
        "tracking/database.py",
        "tracking/environment.py",
        "tracking/finished.py",
        "tracking/live.py",
        "tracking/registered.py",
        "tracking/server.py",
        "workers/dask_cluster.py",
        "workers/processes.py",
        "sources/demo_regions.py",  # writes files that the stage inventory lists, as a user writes his
        # jobs on other machines, which no stage uses
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


def test_packages_have_no_code_in_init_but_those_listed():
    """The lineage leaves `__init__` out. That of cli runs commands, that of tracking configures MLflow's log."""
    packages_with_code = {
        file.parent.relative_to(lineage.PACKAGE).as_posix()
        for file in lineage.PACKAGE.rglob("__init__.py")
        if len(ast.parse(file.read_bytes()).body) > 1
    }
    assert packages_with_code == {".", "cli", "tracking"}


def test_code_that_shards_and_checkpoints_depend_on_is_in_their_lineage():
    for stage, code in (("patches", patches.CODE), ("train", recipe.CODE)):
        assert {f"{name}.py" for name in code} <= set(lineage.code_of(stage))


def test_every_stage_is_a_command():
    assert set(COMMANDS) == {*STAGES, *INVENTORY_STAGES, "publish", "verify"}
    for name, stage in {**INVENTORY_STAGES, **STAGES}.items():
        command = stage.get("do", stage)["cmd"].split()
        assert command[:2] == ["histocae", name]
        assert COMMANDS[name].by_model == ("foreach" in stage)


def test_metadata_is_requested_again_if_params_of_the_gdc_change():
    """All params of the GDC but `streams` and `tries` decide which slides there are."""
    watched = {key.removeprefix("data.gdc.") for key in STAGES["metadata"]["params"] if key.startswith("data.gdc.")}
    assert watched == set(params.Gdc.model_fields) - {"streams", "tries"}
    for stage in ("slides", "patches", "tissue"):
        assert not [key for key in STAGES[stage]["params"] if key in ("data", "data.gdc")]


def test_no_key_of_params_yaml_has_a_name_that_dvc_ignores():
    """DVC's run cache ignores keys called size or nfiles: a change of them alone would restore old outputs."""
    keys = set(re.findall(r"^\s*([\w-]+):", (ROOT / "params.yaml").read_text(), re.MULTILINE))
    for section in vars(params).values():
        if isinstance(section, type) and issubclass(section, params.Section):
            keys |= set(section.model_fields)
    assert not {"size", "nfiles"} & keys


def test_no_output_lies_inside_another():
    outs = []
    for stage in [*INVENTORY_STAGES.values(), *STAGES.values()]:
        for out in stage.get("do", stage)["outs"]:
            outs.append(out if isinstance(out, str) else next(iter(out)))
    for out in outs:
        for other in outs:
            assert out == other or not out.startswith(f"{other}/")
    assert len(outs) == len(set(outs))
