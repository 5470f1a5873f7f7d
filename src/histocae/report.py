"""The page: one self-contained HTML file with the comparison, the curves and the pictures."""

import base64
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd

from histocae.params import Params

TITLES = {
    "model": "model", "cohort": "cohort", "filters": "filters", "latent_features": "latent features",
    "parameters": "weights", "epochs": "epochs", "train_mse": "train MSE",
    "validation_mse": "validation MSE", "test_mse": "test MSE", "test_psnr": "test PSNR (dB)",
    "test_ssim": "test SSIM", "test_patches": "test patches",
}  # fmt: skip
DIGITS = {"test_psnr": 2, "test_ssim": 3}


@dataclass(frozen=True)
class Section:
    """A model's part of the page: what is said of it, and its pictures."""

    title: str
    text: str
    pictures: list[Path]


def page(
    params: Params,
    table: pd.DataFrame,
    split: dict,
    patching: dict,
    set_aside: pd.DataFrame,
    samples: list[Path],
    curves: Path,
    sections: list[Section],
) -> str:
    """Render the page.

    Args:
        params: of the pipeline.
        table: the comparison, one row per model.
        split: counts per split and sample type.
        patching: counts of cells by what became of them.
        set_aside: what was set aside, with its reason.
        samples: pictures of test patches per tissue.
        curves: picture of the training curves.
        sections: one per model.

    Returns:
        HTML that needs no other file.

    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("histocae"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["embedded"] = _embedded
    return environment.get_template("index.html").render(
        params=params,
        titles=[TITLES[name] for name in table.columns],
        rows=[[_cell(name, value) for name, value in row.items()] for row in table.to_dict("records")],
        split=split,
        patching=patching,
        set_aside=set_aside.to_dict("records"),
        samples=samples,
        curves=curves,
        sections=sections,
    )


def _cell(name: str, value: object) -> str:
    if value is None or pd.isna(value):
        return "–"
    if isinstance(value, float):
        return f"{value:.{DIGITS.get(name, 5)}f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _embedded(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
