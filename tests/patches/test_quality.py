"""Faults of patches are found on drawn and on real tissue, and clean patches are not flagged."""

import numpy as np
import pytest
from PIL import Image

from histocae.patches import quality
from histocae.patches.tiles import read_tile, reduce_tile
from histocae.patches.tissue import cell_shares
from histocae.sources import demo, demo_faults
from support import faulty_images, make_data

COHORT = demo.DemoSpec(seed=11, cases=56, side_microns=384.0, faults=True)
MOST_CLEAN = 0.02  # share of clean patches that may be flagged
LEAST_FOUND = 0.9  # share of covered patches that are to be flagged


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Extract and flag the demo's slides with faults; one row per cell of tissue.

    A row has the kind of the slide's fault, the share of the cell that it covers, the slide's site and resolution,
    and the flags: all of them are False where the cell is background.
    """
    folder, rows = tmp_path_factory.mktemp("drawn"), []
    for _, slide in demo._roster(COHORT).iterrows():
        kinds = demo.fault_kinds(COHORT, slide["slide_id"])
        if not kinds or kinds == ("glass",):
            continue
        (kind,) = kinds
        path = demo.write_slide(COHORT, slide["slide_id"], folder)
        shape, cells, pixels = faulty_images.patches_of(path, slide["mpp"])
        path.unlink()
        flagged = {name: np.zeros(shape, bool) for name in (*quality.FAULTS, "background")}
        flagged["background"][...] = True
        flagged["background"][cells] = False
        for name, values in quality.flag(quality.measure(pixels, 0.5)).items():
            flagged[name][cells] = values
        tissue, _ = demo._layout(COHORT, slide["slide_id"], slide["sample_type"])
        cover = cell_shares(np.any(list(demo.faults_of(COHORT, slide["slide_id"]).values()), axis=0), *shape)
        for cell in zip(*np.nonzero(cell_shares(tissue > 0, *shape) >= 0.5), strict=True):
            about = {"kind": kind, "cover": cover[cell], "variant": (slide["site"], slide["mpp"])}
            rows.append({**about, **{name: bool(values[cell]) for name, values in flagged.items()}})
    return rows


@pytest.mark.parametrize("kind", [kind for kind in demo_faults.KINDS if kind != "glass"])
def test_faults_drawn_on_demo_slides_are_found(drawn, kind):
    fault = "pen" if kind in demo_faults.INKS else kind
    # debris is specks: no patch is under it by half
    rows = [row for row in drawn if row["kind"] == kind and row["cover"] >= (0.25 if kind == "debris" else 0.5)]
    # green and blue ink and the palest tissue are background: such cells are left out before they are measured
    left_out = fault in ("pen", "pale")
    rows = [row for row in rows if left_out or not row["background"]]
    assert len(rows) >= 3
    missed = sum(not row[fault] and not row["background"] for row in rows)
    assert missed <= max(1, (1 - LEAST_FOUND) * len(rows))


def test_clean_patches_of_demo_slides_are_not_flagged(drawn):
    rows = [row for row in drawn if row["cover"] == 0 and not row["background"]]
    # laboratories of four sites stain differently, and slides have one of two resolutions
    assert len(rows) > 150 and len({row["variant"] for row in rows}) >= 5
    for fault in quality.FAULTS:
        assert np.mean([row[fault] for row in rows]) <= MOST_CLEAN, fault


@pytest.fixture(scope="module")
def real(request):
    """Real images with tissue: name, image, microns per pixel, and tissue share of each cell."""
    shared = request.getfixturevalue("shared")
    if not (shared / faulty_images.REAL_SLIDE).is_file() or not (shared / "tcga_paad_crops").is_dir():
        pytest.skip("no real slide and no crops of real slides beside the checkout")
    return [(*image, faulty_images.shares(image[1])) for image in faulty_images.real_images(shared)]


def flags_of(real, change):
    """Flag the tissue of real images after a change: flags by fault, and how far the change covers each patch.

    The patches of the unchanged image count as the rest of the slide, of which a fault is a small part.
    """
    found = {name: [] for name in quality.FAULTS}
    covers = []
    for number, (_, image, mpp, tissue) in enumerate(real):
        changed, cover = change(number, image, mpp)
        enough = tissue >= 0.5
        parts = [quality.measure(faulty_images.cells(pixels)[enough], mpp) for pixels in (changed, image)]
        flags = quality.flag({name: np.concatenate([part[name] for part in parts]) for name in quality.MEASURES})
        for name, values in flags.items():
            found[name].append(values[: enough.sum()])
        covers.append((faulty_images.cells(cover)[enough] > 0.5).mean(axis=(1, 2)))
    return {name: np.concatenate(values) for name, values in found.items()}, np.concatenate(covers)


@pytest.mark.parametrize("jpeg", [None, 30, 60, 90])
def test_clean_real_tissue_is_not_flagged(real, jpeg):
    def change(_number, image, _mpp):
        none = np.zeros(image.shape[:2], np.float32)
        return (image if jpeg is None else faulty_images.recompressed(image, jpeg)), none

    flags, _ = flags_of(real, change)
    for fault in quality.FAULTS:
        assert flags[fault].mean() <= MOST_CLEAN, fault


@pytest.mark.parametrize("kind", [kind for kind in demo_faults.KINDS if kind != "glass"])
def test_faults_drawn_on_real_tissue_are_found(real, kind):
    fault = "pen" if kind in demo_faults.INKS else kind

    def change(number, image, mpp):
        rng = np.random.default_rng([number, list(demo_faults.KINDS).index(kind)])
        drawing = faulty_images.draw(rng, kind, image.shape, mpp)
        changed = faulty_images.recompressed(faulty_images.apply(image, drawing, mpp), int(rng.integers(40, 95)))
        return changed, drawing.cover

    flags, covers = flags_of(real, change)
    found = flags[fault][covers >= 0.5]
    assert len(found) >= 40
    # where a slide's tissue is unlike elsewhere, twice or a quarter of its stain may be what is usual there
    assert found.mean() >= {"fold": 0.75, "pale": 0.85}.get(kind, LEAST_FOUND)


@pytest.mark.parametrize(
    "color", [(200, 30, 40), (10, 10, 10), (30, 60, 180), (0, 130, 60), (128, 0, 128), (75, 0, 130), (148, 0, 211)]
)
@pytest.mark.parametrize("multiplied", [True, False])
def test_ink_of_other_hues_is_found_on_real_tissue(real, color, multiplied):
    """Ink is drawn as image editors do: multiplied, or laid over what is below, of which a quarter shows through."""

    def change(_number, image, _mpp):
        everywhere = np.ones(image.shape[:2], np.float32)
        ink = np.array(color, np.float32) * (image / np.float32(255) if multiplied else 1)
        return faulty_images.lay(image, everywhere, ink, 0.75), everywhere

    flags, _ = flags_of(real, change)
    assert flags["pen"].mean() >= LEAST_FOUND


@pytest.mark.parametrize("name", ["ebhi_colorectal/img", "lc25000_lung_tiles"])
def test_real_tiles_lose_few_patches_by_pen(shared, name):
    files = sorted((shared / name).rglob("*.jp*g"))[::4]
    if not files:
        pytest.skip(f"no {name} beside the checkout")
    tiles = [reduce_tile(read_tile(path), path.name, 128) for path in files]
    pixels = np.concatenate([tile.patches for tile in tiles if tile.shares[0] >= 0.5])
    flags = quality.flag(quality.measure(pixels, None))
    assert len(pixels) > 150
    # biopsies photographed in dim, greenish or violet light come closest to ink
    assert flags["pen"].mean() <= MOST_CLEAN
    assert flags["debris"].mean() <= MOST_CLEAN and flags["blur"].mean() <= MOST_CLEAN


@pytest.mark.parametrize(("pixels", "mpp"), [(128, 0.5), (256, 0.25), (224, 0.5), (64, 1.0), (256, 0.5)])
@pytest.mark.parametrize("ink", list(faulty_images.EDITED))
def test_the_share_under_a_stroke_is_measured_wherever_it_lies(pixels, mpp, ink):
    """Strokes across a patch, with straight edges at any place and in any direction."""
    microns = np.arange(pixels) * mpp
    for number, (start, width) in enumerate([(0, 0.5), (0.07, 0.5), (0.25, 0.6), (0.6, 0.4), (0.1, 0.8), (0, 1.0)]):
        side = pixels * mpp
        cover = ((microns >= start * side) & (microns < (start + width) * side)).astype(np.float32)
        cover = (
            np.broadcast_to(cover, (pixels, pixels)) if number % 2 else np.broadcast_to(cover[:, None], (pixels,) * 2)
        )
        image = make_data.tissue(number, round(side / 0.5), round(side / 0.5))
        image = np.asarray(Image.fromarray(image).resize((pixels, pixels), Image.Resampling.BICUBIC))
        patch = faulty_images.lay(image, cover, faulty_images.EDITED[ink], 0.9)
        share = quality.measure(patch[None], mpp)["pen_share"][0]
        # to within a block at either edge, and a stroke has at least the width of a window
        assert abs(share - cover.mean()) <= 2 * 5.7 / side, (start, width, share)


@pytest.mark.parametrize(("pixels", "mpp"), [(32, 0.5), (64, 0.5)])
def test_small_patches_wholly_under_ink_are_found(shared, pixels, mpp):
    if not (shared / faulty_images.REAL_SLIDE).is_file():
        pytest.skip("no real slide beside the checkout")
    image = faulty_images.real_slide(shared)
    image = image[: image.shape[0] // 128 * 128, : image.shape[1] // 128 * 128]
    everywhere = np.ones(image.shape[:2], np.float32)
    for color in faulty_images.EDITED.values():
        inked = faulty_images.lay(image, everywhere, np.array(color, np.float32) * (image / np.float32(255)), 0.9)
        parts = (
            inked.reshape(image.shape[0] // pixels, pixels, -1, pixels, 3)
            .swapaxes(1, 2)
            .reshape(-1, pixels, pixels, 3)
        )
        assert quality.flag(quality.measure(parts[::37], mpp))["pen"].mean() >= LEAST_FOUND


def test_gray_images_have_no_ink_but_black_and_are_never_pale():
    """Color tells ink from tissue, and tissue from pale tissue; a gray image has none."""
    image = make_data.tissue(3, 1024, 1024)
    light = image.mean(axis=2, keepdims=True).astype(np.uint8)
    for shown in (light, light // 2, 255 - light // 4):
        patches = faulty_images.cells(np.repeat(shown, 3, axis=2)).reshape(-1, 128, 128, 3)
        flags = quality.flag(quality.measure(patches, 0.5))
        assert not flags["pen"].any() and not flags["pale"].any() and not flags["fold"].any()
    black = np.full((1, 128, 128, 3), 20, np.uint8)
    glass = np.full((1, 128, 128, 3), 245, np.uint8)
    assert quality.flag(quality.measure(black, 0.5))["pen"].all()
    assert quality.flag(quality.measure(glass, 0.5))["pale"].all()


@pytest.mark.parametrize("pixels", [8, 13, 16, 31, 100, 128, 200, 512])
@pytest.mark.parametrize("mpp", [0.25, 0.5, 4.0, None])
def test_patches_of_one_color_and_of_any_size_are_measured(pixels, mpp):
    for color in (0, 255, (200, 30, 60), (40, 60, 160)):
        patches = np.empty((2, pixels, pixels, 3), np.uint8)
        patches[...] = color
        measures = quality.measure(patches, mpp)
        assert tuple(measures) == quality.MEASURES
        for values in measures.values():
            assert values.shape == (2,) and values.dtype == np.float32 and np.isfinite(values).all()
        flags = quality.flag(measures)
        assert tuple(flags) == quality.FAULTS
        assert flags["pen"].all() == (color != 255) and flags["blur"].all() == (color != 255)


def test_measures_of_a_patch_do_not_depend_on_the_other_patches():
    image = make_data.tissue(3, 1024, 1024)
    patches = faulty_images.cells(image).reshape(-1, 128, 128, 3)
    together = quality.measure(patches, 0.5)
    for part in (slice(0, 1), slice(5, 12)):
        for name, values in quality.measure(patches[part], 0.5).items():
            np.testing.assert_array_equal(values, together[name][part])
    for name, values in quality.measure(patches[:0], 0.5).items():
        assert values.shape == (0,) and together[name].shape == (64,)


def test_a_patch_can_be_too_small_to_measure():
    with pytest.raises(ValueError, match="patches of 7 pixels a side are too small to measure; 8 are enough"):
        quality.measure(np.zeros((1, 7, 7, 3), np.uint8), 0.5)


def test_a_larger_image_of_the_same_tissue_measures_alike():
    image = make_data.tissue(3, 512, 512)
    double = np.asarray(Image.fromarray(image).resize((1024, 1024), Image.Resampling.BICUBIC))
    coarse, fine = quality.measure(image[None], 0.5), quality.measure(double[None], 0.25)
    for name in ("sharpness", "saturation", "stain"):
        np.testing.assert_allclose(fine[name], coarse[name], rtol=0.25)


def measures(n, **values):
    """Return measures of clean patches, with some values replaced."""
    clean = {"pen_share": 0.0, "sharpness": 20.0, "saturation": 0.5, "debris_share": 0.0, "stain": 0.8}
    return {name: np.broadcast_to(np.asarray({**clean, **values}[name], np.float32), (n,)) for name in clean}


def test_thresholds_can_be_changed():
    found = measures(20, pen_share=0.25, sharpness=5.0, stain=0.5, debris_share=0.1)
    assert {name for name, values in quality.flag(found).items() if values.any()} == {"pen"}
    other = {"pen": 0.3, "blur": 6.0, "fold": 0.9, "debris": 0.05, "pale": 0.6}
    flags = quality.flag(found, other)
    assert {name for name, values in flags.items() if values.all()} == {"blur", "fold", "debris", "pale"}


def test_folds_are_flagged_by_their_own_slide():
    pale, dark = np.full(12, 0.3), np.full(12, 0.6)
    pale[3] = 0.6  # a fold of the pale slide is as dark as single tissue of the other
    slides = np.array(["a"] * 12 + ["b"] * 12)
    order = np.random.default_rng(1).permutation(24)
    found = measures(24, saturation=np.concatenate([pale, dark])[order])
    flags = quality.flag(found, slides=slides[order])
    assert np.nonzero(flags["fold"])[0].tolist() == np.nonzero(order == 3)[0].tolist()
    few = measures(9, saturation=np.array([0.3] * 8 + [0.9]))
    assert not quality.flag(few)["fold"].any()


def test_pale_stain_counts_as_on_a_slide_of_usual_stain():
    stain = np.array([0.7] * 11 + [0.5] + [1.5] * 11 + [0.6] + [1.5] * 8 + [0.5])
    slides = np.array(["pale"] * 12 + ["dark"] * 12 + ["few"] * 9)
    # 0.6 is pale on the dark slide: it would be 0.3 on one whose median is 0.75
    flags = quality.flag(measures(33, stain=stain), slides=slides)
    assert np.nonzero(flags["pale"])[0].tolist() == [23]


def test_inked_patches_neither_count_for_folds_nor_are_folds():
    saturation = np.array([1.5] * 15 + [0.5] * 11 + [1.0])
    pen = np.array([0.9] * 15 + [0.0] * 12)
    flags = quality.flag(measures(27, saturation=saturation, pen_share=pen))
    assert np.nonzero(flags["fold"])[0].tolist() == [26] and flags["pen"].sum() == 15
