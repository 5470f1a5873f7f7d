"""`histocae plan` counts existing outputs and changes nothing; tables with many rows take little memory."""

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
from support.make_data import tissue, write_tile
from support.workspace import Workspace, slide_row

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
TCGA = "--slides 30000 --patches-per-slide 3333 --cores 16"


@pytest.fixture
def benchmarks(monkeypatch):
    """Make the scripts of benchmarks/ importable."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    loaded = set(sys.modules)
    yield
    for name in set(sys.modules) - loaded:
        if (BENCHMARKS / f"{name}.py").is_file():
            del sys.modules[name]


def plan_of(project: Workspace, capsys: pytest.CaptureFixture, options: str = "") -> dict:
    capsys.readouterr()
    result = project.run(f"plan --json {options}")
    assert result.code == 0 and not result.lines, result.lines
    return json.loads(capsys.readouterr().out)


def stages(report: dict) -> dict[str, dict]:
    return {stage["stage"]: stage for stage in report["stages"]}


def test_a_plan_of_a_new_project_names_every_stage_and_writes_nothing(project, capsys):
    project.params(data__source="demo")
    before = sorted(project.folder.rglob("*"))
    assert project.run("plan").lines == []
    output = capsys.readouterr().out
    for name in ("metadata", "slides", "patches", "split", "train@all", "evaluate@pca-512", "latent@all", "tissue"):
        assert f"\n{name} " in output, name
    assert "latent@notebook-tumor" not in output  # this model has no latents
    for assumption in figures.assumed().values():
        assert assumption["origin"] in output and assumption["unit"] in output
    assert sorted(project.folder.rglob("*")) == before


def test_a_plan_counts_the_slides_and_patches_that_stages_wrote(project, capsys):
    write_index(project, MIXED)
    project.make("split")
    cohort = plan_of(project, capsys)["cohort"]
    index = project.index
    assert (cohort["slides"], cohort["patches"]) == (index["slide_id"].nunique(), len(index))
    for part, counts in cohort["parts"].items():
        types = project.read(f"data/splits/{part}.csv")["sample_type"]
        assert counts == {
            "all": len(types),
            "tumor": (types == "Primary Tumor").sum(),
            "normal": (types != "Primary Tumor").sum(),
        }


def test_the_bytes_of_slides_come_from_the_table_of_slides(project, capsys):
    project.slides("a", "b")
    project.make("inventory", "metadata", "slides")
    cohort = plan_of(project, capsys)["cohort"]
    assert cohort["slide_bytes"] == sum(slide.stat().st_size for slide in project.own.glob("*.tif"))
    assert cohort["origins"]["bytes"] == "data/slides.csv"


def test_options_override_what_stages_wrote(project, capsys):
    write_index(project, MIXED)
    report = plan_of(project, capsys, "--slides 10 --patches-per-slide 7 --slide-mb 3 --gb-month 0")
    cohort = report["cohort"]
    assert (cohort["slides"], cohort["patches"], cohort["slide_bytes"]) == (10, 70, 3e7)
    assert report["money"]["disk"] == 0


def test_disk_grows_with_the_patches_and_hours_shrink_with_the_jobs(project, capsys):
    project.params(patches__pixels=128)
    report, doubled = (plan_of(project, capsys, f"--slides {n} --cores 2") for n in (30_000, 60_000))
    assert stages(doubled)["patches"]["disk_bytes"] == pytest.approx(2 * stages(report)["patches"]["disk_bytes"])
    assert stages(report)["patches"]["disk_bytes"] > 30_000 * 3333 * 128 * 128 * 3
    with_jobs = plan_of(project, capsys, "--slides 30000 --cores 2 --jobs 50")
    assert stages(with_jobs)["patches"]["hours_a_job"] < stages(report)["patches"]["hours"]
    assert with_jobs["hours"] == pytest.approx(report["hours"]) and with_jobs["hours_spread"] < report["hours"]
    assert with_jobs["store"]["job_slides"] == 600


def test_a_deleted_slide_takes_no_disk_and_a_cap_limits_the_patches(project, capsys):
    user_slides = plan_of(project, capsys, TCGA)  # the pipeline reads them in place
    assert stages(user_slides)["slides"]["disk_bytes"] == 0
    project.params(data__source="gdc")
    fetched_slides = plan_of(project, capsys, TCGA)
    assert stages(fetched_slides)["slides"]["disk_bytes"] == fetched_slides["cohort"]["slide_bytes"] > 0
    project.params(data__source="gdc", data__keep_slides=False, patches__max_per_slide=100)
    deleted_slides = plan_of(project, capsys, "--slides 300")
    assert stages(deleted_slides)["slides"]["disk_bytes"] == 0 and deleted_slides["cohort"]["patches"] == 30_000


def test_a_cap_limits_the_patches_of_reduced_tiles(project, capsys):
    rows = [{"path": f"{i}.png", **slide_row("ab"[i > 0], i > 0), "file_name": ""} for i in range(5)]
    for row in rows:
        write_tile(project.own / row["path"], tissue(1, 32, 32))
    project.table(rows)
    for most, count in ((None, 5), (3, 4)):
        project.params(data__source="tiles", patches__max_per_slide=most)
        project.make("inventory", "metadata", "slides")
        assert plan_of(project, capsys)["cohort"]["patches"] == count
        assert len(project.make("patches").index) == count
        shutil.rmtree(project.folder / "data/patches")


def test_gpus_cost_hours_and_money_if_their_speed_is_set(project, capsys):
    project.params(patches__pixels=128)
    gpu_stages = stages(plan_of(project, capsys, f"{TCGA} --gpu-patches-per-s 20000 --gpu-hour 2"))
    training = gpu_stages["train@all"]
    parts = plan_of(project, capsys, TCGA)["cohort"]["parts"]
    hours = 5 * (parts["train"]["all"] + parts["validation"]["all"] / 3) / 20_000 / 3600
    assert training["gpu_hours"] == pytest.approx(hours)
    assert training["money"] >= 2 * hours
    assert gpu_stages["train@pca-512"]["gpu_hours"] == 0


def test_a_fold_costs_more_than_the_trainings_of_a_pair(project, capsys):
    project.params(crossvalidation__folds=5)
    costs = stages(plan_of(project, capsys, TCGA))
    assert costs["crossvalidate"]["hours"] > 5 * (costs["train@tumor"]["hours"] + costs["train@normal"]["hours"])


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--slides abc", "--slides: expected a whole number above 0, got 'abc'"),
        ("--slides 1.5", "--slides: expected a whole number above 0, got '1.5'"),
        ("--jobs 0", "--jobs: expected a whole number above 0, got '0'"),
        ("--slide-mb nan", "--slide-mb: expected a number above 0, got 'nan'"),
        ("--patches-per-slide inf", "--patches-per-slide: expected a number above 0, got 'inf'"),
        ("--months -1", "--months: expected a number of 0 or more, got '-1'"),
    ],
)
def test_an_option_that_is_no_number_is_reported_in_one_line(project, option, expected):
    assert project.run(f"plan {option}").only_line == f"histocae plan: {expected}"


def test_an_unknown_cohort_size_and_damaged_outputs_are_reported_in_one_line(project):
    assert "run dvc repro metadata or set --slides" in project.run("plan").only_line
    write_index(project, MIXED)
    project.make("split")
    for file, text, expected in (
        ("reports/split.json", '{"train": 1}', "split.json"),
        ("reports/split.json", '{"train": {}}', "not as the stage split writes it ('patches'); run dvc repro"),
        ("data/slides.csv", "slide_id|bytes\na|many\n", "slides.csv: can't be read"),
        ("data/patches/store.json", "{", "store.json: can't be read"),
        ("data/patches/store.json", "[]", "store.json: holds no keys"),
    ):
        former = (project.folder / file).read_text(encoding="utf-8") if (project.folder / file).is_file() else None
        (project.folder / file).write_text(text, encoding="utf-8")
        assert expected in project.run("plan").only_line
        if former is None:
            (project.folder / file).unlink()
        else:
            (project.folder / file).write_text(former, encoding="utf-8")


def test_a_plan_imports_no_heavy_library(project):
    write_index(project, MIXED)
    code = (
        "import sys; from histocae.cli import main; main(['plan'])\n"
        "print(sorted({'tensorflow', 'keras', 'mlflow', 'pandas', 'numpy', 'dvc'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.rstrip().endswith("[]")


def test_the_demo_has_as_many_slides_as_planned():
    for cases in (*range(6, 15), 26, 56):
        assert count_slides(cases) == len(demo.cohort(demo.DemoSpec(1, cases, 128.0)))


def test_the_package_and_the_docs_have_the_measured_coefficients(benchmarks):
    import scale

    results = json.loads(scale.OUT.read_text(encoding="utf-8"))
    assert figures.MEASURED.read_bytes() == scale.OUT.read_bytes()
    assert set(results["coefficients"]) == set(scale.DESCRIPTIONS) and results["held_out"]
    docs = scale.DOCS.read_text(encoding="utf-8")
    assert scale._coefficients(results) in docs and scale._held_out(results) in docs
    assert scale._simulated(json.loads(scale.SIMULATED.read_text(encoding="utf-8"))) in docs


def test_a_plan_sums_the_terms_of_the_cost_model(project):
    params = params_file.load(Path("params.yaml"))
    measured = {name: coefficient["value"] for name, coefficient in figures.measured()["coefficients"].items()}
    assumed = {name: assumption["value"] for name, assumption in figures.assumed().items()}
    parts = {part: {"all": 600, "tumor": 500, "normal": 100} for part in ("train", "validation", "test")}
    cohort_plan = plan.make(params, CohortSize("slides", 10, 1e9, 1800, parts, {}), measured, assumed, Machine(4, 2))
    stage_plans = {stage.name: stage for stage in cohort_plan.stages}
    extraction_seconds = model.total(measured, model.extracting(10, 1800, 32)) / 4
    assert stage_plans["patches"].hours(Machine(4, 1)) * 3600 == pytest.approx(
        extraction_seconds + model.total(measured, model.indexing(10, 1800))
    )
    assert stage_plans["train@tumor"].inputs.startswith("100 patches") and isinstance(params, Params)  # balanced
    assert cohort_plan.disk == sum(stage.disk for stage in cohort_plan.stages) > cohort_plan.cache - 1


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows_of_the_index(project, benchmarks):
    """Ten times the patches per slide need little more memory: index and split under 120 bytes a row."""
    import cohort_scale
    import numpy as np

    script, peaks = Path(sys.executable).with_name("histocae"), {}
    cohort_scale.draw_tables(project.folder, 300, np.random.default_rng(1))
    project.make("metadata", "slides")
    for requested_rows in (10_000, 100_000):
        shutil.rmtree("data/patches", ignore_errors=True)
        shutil.rmtree("reports/patching", ignore_errors=True)
        rows = cohort_scale.draw_shards(project.folder, requested_rows, np.random.default_rng(2))
        peaks[rows] = [peak([str(script), step]) for step in ("patches", "split")]
        assert json.loads(Path("data/patches/store.json").read_text())["patches"] == rows
    (few, many), added_rows = peaks.values(), np.diff(list(peaks))
    # bytes a row; whole tables take 370 and 1,100
    assert ((np.array(many) - few) / added_rows < 120).all(), peaks
    params = {"seed": 1, "training": {"balance": "none", "min_percent_tumor_nuclei": None}}
    model_rows = read_rows_for_model(Path("data/splits/train.csv"), {"cohort": "all", "params": params})
    assert model_rows.memory_usage(index=False, deep=True).sum() / len(model_rows) < 12
    patches = pd.concat(pd.read_csv(f"data/splits/{part}.csv", sep="|") for part in ("train", "validation", "test"))
    assert len(patches) == max(peaks) and not patches.duplicated(["slide_id", "position"]).any()


def peak(command: list[str]) -> int:
    """Run a command; return its peak of memory in bytes."""
    # a small process starts it, since a child's peak includes its parent's memory at the start
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stderr=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"
    )
    result = subprocess.run([sys.executable, "-c", code, *command], check=True, capture_output=True, text=True)
    return int(result.stdout)


@pytest.mark.long
def test_a_cohort_as_large_as_tcga_needs_less_than_2_gib(tmp_path):
    """Takes half an hour and 45 GB of disk."""
    if shutil.disk_usage(tmp_path).free < 60e9:
        pytest.skip("needs 60 GB of disk")
    out = tmp_path / "results.json"
    script = [sys.executable, BENCHMARKS / "cohort_scale.py", "--folder", tmp_path, "--out", out]
    subprocess.run(script, check=True)
    results = json.loads(out.read_text())
    assert results["patches"] > 9.9e7 and all(step["outcome"] == "done" for step in results["steps"])
    assert max(step["anonymous_mib"] for step in results["steps"]) < 2048
