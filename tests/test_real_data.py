"""The README's four examples on public data, with small settings, and regions on a real slide.

They skip where the data are missing.
"""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from support.make_data import NORMAL, TUMOR
from support.project import ROOT, Project
from support.regions import feature, polygon, write
from support.workspace import ALL_STAGES, slide_row

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


# drawn by hand over the slide, in level-0 pixels: epidermis with a hole, two parts of the dermis, a hair follicle
EPIDERMIS = [[930, 190], [1180, 250], [1560, 900], [1290, 1690], [1060, 1640], [900, 1500], [920, 800]]
HOLE = [[1030, 830], [1210, 800], [1230, 1130], [1040, 1160]]
DERMIS = [
    [[760, 1700], [1090, 1740], [1010, 2420], [560, 2660]],
    [[1500, 1950], [1790, 1890], [1760, 2240], [1490, 2280]],
]
FOLLICLE = [[1130, 1900], [1420, 1880], [1400, 2270], [1160, 2310]]


def test_regions_drawn_on_a_real_slide_label_its_patches(project, shared):
    slide = shared / "slides/CMU-1-Small-Region.svs"
    if not slide.is_file():
        pytest.skip("no CMU-1-Small-Region.svs beside the checkout")
    (project.own / slide.name).symlink_to(slide)
    project.table([slide_row("CMU-1", file=slide.name)])
    write(
        project.folder / "regions/CMU-1.geojson",
        feature("Tumor", polygon(EPIDERMIS, HOLE)),
        feature("Stroma", {"type": "MultiPolygon", "coordinates": [[ring] for ring in DERMIS]}),
        feature("Ignore*", polygon(FOLLICLE), isLocked=True, name="follicle"),
    )
    project.params(data__annotations="regions", patches__pixels=128)
    project.make(*ALL_STAGES[:4])
    index, counts = project.index, project.read("reports/patching/counts.csv").loc[0]

    def share(*outside, holes=()):
        """Measure the share of each patch inside rings on the slide's own pixels."""
        image = Image.new("1", (2220, 2967))
        for rings, value in ((outside, 1), (holes, 0)):
            for ring in rings:
                ImageDraw.Draw(image).polygon([tuple(point) for point in ring], fill=value)
        mask = np.asarray(image)
        return np.array([mask[y : y + 128, x : x + 128].mean() for x, y in zip(index["x"], index["y"], strict=True)])

    tumor, normal, excluded = share(EPIDERMIS, holes=[HOLE]), share(*DERMIS), share(FOLLICLE)
    assert excluded.max() < 0.51 and counts["excluded"] >= 4
    assert (index["label_share"] - np.maximum(tumor, normal)).abs().max() < 0.012
    sure = np.abs(index["label_share"] - 0.5) > 0.012
    labels = np.where(tumor >= 0.5, TUMOR, np.where(normal >= 0.5, NORMAL, ""))
    assert (index["patch_label"].fillna("") == labels)[sure].all()
    assert counts["tumor"] >= 15 and counts["normal"] >= 10 and counts["unlabeled"] >= 20
