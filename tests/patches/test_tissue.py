"""The tissue mask: glass of any tint is no tissue, and pale tissue is."""

import numpy as np
import pytest
from PIL import Image

from histocae.errors import StoreError
from histocae.patches import previews
from histocae.patches.tissue import cell_shares
from support import make_data
from support.extracted_slides import EXTRACTION, counts
from support.workspace import Workspace, slide_row

SIDE = 768
HUES = {"yellow": (1, 0.6, 0), "pink": (1, 0, 0.6), "blue": (0, 0.4, 1), "green": (0, 1, 0.2)}


def tinted_glass(chroma: float, hue: str, noise: float = 3, vignette: float = 0.2) -> np.ndarray:
    """Draw glass of a tint, noisy and darker toward its corners."""
    rng = np.random.default_rng(round(chroma))
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    image = (235 - chroma * (1 - np.array(HUES[hue]))) * (1 - vignette * (x**2 + y**2) / 2)[..., None]
    return (image + rng.normal(0, noise, image.shape)).clip(0, 255).round().astype(np.uint8)


def faded_tissue(strength: float = 0.5) -> np.ndarray:
    """Draw tissue of less stain, on white."""
    return np.rint(255 - (255.0 - make_data.tissue(3, SIDE, SIDE)) * strength).astype(np.uint8)


def extract(project: Workspace, *slides: np.ndarray) -> None:
    """Extract patches of 128 pixels from slides named 0, 1, ..."""
    for number, image in enumerate(slides):
        make_data.write_slide(project.own / f"{number}.tif", image, 0.5)
    project.table([slide_row(str(number), number) for number in range(len(slides))])
    project.params(patches__pixels=128)
    project.make(*EXTRACTION)


@pytest.mark.parametrize("hue", HUES)
def test_slides_of_tinted_glass_alone_are_set_aside(project, hue):
    tints = (8, 11, 12, 13, 14, 15, 20)
    extract(project, make_data.tissue(1, SIDE, SIDE), *(tinted_glass(chroma, hue) for chroma in tints))
    table = project.read("reports/set_aside.csv")
    assert list(table["slide_id"].astype(str)) == [str(number + 1) for number in range(len(tints))]
    assert set(table["reason"]) == {"shows no tissue"} and set(table["patches_kept"]) == {0}
    kept = counts(project)["kept"]
    assert kept.iloc[0] == 36 and not kept.iloc[1:].any()


@pytest.mark.parametrize("hue", HUES)
def test_tissue_beside_tinted_glass_is_found(project, hue):
    glass, slides = tinted_glass(14, hue, vignette=0.05), []
    for tissue in (make_data.tissue(3, SIDE, SIDE), faded_tissue()):
        image = glass.copy()
        image[:, SIDE // 2 :] = (tissue * (glass / 235.0)).clip(0, 255)[:, SIDE // 2 :]
        slides.append(image)
    extract(project, *slides)
    index = project.index
    assert set(index["column"]) == {3, 4, 5} and len(index) == 2 * 18


def test_slides_that_are_all_tissue_are_kept_pale_or_not(project):
    extract(project, make_data.tissue(3, SIDE, SIDE), faded_tissue())
    assert list(counts(project)["kept"]) == [36, 36]


def test_tinted_glass_beside_white_that_was_not_scanned_is_no_tissue(project):
    image = tinted_glass(14, "yellow")
    image[:, : SIDE // 2] = 255
    extract(project, image, make_data.tissue(1, SIDE, SIDE))
    assert list(counts(project)["kept"]) == [0, 36]


def test_tiles_of_tinted_glass_are_no_tissue(project):
    rows = []
    for number, image in enumerate((tinted_glass(13, "pink"), make_data.tissue(1, SIDE, SIDE))):
        make_data.write_tile(project.own / f"{number}.png", image)
        row = slide_row(str(number), number)
        del row["file_name"]
        rows.append({"path": f"{number}.png", **row})
    project.table(rows)
    project.params(data__source="tiles", patches__tiles="cut", patches__pixels=128)
    project.make(*EXTRACTION)
    assert list(counts(project)["kept"]) == [0, 36]


def test_dust_and_thin_scratches_on_tinted_glass_are_no_tissue(project):
    def dirty(hue: str) -> np.ndarray:
        image, rng = tinted_glass(16, hue, vignette=0.1), np.random.default_rng(4)
        for y, x in rng.integers(20, SIDE - 20, (36, 2)):
            image[y : y + 9, x : x + 9] //= 2
        for x in (200, 560):
            image[:, x : x + 3] //= 2
        return image

    extract(project, make_data.tissue(1, SIDE, SIDE), *(dirty(hue) for hue in HUES))
    assert list(counts(project)["kept"]) == [36, 0, 0, 0, 0]
    assert set(project.read("reports/set_aside.csv")["reason"]) == {"shows no tissue"}


def test_the_mask_is_kept_beside_the_thumbnail(project, monkeypatch):
    image = np.full((SIDE, SIDE, 3), make_data.GLASS, np.uint8)
    image[90:500, 200:700] = make_data.tissue(3, SIDE, SIDE)[90:500, 200:700]
    extract(project, image)
    index, folder = project.index, project.folder / "reports/patching/thumbnails"
    (shard,) = set(index["shard"])
    monkeypatch.setattr(
        Image, "MAX_IMAGE_PIXELS", 10
    )  # the masks of large grids have more pixels than Pillow's limit
    mask = previews.read_tissue(folder, shard)
    assert mask.dtype == bool and mask.shape == (6 * 8, 6 * 8)
    np.testing.assert_array_equal(cell_shares(mask, 6, 6)[index["row"], index["column"]], index["tissue_share"])
    rows, columns = np.nonzero(mask)  # a pixel is 16 pixels of the slide wide
    for found, first, end in ((rows, 90, 500), (columns, 200, 700)):
        assert abs(16 * found.min() - first) <= 16 and abs(16 * (found.max() + 1) - end) <= 16
    assert previews.read_tissue(folder, "other") is None
    path = previews.tissue_file(folder, shard)
    for damage in (path.read_bytes()[:60], b"", b"no image"):
        path.write_bytes(damage)
        with pytest.raises(StoreError, match=r"tissue\.png: can't be read as an image: .*; run dvc repro patches$"):
            previews.read_tissue(folder, shard)
