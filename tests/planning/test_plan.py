"""`histocae plan`: what it counts is what is there, it changes nothing, and long tables take little memory."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from histocae import params_file
from histocae.cohort.balance import read_rows_for_model
from histocae.params import Params
from histocae.planning import figures, model, plan
from histocae.planning.cohort import CohortSize
from histocae.planning.stage import Machine
from histocae.sources import demo
from histocae.sources.demo_cases import count_slides
from support.cohorts import MIXED, write_index
from support.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
TCGA = "--slides 30000 --patches-per-slide 3333 --cores 16"


@pytest.fixture
def benchmarks(monkeypatch):
    """The scripts of benchmarks/ can be imported."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if (BENCHMARKS / f"{name}.py").is_file():
            del sys.modules[name]


def planned(project: Workspace, capsys: pytest.CaptureFixture, options: str = "") -> dict:
    capsys.readouterr()
    result = project.run(f"plan --json {options}")
    assert result.code == 0 and not result.lines, result.lines
    return json.loads(capsys.readouterr().out)


def stages(found: dict) -> dict[str, dict]:
    return {one["stage"]: one for one in found["stages"]}


def test_a_plan_before_anything_ran_names_every_stage_and_writes_nothing(project, capsys):
    project.params(data__source="demo")
    before = sorted(project.folder.rglob("*"))
    assert project.run("plan").lines == []
    told = capsys.readouterr().out
    for name in ("metadata", "slides", "patches", "split", "train@all", "evaluate@pca-512", "latent@all", "tissue"):
        assert f"\n{name} " in told, name
    assert "latent@tumor" not in told  # it has no latents
    for one in figures.assumed().values():
        assert one["origin"] in told and one["unit"] in told
    assert sorted(project.folder.rglob("*")) == before


def test_what_stages_have_written_is_what_is_planned(project, capsys):
    write_index(project, MIXED)
    project.make("split")
    found = planned(project, capsys)["cohort"]
    index = project.index
    assert (found["slides"], found["patches"]) == (index["slide_id"].nunique(), len(index))
    for part, counts in found["parts"].items():
        types = project.read(f"data/splits/{part}.csv")["sample_type"]
        assert counts == {
            "all": len(types),
            "tumor": (types == "Primary Tumor").sum(),
            "normal": (types != "Primary Tumor").sum(),
        }


def test_bytes_of_slides_are_those_of_the_tables(project, capsys):
    project.slides("a", "b")
    project.make("inventory", "metadata", "slides")
    told = planned(project, capsys)["cohort"]
    assert told["slide_bytes"] == sum(one.stat().st_size for one in project.own.glob("*.tif"))
    assert told["origins"]["bytes"] == "data/slides.csv"


def test_options_take_the_place_of_what_is_there(project, capsys):
    write_index(project, MIXED)
    told = planned(project, capsys, "--slides 10 --patches-per-slide 7 --slide-mb 3 --gb-month 0")
    assert (told["cohort"]["slides"], told["cohort"]["patches"], told["cohort"]["slide_bytes"]) == (10, 70, 3e7)
    assert told["money"]["disk"] == 0


def test_twice_as_many_patches_take_twice_the_disk_and_more_jobs_less_time(project, capsys):
    project.params(patches__pixels=128)
    one, two = (planned(project, capsys, f"--slides {n} --cores 2") for n in (30_000, 60_000))
    assert stages(two)["patches"]["disk_bytes"] == pytest.approx(2 * stages(one)["patches"]["disk_bytes"])
    assert stages(one)["patches"]["disk_bytes"] > 30_000 * 3333 * 128 * 128 * 3
    spread = planned(project, capsys, "--slides 30000 --cores 2 --jobs 50")
    assert stages(spread)["patches"]["hours_a_job"] < stages(one)["patches"]["hours"]
    assert spread["hours"] == pytest.approx(one["hours"]) and spread["hours_spread"] < one["hours"]
    assert spread["store"]["job_slides"] == 600


def test_a_slide_that_is_let_go_takes_no_disk_and_a_cap_counts(project, capsys):
    kept = planned(project, capsys, TCGA)  # as slides of one's own: these lie where they lie
    assert stages(kept)["slides"]["disk_bytes"] == 0
    project.params(data__source="gdc")
    fetched = planned(project, capsys, TCGA)
    assert stages(fetched)["slides"]["disk_bytes"] == fetched["cohort"]["slide_bytes"] > 0
    project.params(data__source="gdc", data__keep_slides=False, patches__max_per_slide=100)
    let_go = planned(project, capsys, "--slides 300")
    assert stages(let_go)["slides"]["disk_bytes"] == 0 and let_go["cohort"]["patches"] == 30_000


def test_cards_take_hours_and_money_where_their_speed_is_given(project, capsys):
    project.params(patches__pixels=128)
    on_cards = stages(planned(project, capsys, f"{TCGA} --gpu-patches-per-s 20000 --gpu-hour 2"))
    training = on_cards["train@all"]
    parts = planned(project, capsys, TCGA)["cohort"]["parts"]
    hours = 5 * (parts["train"]["all"] + parts["validation"]["all"] / 3) / 20_000 / 3600
    assert training["gpu_hours"] == pytest.approx(hours)
    assert training["money"] >= 2 * hours
    assert on_cards["train@pca-512"]["gpu_hours"] == 0


def test_folds_cost_as_many_trainings(project, capsys):
    project.params(crossvalidation__folds=5)
    told = stages(planned(project, capsys, TCGA))
    assert told["crossvalidate"]["hours"] > 5 * (told["train@tumor"]["hours"] + told["train@normal"]["hours"])


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--slides abc", "--slides: expected a whole number above 0, got 'abc'"),
        ("--slides 1.5", "--slides: expected a whole number above 0, got '1.5'"),
        ("--jobs 0", "--jobs: expected a whole number above 0, got '0'"),
        ("--slide-mb nan", "--slide-mb: expected a number above 0, got 'nan'"),
        ("--patches-per-slide inf", "--patches-per-slide: expected a number above 0, got 'inf'"),
        ("--months -1", "--months: expected a number of 0 or more, got '-1'"),
    ],
)
def test_an_option_that_is_no_number_is_told_in_one_line(project, option, told):
    assert project.run(f"plan {option}").only_line == f"histocae plan: {told}"


def test_a_cohort_of_unknown_size_and_damaged_outputs_are_told_in_one_line(project):
    assert "run dvc repro metadata or set --slides" in project.run("plan").only_line
    write_index(project, MIXED)
    project.make("split")
    for file, text, told in (
        ("reports/split.json", '{"train": 1}', "split.json"),
        ("reports/split.json", '{"train": {}}', "not as the stage split writes it ('patches'); run dvc repro"),
        ("data/slides.csv", "slide_id|bytes\na|many\n", "slides.csv: can't be read"),
        ("data/patches/store.json", "{", "store.json: can't be read"),
        ("data/patches/store.json", "[]", "store.json: holds no keys"),
    ):
        former = (project.folder / file).read_text(encoding="utf-8") if (project.folder / file).is_file() else None
        (project.folder / file).write_text(text, encoding="utf-8")
        assert told in project.run("plan").only_line
        if former is None:
            (project.folder / file).unlink()
        else:
            (project.folder / file).write_text(former, encoding="utf-8")


def test_a_plan_imports_nothing_heavy(project):
    write_index(project, MIXED)
    code = (
        "import sys; from histocae.cli import main; main(['plan'])\n"
        "print(sorted({'tensorflow', 'keras', 'mlflow', 'pandas', 'numpy', 'dvc'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")


def test_the_demo_is_as_large_as_it_is_planned():
    for cases in (*range(6, 15), 26):
        assert count_slides(cases) == len(demo.cohort(demo.DemoSpec(1, cases, 128.0)))


def test_the_package_has_what_was_measured_and_the_docs_quote_it(benchmarks):
    import scale

    told = json.loads(scale.OUT.read_text(encoding="utf-8"))
    assert figures.MEASURED.read_bytes() == scale.OUT.read_bytes()
    assert set(told["coefficients"]) == set(scale.ABOUT) and told["held_out"]
    docs = scale.DOCS.read_text(encoding="utf-8")
    assert scale._coefficients(told) in docs and scale._held_out(told) in docs
    assert scale._simulated(json.loads(scale.SIMULATED.read_text(encoding="utf-8"))) in docs


def test_a_plan_adds_up_what_the_model_says(project):

    given = params_file.load(Path("params.yaml"))
    measured = {name: one["value"] for name, one in figures.measured()["coefficients"].items()}
    assumed = {name: one["value"] for name, one in figures.assumed().items()}
    parts = {part: {"all": 600, "tumor": 500, "normal": 100} for part in ("train", "validation", "test")}
    made = plan.make(given, CohortSize("slides", 10, 1e9, 1800, parts, {}), measured, assumed, Machine(4, 2))
    of = {one.name: one for one in made.stages}
    cutting = model.total(measured, model.extracting(10, 1800, 32)) / 4
    assert of["patches"].hours(Machine(4, 1)) * 3600 == pytest.approx(
        cutting + model.total(measured, model.indexing(10, 1800))
    )
    assert of["train@tumor"].things.startswith("100 patches") and isinstance(given, Params)  # balanced
    assert made.disk == sum(one.disk for one in made.stages) > made.cache - 1


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows_of_the_index(project, benchmarks):
    """Ten times as many patches of as many slides: index and split take as much, a training a few bytes a row."""
    import cohort_scale
    import numpy as np

    script, peaks = Path(sys.executable).with_name("histocae"), {}
    cohort_scale.draw_tables(project.folder, 300, np.random.default_rng(1))
    project.make("metadata", "slides")
    for rows in (10_000, 100_000):
        shutil.rmtree("data/patches", ignore_errors=True)
        shutil.rmtree("reports/patching", ignore_errors=True)
        rows = cohort_scale.draw_shards(project.folder, rows, np.random.default_rng(2))
        peaks[rows] = [peak([str(script), step]) for step in ("patches", "split")]
        assert json.loads(Path("data/patches/store.json").read_text())["patches"] == rows
    (few, many), rows = peaks.values(), np.diff(list(peaks))
    assert ((np.array(many) - few) / rows < 120).all(), peaks  # bytes a row; whole tables take 370 and 1,100
    given = {"seed": 1, "training": {"balance": "none", "min_percent_tumor_nuclei": None}}
    learnt = read_rows_for_model(Path("data/splits/train.csv"), {"cohort": "all", "params": given})
    assert learnt.memory_usage(index=False, deep=True).sum() / len(learnt) < 12
    whole = pd.concat(pd.read_csv(f"data/splits/{part}.csv", sep="|") for part in ("train", "validation", "test"))
    assert len(whole) == max(peaks) and not whole.duplicated(["slide_id", "position"]).any()


def peak(command: list[str]) -> int:
    """Run a command; the most memory that it had, in bytes."""
    # started by a small process: a child counts what its parent held when it was begun
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stderr=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.long
def test_a_cohort_of_all_of_tcga_goes_through_within_2_gib(tmp_path):
    """Half an hour, and 45 GB of disk."""
    if shutil.disk_usage(tmp_path).free < 60e9:
        pytest.skip("needs 60 GB of disk")
    out = tmp_path / "told.json"
    script = [sys.executable, BENCHMARKS / "cohort_scale.py", "--folder", tmp_path, "--out", out]
    subprocess.run(script, check=True)
    told = json.loads(out.read_text())
    assert told["patches"] > 9.9e7 and all(one["outcome"] == "done" for one in told["steps"])
    assert max(one["anonymous_mib"] for one in told["steps"]) < 2048
