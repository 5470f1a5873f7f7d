"""The demo cohort: its table, its slides as OpenSlide reads them, its truth, and writing that is all or nothing."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import openslide
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

from histocae.sources import demo

SMALL = demo.DemoSpec(seed=5, cases=8, side_microns=256.0)
FULL = demo.DemoSpec(seed=20181003, cases=26, side_microns=768.0)
TUMOR, NORMAL = "Primary Tumor", "Solid Tissue Normal"


def pick(spec, kind, mpp):
    table = demo.cohort(spec)
    return table[(table["sample_type"] == kind) & (table["mpp"] == mpp)].iloc[0]


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """One slide of each class and resolution: {(sample_type, mpp): (row, path)}."""
    folder = tmp_path_factory.mktemp("slides")
    rows = {(kind, mpp): pick(SMALL, kind, mpp) for kind in (TUMOR, NORMAL) for mpp in (0.25, 0.5)}
    return {key: (row, demo.write_slide(SMALL, row["slide_id"], folder)) for key, row in rows.items()}


def truth_of(path):
    return demo.truth_mask(path.with_suffix(".truth.png"))


def test_default_cohort_follows_the_rules():
    table = demo.cohort(FULL)
    assert list(table.columns) == [
        "slide_id",
        "case_id",
        "sample_id",
        "disease_type",
        "sample_type",
        "percent_normal_cells",
        "percent_stromal_cells",
        "percent_tumor_cells",
        "percent_tumor_nuclei",
        "file_name",
        "mpp",
    ]
    assert 38 <= len(table) <= 44
    assert table["slide_id"].is_unique and table["file_name"].is_unique
    assert table["case_id"].nunique() == FULL.cases
    assert table["slide_id"].str.fullmatch(r"DEMO-S[1-4]-\d{4}-(01|11)A-01-(TS|BS)1").all()
    parts = table["slide_id"].str.split("-")
    assert (parts.str[:3].str.join("-") == table["case_id"]).all()
    assert (parts.str[:4].str.join("-") == table["sample_id"]).all()
    assert (parts.str[3].str[:2].map({"01": TUMOR, "11": NORMAL}) == table["sample_type"]).all()
    assert (table["file_name"] == table["slide_id"] + f".{FULL.fingerprint}.tif").all()

    kinds = table.groupby("case_id")["sample_type"].agg(lambda s: tuple(sorted(set(s)))).value_counts()
    assert kinds[(TUMOR,)] >= 4 and kinds[(NORMAL,)] >= 4 and kinds[(TUMOR, NORMAL)] >= 4
    assert (table["sample_id"].value_counts() == 2).sum() >= 4
    sites = pd.crosstab(parts.str[1], table["sample_type"])
    assert sites.shape == (4, 2) and (sites[TUMOR] == sites[NORMAL]).all()
    fine = table.groupby("sample_type")["mpp"].agg(lambda m: (m == 0.25).mean())
    assert set(table["mpp"]) == {0.25, 0.5} and fine.between(0.2, 0.3).all() and np.ptp(fine) < 0.05


def test_percentages_agree_with_each_other():
    table = demo.cohort(FULL)
    parts = table[["percent_normal_cells", "percent_stromal_cells", "percent_tumor_cells"]]
    assert (parts.sum(axis=1) == 100).all() and (parts >= 0).all().all()
    tumor = table["sample_type"] == TUMOR
    assert table.loc[tumor, "percent_tumor_cells"].between(40, 75).all()
    assert table.loc[tumor, "percent_tumor_nuclei"].between(15, 75).all()
    assert (table.loc[~tumor, ["percent_tumor_cells", "percent_tumor_nuclei"]] == 0).all().all()


@pytest.mark.parametrize(("cases", "least"), [(6, 3), (7, 3), (8, 4), (9, 4), (13, 4)])
def test_small_cohorts_hold_both_classes(cases, least):
    table = demo.cohort(demo.DemoSpec(3, cases, 256.0))
    assert (table.groupby("sample_type")["case_id"].nunique() >= least).all()
    assert table["case_id"].nunique() == cases
    assert (table.groupby("sample_type")["mpp"].nunique() == 2).all()
    assert abs(table["sample_type"].value_counts().diff().iloc[1]) <= 2


@pytest.mark.parametrize("spec", [demo.DemoSpec(3, 5, 256.0), demo.DemoSpec(3, 8, 255.0), demo.DemoSpec(3, 8, 64.0)])
def test_too_few_cases_or_an_impossible_side(spec, tmp_path):
    with pytest.raises(ValueError):
        demo.cohort(spec)
    with pytest.raises(ValueError):
        demo.write_slide(spec, "DEMO-S1-0001-01A-01-TS1", tmp_path)


def test_the_table_follows_the_seed(monkeypatch):
    pd.testing.assert_frame_equal(demo.cohort(SMALL), demo.cohort(demo.DemoSpec(5, 8, 256.0)))
    other = demo.DemoSpec(6, 8, 256.0)
    assert not demo.cohort(SMALL)["slide_id"].equals(demo.cohort(other)["slide_id"])
    assert SMALL.fingerprint != other.fingerprint
    before = SMALL.fingerprint
    monkeypatch.setattr(demo, "VERSION", demo.VERSION + 1)
    assert SMALL.fingerprint != before


def test_openslide_reads_size_levels_and_mpp(slides):
    for (_, mpp), (row, path) in slides.items():
        assert path.name == row["file_name"]
        with openslide.OpenSlide(path) as slide:
            side = round(SMALL.side_microns / mpp)
            assert slide.dimensions == (side, side)
            assert slide.level_count == {0.5: 2, 0.25: 3}[mpp]  # halved until one tile holds it
            assert slide.level_downsamples == tuple(2.0**k for k in range(slide.level_count))
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(mpp, rel=1e-6)
            assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(mpp, rel=1e-6)
            assert slide.properties["openslide.level[0].tile-width"] == "256"


def picture(path, side):
    """The whole slide averaged to side x side pixels, float."""
    with openslide.OpenSlide(path) as slide:
        whole = slide.read_region((0, 0), 0, slide.dimensions).convert("RGB")
    return np.asarray(whole.resize((side, side), Image.Resampling.BOX)).astype(float)


def test_truth_lies_in_tumor_slides_only_and_agrees_with_the_table(slides):
    for (kind, _), (row, path) in slides.items():
        mask = truth_of(path)
        assert mask.shape == (64, 64) and mask.dtype == bool
        with Image.open(path.with_suffix(".truth.png")) as stored:
            assert stored.mode == "L" and set(np.unique(stored)) <= {0, 255}
        seen = picture(path, 64)
        tissue = ndimage.binary_fill_holes(ndimage.binary_closing(np.ptp(seen, axis=2) > 20, iterations=2))
        assert 0.45 < tissue.mean() < 0.75
        if kind == NORMAL:
            assert not mask.any()
        else:
            assert tissue[mask].mean() > 0.93
            assert 100 * mask.sum() / tissue.sum() == pytest.approx(row["percent_tumor_cells"], abs=7)


def test_fine_slides_hold_detail_that_coarse_ones_lack(slides):
    for kind in (TUMOR, NORMAL):
        with openslide.OpenSlide(slides[kind, 0.25][1]) as slide:
            whole = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("L")).astype(float)
        halved = whole.reshape(512, 2, 512, 2).mean(axis=(1, 3))
        again = Image.fromarray(halved.astype(np.float32)).resize(whole.shape, Image.Resampling.BICUBIC)
        lost = whole - np.asarray(again)
        glass = lost[:16, :16].std()  # sensor noise alone
        assert lost.std() > 1.2 * glass


def test_same_bytes_in_another_process_with_other_threads(slides, tmp_path):
    row, path = slides[TUMOR, 0.25]
    code = (
        "import sys; from pathlib import Path; from histocae.sources import demo; "
        "demo.write_slide(demo.DemoSpec(5, 8, 256.0), sys.argv[1], Path(sys.argv[2]))"
    )
    threads = {"VIPS_CONCURRENCY": "1", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, row["slide_id"], str(tmp_path)], check=True, env=os.environ | threads)
    for name in (path.name, path.with_suffix(".truth.png").name):
        first, second = ((folder / name).read_bytes() for folder in (path.parent, tmp_path))
        assert hashlib.sha256(first).hexdigest() == hashlib.sha256(second).hexdigest()


@pytest.mark.parametrize("fails", ["truth", "slide"])
def test_an_interrupted_write_leaves_nothing_half_done(fails, tmp_path, monkeypatch):
    row, replace = pick(SMALL, TUMOR, 0.5), os.replace

    def interrupted(source, target):
        if fails == "truth" or str(target).endswith(".tif"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.write_slide(SMALL, row["slide_id"], tmp_path)
    # the truth may be there, whole; the slide, which says that all is there, may not
    left = [path.name for path in tmp_path.iterdir()]
    assert left == ([] if fails == "truth" else [row["file_name"].replace(".tif", ".truth.png")])
    if left:
        assert demo.truth_mask(tmp_path / left[0]).any()

    monkeypatch.undo()
    path = demo.write_slide(SMALL, row["slide_id"], tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {path.name, path.with_suffix(".truth.png").name}


def test_an_error_while_saving_leaves_nothing(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="no space left"):
        demo.write_slide(SMALL, pick(SMALL, NORMAL, 0.5)["slide_id"], tmp_path)
    assert list(tmp_path.iterdir()) == []
