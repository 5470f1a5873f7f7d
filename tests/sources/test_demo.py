"""The demo cohort: its table, its slides read with OpenSlide, truth masks, and files that are complete or absent."""

import dataclasses
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

from histocae.sources import demo, demo_faults

SMALL = demo.DemoSpec(seed=5, cases=8, side_microns=256.0)
FULL = demo.DemoSpec(seed=20181003, cases=56, side_microns=384.0)
TUMOR, NORMAL = "Primary Tumor", "Solid Tissue Normal"


def first_row(spec, sample_type, mpp):
    table = demo.cohort(spec)
    return table[(table["sample_type"] == sample_type) & (table["mpp"] == mpp)].iloc[0]


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """A slide of each sample type and resolution: {(sample_type, mpp): (row, path)}."""
    folder = tmp_path_factory.mktemp("slides")
    rows = {
        (sample_type, mpp): first_row(SMALL, sample_type, mpp)
        for sample_type in (TUMOR, NORMAL)
        for mpp in (0.25, 0.5)
    }
    return {key: (row, demo.write_slide(SMALL, row["slide_id"], folder)) for key, row in rows.items()}


def read_truth_mask(path):
    return demo.truth_mask(path.with_suffix(".truth.png"))


def test_the_default_cohort_has_the_intended_columns_sizes_and_balance():
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
    assert 78 <= len(table) <= 86
    assert table["slide_id"].is_unique and table["file_name"].is_unique
    assert table["case_id"].nunique() == FULL.cases
    assert table["slide_id"].str.fullmatch(r"DEMO-S[1-4]-\d{4}-(01|11)A-01-(TS|BS)1").all()
    parts = table["slide_id"].str.split("-")
    assert (parts.str[:3].str.join("-") == table["case_id"]).all()
    assert (parts.str[:4].str.join("-") == table["sample_id"]).all()
    assert (parts.str[3].str[:2].map({"01": TUMOR, "11": NORMAL}) == table["sample_type"]).all()
    assert (table["file_name"] == table["slide_id"] + f".{FULL.fingerprint}.tif").all()

    case_types = table.groupby("case_id")["sample_type"].agg(lambda s: tuple(sorted(set(s)))).value_counts()
    assert case_types[(TUMOR,)] >= 4 and case_types[(NORMAL,)] >= 4 and case_types[(TUMOR, NORMAL)] >= 4
    assert (table["sample_id"].value_counts() == 2).sum() >= 4
    sites = pd.crosstab(parts.str[1], table["sample_type"])
    assert sites.shape == (4, 2) and (sites[TUMOR] == sites[NORMAL]).all()
    fine = table.groupby("sample_type")["mpp"].agg(lambda m: (m == 0.25).mean())
    assert set(table["mpp"]) == {0.25, 0.5} and fine.between(0.2, 0.3).all() and np.ptp(fine) < 0.05


def test_percentages_sum_to_100_and_match_the_sample_type():
    table = demo.cohort(FULL)
    percents = table[["percent_normal_cells", "percent_stromal_cells", "percent_tumor_cells"]]
    assert (percents.sum(axis=1) == 100).all() and (percents >= 0).all().all()
    tumor = table["sample_type"] == TUMOR
    assert table.loc[tumor, "percent_tumor_cells"].between(40, 75).all()
    assert table.loc[tumor, "percent_tumor_nuclei"].between(15, 75).all()
    assert (table.loc[~tumor, ["percent_tumor_cells", "percent_tumor_nuclei"]] == 0).all().all()


@pytest.mark.parametrize(("cases", "min_cases"), [(6, 3), (7, 3), (8, 4), (9, 4), (13, 4)])
def test_small_cohorts_have_both_sample_types(cases, min_cases):
    table = demo.cohort(demo.DemoSpec(3, cases, 256.0))
    assert (table.groupby("sample_type")["case_id"].nunique() >= min_cases).all()
    assert table["case_id"].nunique() == cases
    assert (table.groupby("sample_type")["mpp"].nunique() == 2).all()
    assert abs(table["sample_type"].value_counts().diff().iloc[1]) <= 2


@pytest.mark.parametrize("spec", [demo.DemoSpec(3, 5, 256.0), demo.DemoSpec(3, 8, 255.0), demo.DemoSpec(3, 8, 64.0)])
def test_too_few_cases_or_an_invalid_side_are_refused(spec, tmp_path):
    with pytest.raises(ValueError):
        demo.cohort(spec)
    with pytest.raises(ValueError):
        demo.write_slide(spec, "DEMO-S1-0001-01A-01-TS1", tmp_path)


def test_the_table_depends_on_the_seed_and_the_fingerprint_on_seed_and_version(monkeypatch):
    pd.testing.assert_frame_equal(demo.cohort(SMALL), demo.cohort(demo.DemoSpec(5, 8, 256.0)))
    other_seed = demo.DemoSpec(6, 8, 256.0)
    assert not demo.cohort(SMALL)["slide_id"].equals(demo.cohort(other_seed)["slide_id"])
    assert SMALL.fingerprint != other_seed.fingerprint
    fingerprint = SMALL.fingerprint
    monkeypatch.setattr(demo, "VERSION", demo.VERSION + 1)
    assert SMALL.fingerprint != fingerprint


def test_openslide_reads_size_levels_and_mpp(slides):
    for (_, mpp), (row, path) in slides.items():
        assert path.name == row["file_name"]
        with openslide.OpenSlide(path) as slide:
            side = round(SMALL.side_microns / mpp)
            assert slide.dimensions == (side, side)
            assert slide.level_count == {0.5: 2, 0.25: 3}[mpp]  # each level has half the size, down to one tile
            assert slide.level_downsamples == tuple(2.0**k for k in range(slide.level_count))
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(mpp, rel=1e-6)
            assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(mpp, rel=1e-6)
            assert slide.properties["openslide.level[0].tile-width"] == "256"


def reduced_image(path, side):
    """Read the whole slide, reduced to side x side pixels by means, as floats."""
    with openslide.OpenSlide(path) as slide:
        image = slide.read_region((0, 0), 0, slide.dimensions).convert("RGB")
    return np.asarray(image.resize((side, side), Image.Resampling.BOX)).astype(float)


def test_truth_masks_agree_with_the_table_and_are_empty_in_normal_slides(slides):
    for (sample_type, _), (row, path) in slides.items():
        mask = read_truth_mask(path)
        assert mask.shape == (64, 64) and mask.dtype == bool
        with Image.open(path.with_suffix(".truth.png")) as stored_mask:
            assert stored_mask.mode == "L" and set(np.unique(stored_mask)) <= {0, 255}
        image = reduced_image(path, 64)
        tissue = ndimage.binary_fill_holes(ndimage.binary_closing(np.ptp(image, axis=2) > 20, iterations=2))
        assert 0.45 < tissue.mean() < 0.75
        if sample_type == NORMAL:
            assert not mask.any()
        else:
            assert tissue[mask].mean() > 0.93
            assert 100 * mask.sum() / tissue.sum() == pytest.approx(row["percent_tumor_cells"], abs=7)


def test_fine_slides_have_detail_that_coarse_slides_lack(slides):
    for sample_type in (TUMOR, NORMAL):
        with openslide.OpenSlide(slides[sample_type, 0.25][1]) as slide:
            image = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("L")).astype(float)
        halved = image.reshape(512, 2, 512, 2).mean(axis=(1, 3))
        enlarged = Image.fromarray(halved.astype(np.float32)).resize(image.shape, Image.Resampling.BICUBIC)
        detail = image - np.asarray(enlarged)
        glass_noise = detail[:16, :16].std()  # the first pixels are glass: noise of the sensor
        assert detail.std() > 1.2 * glass_noise


def test_slides_have_the_same_bytes_in_another_process_with_other_threads(slides, tmp_path):
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


@pytest.mark.parametrize("failing_file", ["truth", "slide"])
def test_an_interrupted_write_leaves_no_incomplete_file(failing_file, tmp_path, monkeypatch):
    row, replace = first_row(SMALL, TUMOR, 0.5), os.replace

    def interrupted_replace(source, target):
        if failing_file == "truth" or str(target).endswith(".tif"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted_replace)
    with pytest.raises(KeyboardInterrupt):
        demo.write_slide(SMALL, row["slide_id"], tmp_path)
    # the slide is written last: if the slide exists, so does its truth mask
    file_names = [path.name for path in tmp_path.iterdir()]
    assert file_names == ([] if failing_file == "truth" else [row["file_name"].replace(".tif", ".truth.png")])
    if file_names:
        assert demo.truth_mask(tmp_path / file_names[0]).any()

    monkeypatch.undo()
    path = demo.write_slide(SMALL, row["slide_id"], tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {path.name, path.with_suffix(".truth.png").name}


def test_an_error_of_the_disk_leaves_no_file(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        demo.write_slide(SMALL, first_row(SMALL, NORMAL, 0.5)["slide_id"], tmp_path)
    assert list(tmp_path.iterdir()) == []


FAULTY = demo.DemoSpec(seed=5, cases=8, side_microns=256.0, faults=True)


def slide_image(spec, slide_id, folder):
    path = demo.write_slide(spec, slide_id, folder)
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB")).astype(int), path


def test_without_faults_files_keep_their_names():
    assert demo.DemoSpec(5, 8, 256.0, faults=False) == SMALL
    assert (SMALL.fingerprint, FULL.fingerprint) == ("c6ab58b7", "fff6bd7f")
    assert FAULTY.fingerprint != SMALL.fingerprint
    slide_ids = demo.cohort(SMALL)["slide_id"]
    assert not any(demo.fault_kinds(SMALL, slide_id) for slide_id in slide_ids)
    assert not any(mask.any() for mask in demo.faults_of(SMALL, slide_ids[0]).values())


@pytest.mark.parametrize("spec", [FAULTY, demo.DemoSpec(20181003, 56, 384.0, faults=True)])
def test_every_kind_of_fault_occurs_and_most_slides_are_clean(spec):
    kinds = [demo.fault_kinds(spec, slide_id) for slide_id in demo.cohort(spec)["slide_id"]]
    assert {kind for of_slide in kinds for kind in of_slide} == set(demo_faults.KINDS)
    faulty = [of_slide for of_slide in kinds if of_slide]
    assert 0.2 < len(faulty) / len(kinds) < 0.3
    assert all(of_slide == ("glass",) for of_slide in faulty if "glass" in of_slide)
    if len(kinds) > 40:  # enough slides for one fault each
        assert all(len(of_slide) == 1 for of_slide in faulty)


def test_faults_change_the_pixels_under_their_masks_alone(tmp_path):
    spec = demo.DemoSpec(seed=2, cases=56, side_microns=256.0, faults=True)
    slide_ids = demo.cohort(spec)["slide_id"]
    kinds = {demo.fault_kinds(spec, slide_id): slide_id for slide_id in slide_ids}
    for kind in ("red", "blur", "fold", "pale"):
        slide_id = kinds[(kind,)]
        fault = "pen" if kind in demo_faults.INKS else kind
        masks = demo.faults_of(spec, slide_id)
        assert tuple(masks) == demo_faults.FAULTS and {mask.shape for mask in masks.values()} == {(64, 64)}
        assert [name for name, mask in masks.items() if mask.any()] == [fault]
        for name, mask in demo.faults_of(spec, slide_id).items():
            np.testing.assert_array_equal(mask, masks[name])
        faulty, path = slide_image(spec, slide_id, tmp_path)
        clean, _ = slide_image(dataclasses.replace(spec, faults=False), slide_id, tmp_path)
        step = len(faulty) // 64
        difference = abs(faulty - clean).reshape(64, step, 64, step, 3).mean(axis=(1, 3, 4))
        near = ndimage.binary_dilation(masks[fault], iterations=5)
        assert difference[~near].max() < 2 < difference[masks[fault]].mean()
        np.testing.assert_array_equal(read_truth_mask(path).shape, (64, 64))


def test_clean_slides_of_a_cohort_with_faults_are_those_of_one_without(tmp_path):
    slide_id = next(i for i in demo.cohort(FAULTY)["slide_id"] if not demo.fault_kinds(FAULTY, i))
    faulty, _ = slide_image(FAULTY, slide_id, tmp_path)
    clean, _ = slide_image(SMALL, slide_id, tmp_path)
    np.testing.assert_array_equal(faulty, clean)


def test_a_slide_of_glass_shows_no_tissue(tmp_path):
    slide_id = next(i for i in demo.cohort(FAULTY)["slide_id"] if demo.fault_kinds(FAULTY, i) == ("glass",))
    image, path = slide_image(FAULTY, slide_id, tmp_path)
    assert np.ptp(image, axis=2).mean() < 12 and image.mean() > 215
    assert not read_truth_mask(path).any()
    assert not any(mask.any() for mask in demo.faults_of(FAULTY, slide_id).values())
