"""The README's three examples on public data, in small. They skip where the data are not there."""

import json

import pandas as pd
import pytest

from support.project import ROOT, Project

SMALL = {"patches.pixels": 32, "training.epochs": 1, "training.batch_size": 64, "data.demo.side_microns": 256.0}


def example(tmp_path, shared, kind: str, **overrides: object) -> Project:
    project = Project(tmp_path / kind, **{**SMALL, **overrides})
    project.run("python", str(ROOT / "examples/own_data.py"), kind, str(shared))
    return project


def test_a_real_slide_among_demo_slides_is_trained_on(tmp_path, shared):
    if not (shared / "slides/CMU-1-Small-Region.svs").is_file():
        pytest.skip("no CMU-1-Small-Region.svs beside the checkout")
    models = {"all": {"filters": [4], "latent_features": 8}}
    project = example(tmp_path, shared, "slides", models=models, **{"patches.pixels": 128})
    project.run("dvc", "repro", "evaluate@all")
    slides = pd.read_csv(project.folder / "data/slides.csv", sep="|").set_index("slide_id")
    assert slides.loc["CMU-1", ["width", "height", "mpp", "vendor"]].to_list() == [2220, 2967, 0.499, "aperio"]
    counts = pd.read_csv(project.folder / "reports/patching/counts.csv").set_index("slide_id").loc["CMU-1"]
    assert counts[["kept", "background", "unread"]].sum() == 17 * 23
    # 137 cells have more than half of their pixels colored at full size; the mask sees 8 microns
    assert 110 <= counts["kept"] <= 165


def test_lung_tiles_go_from_table_to_registry(tmp_path, shared):
    if not (shared / "lc25000_lung_tiles/groups.csv").is_file():
        pytest.skip("no lung tiles beside the checkout")
    models = {"normal": {"cohort": "normal", "filters": [4, 4], "latent_features": 8}}
    project = example(tmp_path, shared, "lung", models=models)
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


def test_crops_of_one_class_train_one_model_and_refuse_the_pair(tmp_path, shared):
    if not (shared / "tcga_paad_crops/crops.csv").is_file():
        pytest.skip("no TCGA-PAAD crops beside the checkout")
    models = {"all": {"filters": [4], "latent_features": 8}, "tumor": {"cohort": "tumor", "filters": [4]}}
    project = example(tmp_path, shared, "paad", models=models, **{"patches.pixels": 128})
    project.run("dvc", "repro", "compare")
    assert list(pd.read_csv(project.folder / "reports/comparison.csv")["model"]) == ["all"]
    index = pd.read_csv(project.folder / "data/patches/index.csv", sep="|")
    assert index["case_id"].nunique() == 10 and 300 < len(index) <= 640
    project.set(**{"models.tumor": {"cohort": "tumor", "filters": [4]}})
    told = project.run("histocae", "train", "tumor", fails=True)
    assert "Traceback" not in told and "no patches of Solid Tissue Normal" in told
    assert "models of cohort all" in told.splitlines()[-1]
