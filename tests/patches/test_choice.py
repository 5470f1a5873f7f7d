"""Patches that the index has and leaves out by their faults, from params.yaml to counts and images."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histocae import paths
from histocae.contrast import comparison
from histocae.patches.quality import FAULTS
from histocae.patches.store import MEASURES
from histocae.stages import compare
from support.cohorts import tissue_settings
from support.make_data import NORMAL, TUMOR, tissue, write_slide
from support.workspace import Workspace, slide_row

STAGES = ("inventory", "metadata", "slides", "patches")
INK = np.array([0.82, 0.12, 0.22])  # light that red ink lets through


@pytest.fixture
def inked(project: Workspace) -> Workspace:
    """A project of two slides, of which `a` has red ink over its left half."""
    image = tissue(0, 512, 512)
    image[:, :256] = (image[:, :256] * INK).astype(np.uint8)
    write_slide(project.own / "a.tif", image, 0.5)
    write_slide(project.own / "b.tif", tissue(1, 512, 512), 0.5)
    project.table([slide_row("a"), slide_row("b", 1)])
    project.params(patches__pixels=128, quality__pen=True)
    return project


def counts(project: Workspace) -> pd.DataFrame:
    return project.read("reports/patching/counts.csv").set_index("slide_id")


def test_patches_under_ink_are_left_out_counted_and_drawn(inked):
    inked.make(*STAGES)
    index, table = inked.index, counts(inked)
    assert sorted(index.loc[index["slide_id"] == "a", "column"].unique()) == [2, 3]
    assert table.loc["a", ["kept", "pen", "flagged_pen"]].tolist() == [8, 8, 8]
    assert table.loc["b", ["kept", "pen", "flagged_pen"]].tolist() == [16, 0, 0]
    assert np.isfinite(index[list(MEASURES)].to_numpy()).all()
    (file,) = (inked.folder / "reports/patching/quality").glob("a.*.png")
    with Image.open(file) as image:
        right = np.asarray(image.convert("RGB"))[:, image.width // 2 :]
    assert (right == (0xD5, 0, 0)).all(axis=2).any()  # the crosses


def test_a_change_of_quality_extracts_no_patch_again(inked):
    inked.make(*STAGES)
    inked.params(patches__pixels=128, quality__pen=None)
    result = inked.run(*STAGES)
    assert any("patches of 0 slides to extract, 2 done before" in line for line in result.lines)
    index, table = inked.index, counts(inked)
    inked_ones = index[(index["slide_id"] == "a") & (index["column"] < 2)]
    assert len(index) == 32 and inked_ones["flags"].str.split().map(lambda faults: "pen" in faults).all()
    assert table.loc["a", ["kept", "pen", "flagged_pen"]].tolist() == [16, 0, 8]


def test_a_number_is_a_threshold(inked):
    inked.make(*STAGES)
    measured = inked.index
    inked.params(patches__pixels=128, quality__pen=None, quality__blur=float(measured["sharpness"].max() + 1))
    assert (
        "no slide has a patch; a: all of its patches are left out: 16 blur (params.yaml: quality); b: "
        in inked.run(*STAGES).error
    )
    inked.params(patches__pixels=128, quality__pen=None, quality__blur=1e-6)
    inked.make(*STAGES)
    assert counts(inked)["flagged_blur"].sum() == 0 and len(inked.index) == 32


def test_a_slide_under_ink_is_set_aside_with_the_number_of_its_patches(inked):
    image = (tissue(0, 512, 512) * INK).astype(np.uint8)
    write_slide(inked.own / "a.tif", image, 0.5)
    inked.make(*STAGES)
    aside = inked.read("reports/set_aside.csv").set_index("slide_id")
    assert aside.loc["a", "reason"] == "all of its patches are left out: 16 pen (params.yaml: quality)"
    assert set(inked.index["slide_id"]) == {"b"}


def test_the_page_shows_the_slides_with_most_flagged_patches(tmp_path, monkeypatch):
    """Of slides whose names begin alike, each has its own image."""
    monkeypatch.chdir(tmp_path)
    paths.FAULTS.mkdir(parents=True)
    slides = ["s", "s.2", "s.3", "t", "u", "v", "x", "y"]
    flagged = [9, 8, 7, 6, 5, 4, 3, 0]
    pd.DataFrame({"slide_id": slides, "flagged_pen": flagged, "flagged_blur": 0}).to_csv(
        paths.PATCHING_REPORT / "counts.csv", index=False
    )
    for name in slides[:-1]:
        (paths.FAULTS / f"{name}.0123abcd.png").touch()
    assert [file.name.removesuffix(".0123abcd.png") for file in compare._fault_images()] == slides[:6]


@pytest.mark.parametrize("value", ["yes", -1, 0, [0.2], float("nan"), float("inf")])
def test_other_values_of_quality_are_refused(project, value):
    project.params(quality__blur=value)
    expected = f"quality.blur: expected true, false, null or a number above 0, got {value!r}"
    assert project.run("inventory").only_line.endswith(expected)


@pytest.mark.parametrize("fault", ["pen", "debris"])
@pytest.mark.parametrize("value", [1, 1.5, 20, 0])
def test_thresholds_of_shares_are_shares(project, fault, value):
    """No patch could have more: percent would leave nothing out."""
    project.params(**{f"quality__{fault}": value})
    expected = f"quality.{fault}: expected true, false, null or a share between 0 and 1, got {value}"
    assert project.run("inventory").only_line.endswith(expected)


def test_the_pair_is_measured_with_and_without_flagged_patches():
    rng = np.random.default_rng(0)
    types = np.repeat([TUMOR, NORMAL] * 5, 40)
    slides = np.repeat(np.arange(10), 40)
    rows = pd.DataFrame({"slide_id": slides, "case_id": slides, "sample_type": types})
    rows["label"] = (types == TUMOR).astype(int)
    flagged = rng.random(len(rows)) < 0.4
    rows["score"] = np.where(flagged, -rows["label"], rows["label"]) + rng.normal(0, 0.1, len(rows))
    rows["flags"] = np.where(flagged, "blur fold", None)
    found = comparison.without_flagged(rows, tissue_settings(), 1)
    assert found.flagged == dict.fromkeys(FAULTS, 0) | {"blur": flagged.sum(), "fold": flagged.sum()}
    assert found.patches == (~flagged).sum() and found.aurocs["patch"].value > 0.99
    assert comparison.discriminate_levels(rows, tissue_settings(), 1)["patch"].auroc.value < 0.8
    none = comparison.without_flagged(rows.assign(flags=np.nan), tissue_settings(), 1)
    assert not none.aurocs and none.patches == len(rows)
