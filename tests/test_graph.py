"""dvc.yaml against the code: a module that a stage uses and dvc.yaml does not list never reruns it."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from histocae import params, recipe
from histocae.cli import COMMANDS
from histocae.stages import patches

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "histocae"
# These decide where, how fast and what is told, not what comes out. Values of params.yaml are
# compared by DVC, and those that an entry of `models` leaves to the code stand in models/lineage.
EXEMPT = {"__init__", "cli", "errors", "executor", "locks", "params", "paths", "progress"}
# what a stage reports to is no reason to train again
EXEMPT_IN = {stage: ("tracking",) for stage in ("train", "crossvalidate")}
EXEMPT_IN |= {stage: ("tracking/server",) for stage in ("compare", "register")}
# register's delivery builds the saved model again from its weights; how it looks is settled by then
EXEMPT_IN["register"] += ("model", "training", "backend", "store", "tables", "identifiers")
EXEMPT_IN["compare"] += ("tables", "identifiers")
# what an exempt module writes into the outputs all the same
ALSO = {stage: ("samples", "tracking/trainings") for stage in ("train", "crossvalidate")}
ALSO["register"] = ("tracking/served_pair",)
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def imports(module: str) -> set[str]:
    """Names of the package's modules that a module imports anywhere, as paths without suffix."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("histocae"):
            base = node.module.removeprefix("histocae").strip(".").replace(".", "/")
            names = [f"{base}/{one.name}" if base else one.name for one in node.names]
            found |= {n for n in [base, *names] if n and (PACKAGE / f"{n}.py").is_file()}
    return found


def reach(start: set[str], never: set[str], exempt: tuple[str, ...]) -> set[str]:
    """Modules that some modules import, and what those import, but for what does not matter here."""
    seen, todo = set(), set(start)
    while todo:
        module = todo.pop()
        seen.add(module)
        todo |= {
            one for one in imports(module) - seen
            if one not in never and not any(one == name or one.startswith(f"{name}/") for name in exempt)
        }  # fmt: skip
    return seen


@pytest.mark.parametrize("stage", STAGES)
def test_stages_list_the_code_they_use(stage):
    body = STAGES[stage].get("do", STAGES[stage])
    if body.get("always_changed"):
        pytest.skip("runs at every repro, whatever it depends on")
    listed = {
        dep.removeprefix("src/histocae/").removesuffix(".py")
        for dep in body["deps"]
        if dep.endswith(".py")
    }
    start = {f"stages/{stage}", *ALSO.get(stage, ())}
    assert listed == reach(start, EXEMPT, EXEMPT_IN.get(stage, ()))


def test_what_makes_shards_and_checkpoints_anew_is_code_that_their_stages_list():
    for stage, code in (("patches", patches.CODE), ("train", recipe.CODE)):
        body = STAGES[stage].get("do", STAGES[stage])
        assert {f"src/histocae/{name}.py" for name in code} <= set(body["deps"])


def test_every_stage_is_a_command():
    for name, stage in STAGES.items():
        command = stage.get("do", stage)["cmd"].split()
        assert command[:2] == ["histocae", name]
        assert COMMANDS[name][1] == ("foreach" in stage)


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
    for stage in STAGES.values():
        for out in stage.get("do", stage)["outs"]:
            outs.append(out if isinstance(out, str) else next(iter(out)))
    for one in outs:
        for other in outs:
            assert one == other or not one.startswith(f"{other}/")
    assert len(outs) == len(set(outs))
