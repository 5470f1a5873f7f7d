"""The README's four examples on public data, with small settings. They skip where the data are missing."""

import json

import pandas as pd
import pytest

from support.project import ROOT, Project
from support.workspace import ALL_STAGES

SMALL = {"patches.pixels": 32, "training.epochs": 1, "training.batch_size": 64, "data.demo.side_microns": 256.0}


def example_project(tmp_path, shared, kind: str, **overrides: object) -> Project:
    project = Project(tmp_path / kind, **{**SMALL, **overrides})
    project.run("python", str(ROOT / "examples/own_data.py"), kind, str(shared))
    return project


def test_a_model_trains_on_a_real_slide_among_demo_slides(tmp_path, shared, run_stages):
    if not (shared / "slides/CMU-1-Small-Region.svs").is_file():
        pytest.skip("no CMU-1-Small-Region.svs beside the checkout")
    models = {"all": {"filters": [4], "latent_features": 8}}
    project = example_project(tmp_path, shared, "slides", models=models, **{"patches.pixels": 128})
    result = run_stages(project.folder, *ALL_STAGES, "train all", "evaluate all")
    assert result.code == 0, result.lines
    slides = pd.read_csv(project.folder / "data/slides.csv", sep="|").set_index("slide_id")
    assert slides.loc["CMU-1", ["width", "height", "mpp", "vendor"]].to_list() == [2220, 2967, 0.499, "aperio"]
    counts = pd.read_csv(project.folder / "reports/patching/counts.csv").set_index("slide_id").loc["CMU-1"]
    assert counts[["kept", "background", "unread"]].sum() == 17 * 23
    # at full size, 137 cells have more than half of their pixels colored; the mask has 8 microns per pixel
    assert 110 <= counts["kept"] <= 165


@pytest.mark.long
def test_lung_tiles_pass_through_the_pipeline_from_table_to_registry(tmp_path, shared):
    if not (shared / "lc25000_lung_tiles/groups.csv").is_file():
        pytest.skip("no lung tiles beside the checkout")
    models = {"normal": {"cohort": "normal", "filters": [4, 4], "latent_features": 8}}
    project = example_project(tmp_path, shared, "lung", models=models)
    project.run("dvc", "repro")
    index = pd.read_csv(project.folder / "data/patches/index.csv", sep="|")
    assert len(index) == 1607 and index["slide_id"].nunique() == 80 and index["mpp"].isna().all()
    splits = {
        name: set(pd.read_csv(project.folder / f"data/splits/{name}.csv", sep="|")["case_id"])
        for name in ("train", "validation", "test")
    }
    assert sum(len(cases) for cases in splits.values()) == len(set.union(*splits.values())) == 80
    assert list(json.loads((project.folder / "models/registered.json").read_text())) == ["histocae-normal"]
    row = pd.read_csv(project.folder / "reports/comparison.csv").iloc[0]
    assert row["model"] == "normal" and 100 < row["test_patches"] < 250


def test_biopsies_are_a_table_of_pictures_by_case(tmp_path, shared, run_stages):
    if not (shared / "ebhi_colorectal/table.csv").is_file():
        pytest.skip("no colorectal biopsies beside the checkout")
    project = example_project(tmp_path, shared, "biopsies")
    result = run_stages(project.folder, *ALL_STAGES)
    assert result.code == 0, result.lines
    index = pd.read_csv(project.folder / "data/patches/index.csv", sep="|")
    # 720 pictures less those of the two slides that have both tissues
    assert len(index) == 709 and index["case_id"].nunique() == 146
    assert index.groupby("slide_id")["sample_type"].nunique().eq(1).all()
    assert len(pd.read_csv(project.folder / "reports/set_aside.csv", sep="|")) == 0


def test_crops_of_one_class_train_one_model_but_no_pair(tmp_path, shared, run_stages):
    if not (shared / "tcga_paad_crops/crops.csv").is_file():
        pytest.skip("no TCGA-PAAD crops beside the checkout")
    models = {"all": {"filters": [4], "latent_features": 8}, "tumor": {"cohort": "tumor", "filters": [4]}}
    project = example_project(tmp_path, shared, "paad", models=models, **{"patches.pixels": 128})
    stages = ("train all", "evaluate all", "latent all", "tissue", "crossvalidate", "codecs", "compare")
    result = run_stages(project.folder, *ALL_STAGES, *stages)
    assert result.code == 0, result.lines
    assert list(pd.read_csv(project.folder / "reports/comparison.csv")["model"]) == ["all"]
    index = pd.read_csv(project.folder / "data/patches/index.csv", sep="|")
    assert index["case_id"].nunique() == 10 and 300 < len(index) <= 640
    project.set(**{"models.tumor": {"cohort": "tumor", "filters": [4]}})
    message = run_stages(project.folder, "train tumor").error
    assert "no patches of Solid Tissue Normal" in message and "models of cohort all" in message
