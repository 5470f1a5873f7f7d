"""Patches that are reduced are means of areas: exact, rounded once, and as even in noise as such means are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histocae.patches.store import PatchStore
from histocae.slides.area_means import area_means, reduce_image
from support import make_data
from support.extracted_slides import EXTRACTION, only_slide
from support.workspace import Workspace, slide_row

PIXELS = 128
ROUNDING = 0.505  # of a gray level: the most that rounding once changes, and a header rounds microns per pixel


def integral(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Integrate rows from the first to each edge; a row is constant along its length of 1."""
    sums = np.concatenate([np.zeros((1, *values.shape[1:])), values.cumsum(0, dtype=float)])
    whole = np.minimum(edges.astype(int), len(values) - 1)
    part = (edges - whole).reshape(-1, *[1] * (values.ndim - 1))
    return sums[whole] + part * (sums[whole + 1] - sums[whole])


def exact_means(image: np.ndarray, box: tuple[float, ...], width: int, height: int) -> np.ndarray:
    """Compute the means of the areas of a box in another way: differences of integrals."""
    left, top, right, bottom = box
    down = np.diff(integral(image, np.linspace(top, bottom, height + 1)), axis=0)
    across = np.diff(integral(down.swapaxes(0, 1), np.linspace(left, right, width + 1)), axis=0).swapaxes(0, 1)
    return across * (width * height / ((right - left) * (bottom - top)))


def coordinates(height: int, width: int) -> np.ndarray:
    """Draw x in red and y in green as waves of triangles, and noise in blue."""
    image = np.empty((height, width, 3), np.uint8)
    for channel, (values, period) in enumerate(zip(np.mgrid[:height, :width][::-1], (97, 89), strict=True)):
        image[..., channel] = np.abs((4 * values) % (4 * period) - 2 * period) + 20
    image[..., 2] = np.random.default_rng(1).normal(128, 50, (height, width)).clip(0, 255)
    return image


def read_store(project: Workspace) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Read rows and columns of cells, and their patches."""
    store = PatchStore(project.folder / "data" / "patches")
    index = store.index()
    patches = store.select(index).take(np.arange(len(index)))
    return list(zip(index["row"], index["column"], strict=True)), patches


def check(patch: np.ndarray, expected: np.ndarray) -> None:
    """Compare a patch with the exact means: each pixel; where there is noise also its mean and its spread."""
    errors = patch - expected
    assert np.abs(errors).max() <= ROUNDING
    assert abs(errors[..., 2].mean()) < 0.05
    for axis in (0, 1):
        np.testing.assert_allclose(patch[..., 2].std(axis), expected[..., 2].std(axis), rtol=0.02)


@pytest.mark.parametrize(("mpp", "target"), [(0.25, 0.5), (0.25, 0.4), (0.2527, 0.5), (0.25, 1.5)])
def test_patches_of_a_slide_are_means_of_areas(project, mpp, target):
    side = PIXELS * target / mpp
    image = coordinates(int(2 * side) + 40, int(3 * side) + 9)
    only_slide(project, image, mpp, lossless=True)
    project.params(patches__pixels=PIXELS, patches__mpp=target, patches__tissue_share=0)
    cells, patches = read_store(project.make(*EXTRACTION))
    assert len(cells) == 6
    for (row, column), patch in zip(cells, patches, strict=True):
        box = (column * side, row * side, (column + 1) * side, (row + 1) * side)
        check(patch, exact_means(image, box, PIXELS, PIXELS))


def test_fine_and_coarse_scanners_give_patches_of_one_brightness(project):
    """The coarse slide has the exact means of the fine one, rounded at random, and is not reduced."""
    rng = np.random.default_rng(2)
    fine = rng.normal((150, 110, 160), 12, (512, 512, 3)).clip(0, 255).astype(np.uint8)
    coarse = np.floor(exact_means(fine, (0, 0, 512, 512), 256, 256) + rng.random((256, 256, 3))).astype(np.uint8)
    for name, image, mpp in (("fine", fine, 0.25), ("coarse", coarse, 0.5)):
        make_data.write_slide(project.own / f"{name}.tif", image, mpp, lossless=True)
    project.table([slide_row("fine"), slide_row("coarse", 1)])
    project.params(patches__pixels=PIXELS, patches__tissue_share=0)
    _, patches = read_store(project.make(*EXTRACTION))
    assert len(patches) == 8
    difference = patches[:4].mean(axis=(0, 1, 2)) - patches[4:].mean(axis=(0, 1, 2))
    assert np.abs(difference).max() < 0.05


@pytest.mark.parametrize("shape", [(256, 256), (205, 205), (253, 301), (700, 651), (120, 120)])
def test_patches_of_tiles_are_means_of_areas(project, shape):
    image = coordinates(*shape)
    make_data.write_tile(project.own / "a.png", image)
    row = slide_row("s")
    del row["file_name"]
    project.table([{"path": "a.png", **row}])
    project.params(data__source="tiles", patches__pixels=PIXELS)
    _, patches = read_store(project.make(*EXTRACTION))
    side = min(shape)
    top, left = ((length - side) / 2 for length in shape)
    check(patches[0], exact_means(image, (left, top, left + side, top + side), PIXELS, PIXELS))


@given(data=st.data())
def test_any_box_of_any_image_is_reduced_to_the_means_of_areas(data):
    height, width, channels = (data.draw(st.integers(1, most)) for most in (700, 300, 4))
    image = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 256, (height, width, channels), np.uint8)
    top, left = (data.draw(st.floats(0, 0.5)) * length for length in (height, width))
    bottom, right = (data.draw(st.floats(0.6, 1)) * length for length in (height, width))
    rows, columns = (data.draw(st.integers(1, 150)) for _ in range(2))
    expected = exact_means(image, (left, top, right, bottom), columns, rows)
    # an edge within a millionth of a pixel of a border is put there
    means = area_means(image, columns, rows, (left, top, right, bottom))
    tolerance = 0.01 + 1e-3 * max(columns / (right - left), rows / (bottom - top))
    np.testing.assert_allclose(means, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("step", [2, 3, 6, 17])
def test_means_of_whole_pixels_are_rounded_exactly_and_halves_to_even(step):
    image = np.random.default_rng(step).integers(0, 256, (30 * step, 40 * step, 3), np.uint8)
    sums = image.reshape(30, step, 40, step, 3).sum(axis=(1, 3), dtype=int)
    np.testing.assert_array_equal(reduce_image(image, 40, 30), np.rint(sums / step**2))


def test_an_even_image_stays_as_it_is():
    for value in (0, 243, 255):
        image = np.full((211, 307, 3), value, np.uint8)
        assert (reduce_image(image, 128, 100, (0.3, 0.7, 306.1, 210.9)) == value).all()


def test_the_mean_of_a_box_does_not_depend_on_the_image_around_it():
    image = coordinates(700, 600)
    whole = reduce_image(image, 128, 128, (200.25, 300.5, 404.25, 504.5))
    part = reduce_image(image[300:506, 200:406], 128, 128, (0.25, 0.5, 204.25, 204.5))
    np.testing.assert_array_equal(whole, part)
