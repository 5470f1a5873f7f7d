"""The page: one self-contained HTML file that tells what was asked, on which data, and what came out."""

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import pandas as pd
from PIL import Image

from histocae.params import Params

TITLES = {
    "model": "model",
    "architecture": "architecture",
    "cohort": "cohort",
    "filters": "filters",
    "latent_features": "latent features",
    "parameters": "weights",
    "epochs": "epochs",
    "train_mse": "train MSE",
    "validation_mse": "validation MSE",
    "test_mse": "test MSE",
    "test_mean_color_mse": "mean color's MSE",
    "test_psnr": "test PSNR (dB)",
    "test_ssim": "test SSIM",
}
DIGITS = {"test_psnr": 2, "test_ssim": 3}
LEVELS = {"patch": "patches", "slide": "slides", "case": "cases by tissue"}
# what is told of latents, its key, and the key of the same of pixels
LATENT_ROWS = [
    ("AUROC per patch of a logistic regression on the class", "latent_auroc_patch", "pixel_auroc_patch"),
    ("… per slide", "latent_auroc_slide", "pixel_auroc_slide"),
    ("… per case and tissue", "latent_auroc_case", "pixel_auroc_case"),
    *(
        (f"R² of {name}, per slide", f"latent_r2_{name}", f"pixel_r2_{name}")
        for name in ("percent_tumor_nuclei", "percent_tumor_cells", "percent_normal_cells", "percent_stromal_cells")
    ),
    ("share of the nearest patches of other cases that have the same tissue", "latent_neighbors", "pixel_neighbors"),
    ("clusters against tissue: ARI (0 chance, 1 the same)", "latent_ari", "pixel_ari"),
    ("… NMI", "latent_nmi", "pixel_nmi"),
    ("… Gini impurity (0: clusters of one tissue)", "latent_gini", "pixel_gini"),
    ("… entropy, bits", "latent_entropy", "pixel_entropy"),
    ("clusters against cases: ARI", "latent_ari_case", "pixel_ari_case"),
    ("principal components for 90 % of the variance", "pca_components_90", "pixel_components_90"),
    ("latents that never change", "latent_dead", None),
]
COUNTS = {"pca_components_90", "pixel_components_90", "latent_dead"}
QUALITY = 85
MOST_PIXELS = 16_383  # of a side of a WebP
# beyond so many the page would be too heavy to send; all lie in the folder
MOST_HEATMAPS = 12


@dataclass(frozen=True)
class ModelSection:
    """A model's part of the page: what is said of it, and its pictures."""

    title: str
    text: str
    pictures: list[Path]


@dataclass(frozen=True)
class LatentSection:
    """What the study of a model's latents found, and its pictures."""

    model: str
    metrics: dict[str, float]
    notes: list[str]
    pictures: list[Path]


@dataclass(frozen=True)
class Contents:
    """All that the page shows.

    Attributes:
        params: of the pipeline.
        table: the comparison, one row per model.
        asked: what the GDC was asked and its release; empty for other sources.
        told: sentences on the comparison of architectures.
        split: what reports/split.json holds.
        patching: counts of cells by what became of them.
        set_aside: what was set aside, with its reason.
        samples: pictures of test patches per tissue.
        figures: title, caption and picture of each figure on the comparison.
        tissue: what reports/tissue/metrics.json holds.
        tissue_pictures: by name.
        heatmaps: of the test slides.
        crossvalidation: what reports/crossvalidation/metrics.json holds.
        latents: one per model that has some.
        sections: one per model.

    """

    params: Params
    table: pd.DataFrame
    asked: dict
    told: list[str]
    split: dict
    patching: dict
    set_aside: pd.DataFrame
    samples: list[Path]
    figures: list[tuple[str, str, Path]]
    tissue: dict
    tissue_pictures: dict[str, Path]
    heatmaps: list[Path]
    crossvalidation: dict
    latents: list[LatentSection] = field(default_factory=list)
    sections: list[ModelSection] = field(default_factory=list)


def page(contents: Contents, parts: tuple[str, ...]) -> str:
    """Render the page.

    Args:
        contents: what it shows.
        parts: names of the parts of the split, in their order.

    Returns:
        HTML that needs no other file.

    """
    shown = contents.table[list(TITLES)]
    measured = {key for one in contents.latents for key in one.metrics}
    return render(
        "index.html",
        **vars(contents) | {"set_aside": contents.set_aside.to_dict("records")},
        titles=[TITLES[name] for name in shown.columns],
        rows=[[_cell(name, value) for name, value in row.items()] for row in shown.to_dict("records")],
        parts=parts,
        levels=LEVELS,
        latent_rows=[
            (label, *keys, _count if COUNTS & set(keys) else _number)
            for label, *keys in LATENT_ROWS
            if measured & set(keys)
        ],
        heatmaps_shown=_spread(contents.heatmaps, MOST_HEATMAPS),
    )


def render(template: str, **values: object) -> str:
    """Fill a template of this package; HTML that needs no other file."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("histocae.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"embedded": _embedded, "interval": _interval, "number": _number, "p": _p}
    return environment.get_template(template).render(**values)


def _spread(things: list[Path], most: int) -> list[Path]:
    """Choose evenly among things where there are too many."""
    count = min(len(things), most)
    return [things[i * len(things) // count] for i in range(count)]


def _cell(name: str, value: object) -> str:
    if value is None or pd.isna(value) or value == "":
        return "–"
    if isinstance(value, float):
        return f"{value:.{DIGITS.get(name, 5)}f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "–"
    return f"{value:.{digits}f}"


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _interval(one: dict, digits: int = 2) -> str:
    if one["low"] is None:  # one case has no spread
        return f"{one['value']:.{digits}f}"
    return f"{one['value']:.{digits}f} ({one['low']:.{digits}f}–{one['high']:.{digits}f})"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _embedded(path: Path) -> str:
    """Embed a picture; WebP takes a fraction of what PNG would."""
    held = io.BytesIO()
    with Image.open(path) as picture:
        picture.thumbnail((MOST_PIXELS, MOST_PIXELS))  # does nothing to smaller ones
        picture.convert("RGB").save(held, "WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(held.getvalue()).decode()
