"""The demo cohort: procedural slides that look like H&E, with known tumor regions, for use without data.

A slide is drawn from the spec and its own barcode alone, so slides may be rendered in any order and in
any process. Normal tissue is glands in fibrous stroma; tumor is sheets and clumps of large, irregular
nuclei. The two differ in the arrangement and size of nuclei, not in color: both stains of both tissues
are mapped, rank by rank, onto a normal tissue that is drawn for this purpose. Staining differs more
from slide to slide than between the tissues.

Lengths are in microns unless a name says otherwise; images are (rows, columns).
"""

import hashlib
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from histocae.asides import aside_of
from histocae.identifiers import PRIMARY_TUMOR, SOLID_TISSUE_NORMAL
from histocae.sources import demo_faults
from histocae.sources.demo_cases import SITES, samples_of
from histocae.sources.demo_tissue import TRUTH_MICRONS, Amounts, Flags, Floats, draw, match, noise, region, resize

VERSION = 1  # to raise when slides or table change: file names change with it
SAMPLES = {PRIMARY_TUMOR: "01", SOLID_TISSUE_NORMAL: "11"}
DISEASES = ("Adenomas and Adenocarcinomas", "Ductal and Lobular Neoplasms")
TILE = 256
FAULT_MICRONS = 1.0  # side of a pixel of the grid on which faults are drawn
# optical density per unit of stain in R, G, B, and how each site changes it
HEMATOXYLIN = np.array([0.65, 0.70, 0.29])
EOSIN = np.array([0.12, 0.88, 0.28])
SITE_GAINS = np.array([[1.00, 1.00], [1.25, 0.85], [0.80, 1.20], [1.15, 1.15]])
SITE_TINTS = np.array([[0, 0, 0], [0.05, -0.04, 0.04], [-0.05, 0.03, 0.05], [0.04, 0.02, -0.05]])


@dataclass(frozen=True)
class DemoSpec:
    """The input of a demo cohort.

    Attributes:
        seed: of all that is random.
        cases: number of cases, at least 6.
        side_microns: side of each square slide.
        faults: whether one slide of four has faults, as `demo_faults` draws them.

    """

    seed: int
    cases: int
    side_microns: float
    faults: bool = False

    @property
    def fingerprint(self) -> str:
        """8 hex digits that change with the spec and with the version of this module."""
        values: tuple[object, ...] = (VERSION, int(self.seed), int(self.cases), float(self.side_microns))
        if self.faults:
            values = (*values, "faults")  # without, slides keep the names that they had before there were faults
        return hashlib.sha256(repr(values).encode()).hexdigest()[:8]


def _rng(spec: DemoSpec, *use: str) -> np.random.Generator:
    """Return a random generator for one use: how much another use draws does not change it."""
    digest = hashlib.sha256(repr((int(spec.seed), *use)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


@lru_cache(maxsize=8)
def _roster(spec: DemoSpec) -> pd.DataFrame:
    """List the slides, without the percentages that depend on the drawing; not to be changed by the caller."""
    if spec.cases < 6:
        raise ValueError(f"a demo cohort needs at least 6 cases, not {spec.cases}")
    if spec.side_microns < 128 or spec.side_microns % TRUTH_MICRONS:
        raise ValueError(f"a demo slide's side is a multiple of 4 microns from 128 on, not {spec.side_microns}")
    rng = _rng(spec, "roster")
    numbers = rng.permutation(np.arange(1, spec.cases + 1))
    samples = []
    for i, number in enumerate(numbers):
        site, kinds = samples_of(i)
        case = f"DEMO-{SITES[site]}-{number:04d}"
        samples += [(site, kind, case, f"{case}-{SAMPLES[kind]}A") for kind in kinds]
    table = pd.DataFrame(samples, columns=["site", "sample_type", "case_id", "sample_id"])
    # one sample of each class and site has a second slide
    again = table.iloc[rng.permutation(len(table))].drop_duplicates(["site", "sample_type"])
    table = pd.concat([table.assign(code="TS1"), again.assign(code="BS1")])
    table.insert(0, "slide_id", table["sample_id"] + "-01-" + table["code"])
    table = table.iloc[rng.permutation(len(table))]
    within = table.groupby("sample_type").cumcount()
    table["mpp"] = np.where(within % 4 == 2, 0.25, 0.5)
    table["batch"] = table.groupby(["site", "sample_type"]).cumcount()
    table["disease_type"] = [DISEASES[site % len(DISEASES)] for site in table["site"]]
    table["file_name"] = table["slide_id"] + f".{spec.fingerprint}.tif"
    return table.sort_values("slide_id").set_index("slide_id", drop=False)


def cohort(spec: DemoSpec) -> pd.DataFrame:
    """Return a table with one row per slide: GDC-like barcodes, a pathologist's percentages, file name and mpp."""
    table = _roster(spec).reset_index(drop=True)
    layouts = (_layout(spec, *slide) for slide in zip(table["slide_id"], table["sample_type"], strict=True))
    share = np.array([(tumor > 0).sum() / (tissue > 0).sum() for tissue, tumor in layouts])
    table["percent_tumor_cells"] = np.rint(100 * share)
    rest = 100 - table["percent_tumor_cells"]
    table["percent_stromal_cells"] = np.rint(0.4 * rest)
    table["percent_normal_cells"] = rest - table["percent_stromal_cells"]
    # tumor nuclei are larger, so fewer of them fill the same area
    table["percent_tumor_nuclei"] = np.rint(100 * share / (share + 2.5 * (1 - share)))
    return table[
        [
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
    ]


@lru_cache(maxsize=4)
def _layout(spec: DemoSpec, slide_id: str, sample_type: str) -> tuple[Floats, Floats]:
    """Return signed distances (microns, > 0 within) to tissue and to tumor, on the grid of the truth mask."""
    rng = _rng(spec, slide_id, "layout")
    size = round(spec.side_microns / TRUTH_MICRONS)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    turn, apart = rng.uniform(0, np.pi), rng.choice([0.0, 0.24])
    spread = 0.30 if apart else 0.42
    hills = [
        np.exp(-((x - s * apart * np.cos(turn)) ** 2 + (y - s * apart * np.sin(turn)) ** 2) / spread**2)
        for s in (-1, 1)
    ]
    rim = np.clip(8 * (0.5 - np.maximum(abs(x), abs(y))), 0, 1)  # glass at the rim
    score = np.maximum(*hills) * rim + 0.13 * noise(rng, size, 1, size / 5) + 0.03 * noise(rng, size, 1, size / 20)
    everywhere = np.ones((size, size), bool)
    tissue = region(np.where(rim > 0.25, score, -1), everywhere, rng.uniform(0.57, 0.67), pieces=2)
    if sample_type == SOLID_TISSUE_NORMAL:
        return tissue, np.full_like(tissue, -1e3)
    score = noise(rng, size, 1, size / 3.2) + 0.2 * noise(rng, size, 1, size / 12)
    return tissue, region(score, tissue > 0, rng.uniform(0.50, 0.72), pieces=3)


def layout(spec: DemoSpec, slide_id: str, sample_type: str) -> tuple[Flags, Flags]:
    """Return where a slide has tissue and where it has tumor.

    Args:
        spec: of the cohort.
        slide_id: of the slide.
        sample_type: of the slide.

    Returns:
        Two masks, bool, shape (rows, columns), on the grid of the truth mask: pixels of 4 x 4 microns.

    """
    tissue, tumor = _layout(spec, slide_id, sample_type)
    return tissue > 0, tumor > 0


def fault_kinds(spec: DemoSpec, slide_id: str) -> tuple[str, ...]:
    """Name the faults of a slide.

    Args:
        spec: of the cohort.
        slide_id: a slide of `cohort`.

    Returns:
        Of `demo_faults.KINDS`; none where the slide is clean.

    """
    if not spec.faults:
        return ()
    roster = _roster(spec)
    dealt = demo_faults.deal(len(roster), _rng(spec, "faults"))
    return dealt.get(roster.index.get_loc(slide_id), ())


def _faults(spec: DemoSpec, row: pd.Series) -> list[demo_faults.Fault]:
    """Draw a slide's faults at 1 micron per pixel: all of them are smooth at that scale."""
    tissue, _ = _layout(spec, row["slide_id"], row["sample_type"])
    size = round(spec.side_microns / FAULT_MICRONS)
    return [
        demo_faults.draw(_rng(spec, row["slide_id"], "fault", kind), kind, size, FAULT_MICRONS, tissue)
        for kind in fault_kinds(spec, row["slide_id"])
        if kind != "glass"
    ]


def faults_of(spec: DemoSpec, slide_id: str) -> dict[str, Flags]:
    """Draw the faults of a slide once more, and mark where they lie.

    Args:
        spec: of the cohort.
        slide_id: a slide of `cohort`.

    Returns:
        For each of `demo_faults.FAULTS` bool, shape (rows, columns) of the truth mask: True where at least half of
        4 x 4 microns is under the fault.

    """
    return demo_faults.masks(_faults(spec, _roster(spec).loc[slide_id]), spec.side_microns)


def _stains(spec: DemoSpec, row: pd.Series) -> tuple[Amounts, Flags]:
    """Return amounts of hematoxylin and eosin, (2, size, size), and the truth mask on its own grid (bool)."""
    tissue, tumor = _layout(spec, row["slide_id"], row["sample_type"])
    if "glass" in fault_kinds(spec, row["slide_id"]):
        size = round(spec.side_microns / row["mpp"])
        return np.zeros((2, size, size), np.float32), np.zeros(tumor.shape, bool)
    stains, kinds = draw(_rng(spec, row["slide_id"], "tissue"), spec.side_microns, row["mpp"], tissue, tumor)
    # each slide has its own model, all normal glands, drawn in the same way for both classes, so that color can't
    # depend on the class
    full = np.full((4, 4), 1e3, np.float32)
    model, _ = draw(_rng(spec, row["slide_id"], "model"), min(384.0, spec.side_microns), row["mpp"], full, -full)
    for part in (1, 2):
        if (kinds == part).any():
            match(stains, kinds == part, model)
    return stains, tumor > 0


def _develop(spec: DemoSpec, row: pd.Series, stains: Amounts) -> NDArray[np.uint8]:
    """Render the slide, (size, size, 3) uint8: light through both stains (Beer-Lambert law) and uneven glass."""
    own, size = _rng(spec, row["slide_id"], "stain"), stains.shape[-1]
    # slides of one batch share their staining; each batch has as many tumor as normal slides
    shared = _rng(spec, str(row["site"]), str(row["batch"]), "batch")
    gains = SITE_GAINS[row["site"]] * np.exp(shared.normal(0, 0.14, 2) + own.normal(0, 0.12, 2))
    tints = np.stack([HEMATOXYLIN, EOSIN]) + SITE_TINTS[row["site"]] * [[1], [0.6]]
    tints = tints + shared.normal(0, 0.025, (2, 3)) + own.normal(0, 0.025, (2, 3))
    density = (gains[:, None] * tints.clip(0.02)).astype(np.float32)
    light = (np.array([242, 241, 243]) + own.normal(0, 2.5, 3) + own.normal(0, 4)).clip(225, 252)
    coarse = max(16, size // 8)
    glass = 1 + 0.012 * noise(own, coarse, spec.side_microns / coarse, spec.side_microns)
    glass = resize(glass, size)
    for y, x in own.integers(0, size, (own.poisson(12), 2)):  # dust
        spot = np.s_[max(0, y - 5) : y + 6, max(0, x - 5) : x + 6]
        dy, dx = (a - b for a, b in zip(np.ogrid[spot], (y, x), strict=True))
        dust = 1 - 0.5 * np.exp(-(dy**2 + dx**2) / own.uniform(1, 6))
        glass[spot] *= dust[: size - spot[0].start, : size - spot[1].start]
    grain = own.standard_normal((size, size), dtype=np.float32) * 2.0
    faults = [replace(fault, cover=resize(fault.cover, size)) for fault in _faults(spec, row)]
    factor = demo_faults.stain_factor(faults)
    if factor is not None:
        stains = stains * factor
    image = np.empty((size, size, 3), np.uint8)
    for c in range(3):
        channel = np.exp(-density[0, c] * stains[0] - density[1, c] * stains[1])
        channel *= glass * np.float32(light[c])
        if (through := demo_faults.transmitted(faults, c)) is not None:
            channel *= through
        channel = demo_faults.defocused(faults, channel, row["mpp"])
        channel += grain
        image[..., c] = channel.clip(0, 255)
    return image


def write_slide(spec: DemoSpec, slide_id: str, folder: Path) -> Path:
    """Render a slide: its truth mask (.truth.png) and the slide itself, a pyramidal TIFF.

    Both are written aside and renamed, the TIFF last: where it exists, both files are whole.

    Args:
        spec: of the cohort.
        slide_id: a slide of `cohort`.
        folder: for both files.

    Returns:
        Path of the TIFF.

    """
    import pyvips  # a native library, which the cohort's table does not need

    row = _roster(spec).loc[slide_id]
    stains, truth = _stains(spec, row)
    path = Path(folder, row["file_name"])
    path.parent.mkdir(parents=True, exist_ok=True)
    # each under a name of its own: two processes may render the same slide at once
    parts = {aside_of(target): target for target in (path.with_suffix(".truth.png"), path)}
    mask_part, slide_part = parts
    try:
        Image.fromarray(truth.astype(np.uint8) * 255).save(mask_part, format="PNG")
        per_mm = 1000 / row["mpp"]
        pyvips.Image.new_from_array(_develop(spec, row, stains)).copy(xres=per_mm, yres=per_mm).tiffsave(
            str(slide_part),
            compression="jpeg",
            Q=90,
            tile=True,
            tile_width=TILE,
            tile_height=TILE,
            pyramid=True,
            resunit="cm",
        )
        for part in parts:
            with part.open("rb+") as handle:
                os.fsync(handle.fileno())
        for part, target in parts.items():
            os.replace(part, target)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
    return path


def truth_mask(path: Path) -> NDArray[np.bool_]:
    """Read the truth mask that `write_slide` wrote beside a slide.

    Args:
        path: of the .truth.png.

    Returns:
        bool, shape (rows, columns): True where a pixel of 4 x 4 microns is tumor.

    """
    with Image.open(path) as mask:
        return np.asarray(mask) > 127
