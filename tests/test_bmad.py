"""A model of normal tissue alone, on a synthetic folder in the layout of BMAD's patches of Camelyon16."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from support import make_data
from support.make_data import NORMAL, TUMOR
from support.project import ROOT, Project
from support.workspace import ALL_STAGES

EXAMPLE = str(ROOT / "examples/own_data.py")
COUNTS = {"train/good": 16, "valid/good": 6, "valid/Ungood/img": 4, "test/good": 6, "test/Ungood": 6}
STAGES = [f"{stage} {name}" for stage in ("train", "evaluate", "latent") for name in ("normal", "pca-normal")]


def write_patches(folder: Path) -> None:
    """Write patches of 256 x 256 pixels, a mask, and a file that is no image; tumor is coarser than normal tissue."""
    for number, (subfolder, count) in enumerate(COUNTS.items()):
        for i in range(count):
            image = make_data.tissue(100 * number + i, 256, 256)
            if "Ungood" in subfolder:
                image = image // 2 + np.random.default_rng(i).integers(0, 99, (16, 16, 1)).repeat(16, 0).repeat(16, 1)
            make_data.write_tile(folder / subfolder / f"{1000 + i}.png", image.astype(np.uint8))
    make_data.write_tile(folder / "valid/Ungood/label/1000.png", np.zeros((256, 256, 3), np.uint8))
    (folder / "test/good/Thumbs.db").write_bytes(b"")


def test_a_normal_model_alone_passes_from_folder_to_report(tmp_path, run_stages):
    write_patches(tmp_path / "data/camelyon16_256")
    small = {"cohort": "normal", "architecture": "residual", "filters": [4, 4], "latent_features": 4, "epochs": 1}
    models = {"all": {"filters": [4]}, "tumor": {**small, "cohort": "tumor"}, "normal": small}
    project = Project(tmp_path / "project", models=models, **{"patches.pixels": 32, "training.epochs": 1})
    project.run("python", EXAMPLE, "bmad", str(tmp_path / "data"))
    result = run_stages(project.folder, *ALL_STAGES, *STAGES, "tissue", "codecs", "crossvalidate", "compare")
    assert result.code == 0, result.lines
    assert not [line for line in result.lines if "refused" in line or "asked for" in line]

    index = pd.read_csv(project.folder / "data/patches/index.csv", sep="|")
    assert len(index) == index["slide_id"].nunique() == index["case_id"].nunique() == sum(COUNTS.values())
    split = json.loads((project.folder / "reports/split.json").read_text())
    counts = {
        part: {name: of_type["patches"] for name, of_type in split[part]["sample_types"].items()}
        for part in ("train", "validation", "test")
    }
    assert counts == {"train": {NORMAL: 16}, "validation": {NORMAL: 6, TUMOR: 4}, "test": {NORMAL: 6, TUMOR: 6}}

    tissue = json.loads((project.folder / "reports/tissue/metrics.json").read_text())
    assert tissue["pair"] is None and tissue["one_class"]["model"] == "normal"
    assert set(tissue["one_class"]["scores"]) == {"error", "relative_error", "mahalanobis", "neighbors"}
    scores = pd.read_csv(project.folder / "reports/tissue/one_class.csv")
    assert len(scores) == 12 and np.isfinite(scores[["error", "mahalanobis"]]).all(axis=None)
    assert list(pd.read_csv(project.folder / "reports/comparison.csv")["model"]) == ["normal", "pca-normal"]
    page = re.sub(r"\s+", " ", (project.folder / "reports/index.html").read_text(encoding="utf-8"))
    assert "The table of slides gives the split." in page and page.count("<td>as given</td>") == 5
    assert "Here every patch counts as a case." in page


def test_the_folder_itself_may_be_named_and_another_is_refused(tmp_path):
    write_patches(tmp_path / "Camelyon16")
    project = Project(tmp_path / "project")
    project.run("python", EXAMPLE, "bmad", str(tmp_path / "Camelyon16"))
    table = pd.read_csv(project.folder / "data/own/bmad.csv")
    assert len(table) == sum(COUNTS.values()) and not table["path"].str.contains("label|Thumbs").any()
    assert table.groupby("split")["sample_type"].nunique().to_dict() == {"test": 2, "train": 1, "validation": 2}
    (tmp_path / "empty").mkdir()
    assert "no train/good in it" in project.run("python", EXAMPLE, "bmad", str(tmp_path / "empty"), fails=True)
