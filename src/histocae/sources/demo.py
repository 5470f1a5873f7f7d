"""A procedural cohort of H&E-like slides whose truth is known, for trying the pipeline without data.

A slide is drawn from the spec and its own barcode alone, so slides may be rendered in any order and in
any process. Normal tissue is glands in fibrous stroma; tumor is sheets and clumps of large, irregular
nuclei. What tells the two apart is arrangement and size, not color: both stains in both kinds of
tissue are mapped, rank by rank, onto a normal tissue drawn for the purpose, and staining differs more
from slide to slide than anything else.

Lengths are in microns unless a name says otherwise; images are (rows, columns).
"""

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from histocae.identifiers import PRIMARY_TUMOR, SOLID_TISSUE_NORMAL
from histocae.sources.demo_cases import SITES, samples_of
from histocae.sources.demo_tissue import TRUTH_MICRONS, draw, match, noise, region, resize

VERSION = 1  # raise when the pictures or the table change: file names change with it
SAMPLES = {PRIMARY_TUMOR: "01", SOLID_TISSUE_NORMAL: "11"}
DISEASES = ("Adenomas and Adenocarcinomas", "Ductal and Lobular Neoplasms")
TILE = 256
# Optical density per unit of stain in R, G, B, and what a site does to it
HEMATOXYLIN = np.array([0.65, 0.70, 0.29])
EOSIN = np.array([0.12, 0.88, 0.28])
SITE_GAINS = np.array([[1.00, 1.00], [1.25, 0.85], [0.80, 1.20], [1.15, 1.15]])
SITE_TINTS = np.array([[0, 0, 0], [0.05, -0.04, 0.04], [-0.05, 0.03, 0.05], [0.04, 0.02, -0.05]])


@dataclass(frozen=True)
class DemoSpec:
    """What a cohort is made from; side_microns is the side of each (square) slide."""

    seed: int
    cases: int
    side_microns: float

    @property
    def fingerprint(self) -> str:
        """8 hex digits that change with the spec and with the generator."""
        values = (VERSION, int(self.seed), int(self.cases), float(self.side_microns))
        return hashlib.sha256(repr(values).encode()).hexdigest()[:8]


def _rng(spec: DemoSpec, *use: str) -> np.random.Generator:
    """A stream of its own for each use, so that drawing more for one changes no other."""
    digest = hashlib.sha256(repr((int(spec.seed), *use)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


@lru_cache(maxsize=8)
def _roster(spec: DemoSpec) -> pd.DataFrame:
    """The cohort's slides without what the pictures decide; not to be changed by the caller."""
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
    # One sample of each class and site was cut a second time
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
    """One row per slide: GDC-like barcodes, the pathologist's percentages, file name and mpp."""
    table = _roster(spec).reset_index(drop=True)
    layouts = (_layout(spec, *slide) for slide in zip(table["slide_id"], table["sample_type"], strict=True))
    share = np.array([(tumor > 0).sum() / (tissue > 0).sum() for tissue, tumor in layouts])
    table["percent_tumor_cells"] = np.rint(100 * share)
    rest = 100 - table["percent_tumor_cells"]
    table["percent_stromal_cells"] = np.rint(0.4 * rest)
    table["percent_normal_cells"] = rest - table["percent_stromal_cells"]
    # Tumor nuclei are larger, so that fewer of them fill the same area
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
def _layout(spec: DemoSpec, slide_id: str, sample_type: str) -> tuple[np.ndarray, np.ndarray]:
    """Signed distances (microns, > 0 within) to tissue and to tumor, on the truth's grid."""
    rng = _rng(spec, slide_id, "layout")
    size = round(spec.side_microns / TRUTH_MICRONS)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    turn, apart = rng.uniform(0, np.pi), rng.choice([0.0, 0.24])
    spread = 0.30 if apart else 0.42
    hills = [
        np.exp(-((x - s * apart * np.cos(turn)) ** 2 + (y - s * apart * np.sin(turn)) ** 2) / spread**2)
        for s in (-1, 1)
    ]
    rim = np.clip(8 * (0.5 - np.maximum(abs(x), abs(y))), 0, 1)  # glass all round
    score = np.maximum(*hills) * rim + 0.13 * noise(rng, size, 1, size / 5) + 0.03 * noise(rng, size, 1, size / 20)
    everywhere = np.ones((size, size), bool)
    tissue = region(np.where(rim > 0.25, score, -1), everywhere, rng.uniform(0.57, 0.67), pieces=2)
    if sample_type == SOLID_TISSUE_NORMAL:
        return tissue, np.full_like(tissue, -1e3)
    score = noise(rng, size, 1, size / 3.2) + 0.2 * noise(rng, size, 1, size / 12)
    return tissue, region(score, tissue > 0, rng.uniform(0.50, 0.72), pieces=3)


def _stains(spec: DemoSpec, row: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Amounts of hematoxylin and eosin, (2, size, size) float32, and the truth on its own grid (bool)."""
    tissue, tumor = _layout(spec, row["slide_id"], row["sample_type"])
    stains, where = draw(_rng(spec, row["slide_id"], "tissue"), spec.side_microns, row["mpp"], tissue, tumor)
    # Each slide has a model of its own, all normal glands, drawn alike whatever the slide holds:
    # what is left of color then cannot depend on the class
    full = np.full((4, 4), 1e3, np.float32)
    model, _ = draw(_rng(spec, row["slide_id"], "model"), min(384.0, spec.side_microns), row["mpp"], full, -full)
    for part in (1, 2):
        if (where == part).any():
            match(stains, where == part, model)
    return stains, tumor > 0


def _develop(spec: DemoSpec, row: pd.Series, stains: np.ndarray) -> np.ndarray:
    """The slide as light: Beer-Lambert through both stains before uneven glass, (size, size, 3) uint8."""
    own, size = _rng(spec, row["slide_id"], "stain"), stains.shape[-1]
    # Slides of one batch are stained alike; each batch holds as much tumor as normal tissue
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
    picture = np.empty((size, size, 3), np.uint8)
    for c in range(3):
        channel = np.exp(-density[0, c] * stains[0] - density[1, c] * stains[1])
        channel *= glass * np.float32(light[c])
        channel += grain
        picture[..., c] = channel.clip(0, 255)
    return picture


def write_slide(spec: DemoSpec, slide_id: str, folder: Path) -> Path:
    """Render one slide to folder: its truth (.truth.png), then the pyramidal TIFF, whose path is returned.

    The TIFF gets its name last, so that where it is, all is there; nothing half-written is ever named.
    """
    import pyvips  # a native library, which the cohort's table has no need of

    row = _roster(spec).loc[slide_id]
    stains, truth = _stains(spec, row)
    path = Path(folder) / row["file_name"]
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process in the name: two that render one slide at once stay out of each other's way
    parts = {
        path.with_name(f".{target.name}.{os.getpid()}.part"): target
        for target in (path.with_suffix(".truth.png"), path)
    }
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


def truth_mask(path: Path) -> np.ndarray:
    """The truth written beside a slide, bool: True where a pixel (4 x 4 microns) is tumor."""
    with Image.open(path) as picture:
        return np.asarray(picture) > 127
