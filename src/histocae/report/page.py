"""The report page: one self-contained HTML file with the questions, the data and the results."""

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    "test_mean_color_mse": "MSE of the mean color",
    "test_psnr": "test PSNR (dB)",
    "test_ssim": "test SSIM",
}
DIGITS = {"test_psnr": 2, "test_ssim": 3}
LEVELS = {"patch": "patches", "slide": "slides", "case": "cases by tissue"}
# rows of the table of latents: label, metric of the latents, the same metric of the pixels
LATENT_ROWS = [
    ("AUROC per patch of a logistic regression on the tissue", "latent_auroc_patch", "pixel_auroc_patch"),
    ("… per slide", "latent_auroc_slide", "pixel_auroc_slide"),
    ("… per case and tissue", "latent_auroc_case", "pixel_auroc_case"),
    *(
        (f"R² of {name}, per slide", f"latent_r2_{name}", f"pixel_r2_{name}")
        for name in ("percent_tumor_nuclei", "percent_tumor_cells", "percent_normal_cells", "percent_stromal_cells")
    ),
    (
        "share of the nearest patches of other cases with the same tissue",
        "latent_neighbors",
        "pixel_neighbors",
    ),
    ("clusters against tissue: ARI (0: chance, 1: identical)", "latent_ari", "pixel_ari"),
    ("… NMI", "latent_nmi", "pixel_nmi"),
    ("… Gini impurity (0: each cluster is of one tissue)", "latent_gini", "pixel_gini"),
    ("… entropy, bits", "latent_entropy", "pixel_entropy"),
    ("clusters against cases: ARI", "latent_ari_case", "pixel_ari_case"),
    ("principal components for 90 % of the variance", "pca_components_90", "pixel_components_90"),
    ("dead latents (the same value for all training patches)", "latent_dead", None),
]
COUNTS = {"pca_components_90", "pixel_components_90", "latent_dead"}
QUALITY = 85
MOST_PIXELS = 16_383  # of a side of a WebP image
MOST_HEATMAPS = 12  # more would make the page too large to send; the folder has all


@dataclass(frozen=True)
class ModelSection:
    """A model's part of the page: a description and figures."""

    title: str
    text: str
    figures: list[Path]


@dataclass(frozen=True)
class LatentSection:
    """Results and figures of the study of a model's latents."""

    model: str
    metrics: dict[str, float]
    notes: list[str]
    figures: list[Path]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The contents of the page.

    Attributes:
        params: of the pipeline.
        table: the comparison, one row per model.
        query: the query to the GDC and its release; empty for other sources.
        findings: sentences on the comparison of architectures.
        split: content of reports/split.json.
        patching: numbers of grid cells by outcome.
        fault_images: slides with flagged patches.
        set_aside: slides that were set aside, with the reasons.
        samples: figures of test patches per tissue.
        figures: title, caption and file of each figure on the comparison.
        codecs: content of reports/codecs/metrics.json.
        codecs_figure: errors of models and codecs over bytes.
        tissue: content of reports/tissue/metrics.json.
        tissue_figures: by name.
        heatmaps: of the test slides.
        crossvalidation: content of reports/crossvalidation/metrics.json.
        latents: one per model with a latent layer.
        sections: one per model.

    """

    params: Params
    table: pd.DataFrame
    query: dict[str, Any]
    findings: list[str]
    split: dict[str, Any]
    patching: dict[str, Any]
    fault_images: list[Path]
    set_aside: pd.DataFrame
    samples: list[Path]
    figures: list[tuple[str, str, Path]]
    codecs: dict[str, Any]
    codecs_figure: Path
    tissue: dict[str, Any]
    tissue_figures: dict[str, Path]
    heatmaps: list[Path]
    crossvalidation: dict[str, Any]
    latents: list[LatentSection] = field(default_factory=list)
    sections: list[ModelSection] = field(default_factory=list)


def page(contents: Contents, splits: tuple[str, ...]) -> str:
    """Render the page.

    Args:
        contents: of the page.
        splits: names of the splits, in their order.

    Returns:
        HTML that needs no other file.

    """
    shown = contents.table[list(TITLES)]
    measured = {key for section in contents.latents for key in section.metrics}
    outside = any(key.startswith("outside_") for key in measured)
    return render(
        "index.html",
        **vars(contents) | {"set_aside": contents.set_aside.to_dict("records")},
        titles=[TITLES[name] for name in shown.columns],
        rows=[[_cell(name, value) for name, value in row.items()] for row in shown.to_dict("records")],
        splits=splits,
        faults=list(contents.patching["flagged"]),
        levels=LEVELS,
        latent_rows=[
            (label, own, [pixel, pixel and pixel.replace("pixel_", "outside_")][: 1 + outside], kind)
            for label, own, pixel in LATENT_ROWS
            if measured & {own, pixel}
            for kind in (_count if COUNTS & {own, pixel} else _number,)
        ],
        content_rows=[
            ("pair", "score of the pair"),
            *((name, each["about"]) for name, each in contents.tissue.get("baselines", {}).items()),
        ],
        outside=outside,
        heatmaps_shown=_spread(contents.heatmaps, MOST_HEATMAPS),
        example=next((file for file in contents.heatmaps if file.stem == contents.tissue.get("example")), None),
    )


def render(template: str, **values: object) -> str:
    """Fill a template of this package.

    Args:
        template: name of the file.
        values: of its variables; images are paths, which the filter `embedded` embeds.

    Returns:
        HTML that needs no other file.

    """
    return environment().get_template(template).render(**values)


def environment() -> jinja2.Environment:
    """Make the environment of the templates: it escapes all values, so that no table can put markup on the page."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("histocae.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"embedded": _embedded, "interval": _interval, "number": _number, "p": _p}
    return made


def _spread(files: list[Path], most: int) -> list[Path]:
    """Choose files at even distances where there are too many."""
    count = min(len(files), most)
    return [files[i * len(files) // count] for i in range(count)]


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


def _interval(estimate: dict[str, Any], digits: int = 2) -> str:
    if estimate["low"] is None:  # a single case has no interval
        return f"{estimate['value']:.{digits}f}"
    between = " to " if estimate["low"] < 0 else "–"  # a dash before or after a minus sign is hard to read
    return f"{estimate['value']:.{digits}f} ({estimate['low']:.{digits}f}{between}{estimate['high']:.{digits}f})"


def _p(value: float) -> str:
    return f"= {value:.3f}" if value >= 0.001 else "< 0.001"


def _embedded(path: Path) -> str:
    """Embed an image as WebP, which takes a fraction of the bytes of PNG."""
    content = io.BytesIO()
    with Image.open(path) as image:
        image.thumbnail((MOST_PIXELS, MOST_PIXELS))  # smaller images stay as they are
        image.convert("RGB").save(content, "WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode()
