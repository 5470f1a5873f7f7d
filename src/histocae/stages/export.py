"""Command export: the latents of a model with positions, labels and scores, in the forms that other tools read."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae import __version__, paths
from histocae.cohort.balance import read_split
from histocae.cohort.split import SPLITS
from histocae.errors import DataError, counted
from histocae.exports import evaluated, existing, forms, writing
from histocae.exports.columns import About
from histocae.files import write_table
from histocae.identifiers import COMPARED
from histocae.latent import stored
from histocae.params import Params
from histocae.patches.shard_file import shard_name
from histocae.patches.store import PatchStore
from histocae.tracking import documents
from histocae.tracking.record import TrainingRecord

SLIDES_FILE = "slides.csv"
COUNTS = paths.PATCHING_REPORT / "counts.csv"
SCORES = ("error_tumor", "error_normal", "log_ratio", "score", "probability")
FILES = {"validation": "per_patch_validation.csv", "test": "per_patch.csv"}
log = logging.getLogger(__name__)


class _Comparison(documents.Document):
    """What a class needs of reports/tissue/metrics.json with a pair: names, weights and thresholds."""

    pair: documents.Pair
    weights: documents.Pair
    threshold: documents.Levels[documents.Number]


def run(params: Params, name: str | None, chosen: Collection[str], out: Path) -> None:
    """Write the latents of all splits to <out>/<name>.

    Args:
        params: of the pipeline.
        name: of an evaluated model; None: the one that tissue.latents names, or the first that has latents.
        chosen: of `forms.FORMS`, or `forms.ALL` for all that the data have.
        out: folder of exports.

    Raises:
        DataError: the model has no latents, or is not evaluated, or outputs are of other weights or patches, or
            something that histocae did not write would be replaced.

    """
    name = name or _default_model(params)
    params.model(name)
    folder, of_tiles = out / name, PatchStore(paths.PATCHES).mpp is None
    written = forms.allowed(chosen, positions=not of_tiles, option="--form")
    by_slide = [form for form in written if form in forms.FOLDERS]
    existing.check(folder, written)
    if by_slide:
        existing.check_table(folder / SLIDES_FILE, evaluated.SLIDES_COLUMNS)
    if of_tiles and forms.ALL in chosen:
        log.info("tiles have no position on a slide: no files for %s", " and ".join(forms.FOLDERS))
    latents, splits, about = _latents(name)
    counts = None if of_tiles else evaluated.read_slides(COUNTS)
    table = _table(name, splits, counts, about)
    slides = evaluated.by_slide(table, latents, counts, shard_name)
    writing.write(folder, written, slides, about)
    if by_slide:
        write_table(evaluated.list_slides(table, slides), folder / SLIDES_FILE, separator=",")
    names = [f"{forms.name_of(form)}{'/' if form in by_slide else ''}" for form in written]
    patches = f"{len(table)} patch{'' if len(table) == 1 else 'es'}"
    log.info("%s of %s: %s: %s", patches, counted(len(slides)), folder, ", ".join(names))


def _default_model(params: Params) -> str:
    """Choose a model with latents: the one that tissue.latents names, or the first in params.yaml."""
    if params.tissue.latents is not None:
        return params.tissue.latents
    for name, model in params.models.items():
        if model.latent_features is not None:
            return name
    raise DataError("no model of params.yaml has a latent layer; set latent_features of one, and run dvc repro")


def _latents(name: str) -> tuple[dict[str, NDArray[np.float32]], dict[str, pd.DataFrame], About]:
    """Map the latents of each split, and read its table."""
    folder, weights = paths.LATENTS / name, TrainingRecord(name).training["weights"]
    description = stored.read_description(folder)
    if description["weights"] != weights:
        raise DataError(f"{folder / stored.FILE}: of other weights; run dvc repro evaluate@{name}")
    if description["features"] is None:
        raise DataError(f"{name} has no latent layer, and so no latents; name a model with latent_features")
    splits = {split: read_split(paths.SPLITS / f"{split}.csv") for split in SPLITS}
    store = PatchStore(paths.PATCHES)
    about = About(model=name, weights=weights, pixels=store.pixels, mpp=store.mpp, version=__version__)
    return stored.map_features(folder, splits, description["features"]), splits, about


def _table(name: str, splits: Mapping[str, pd.DataFrame], counts: pd.DataFrame | None, about: About) -> pd.DataFrame:
    """Make the table of all patches, in the order of the latents."""
    evaluation, remedy = paths.evaluation(name), f"run dvc repro evaluate@{name}"
    if TrainingRecord(name).evaluation is None:
        raise DataError(f"{evaluation}: missing, or of other weights; {remedy}")
    parts = {}
    for split, rows in splits.items():
        part = evaluated.position(rows, counts, about, COUNTS)
        if split in FILES:
            path = evaluation / FILES[split]
            errors = documents.read_numbers(path, ("position", "mse"), ",", remedy)
            part["error"] = evaluated.of_patches(errors, rows, ("mse",), path, remedy)["mse"]
        if split == "test" and (scores := _scores(rows)) is not None:
            part = part.join(scores)
        parts[split] = part
    return evaluated.join(parts)


def _scores(rows: pd.DataFrame) -> pd.DataFrame | None:
    """Read the scores of the test patches by the pair of models; None where the stage tissue has compared none."""
    path, file, remedy = paths.TISSUE / "scores.csv", paths.TISSUE / "metrics.json", "run dvc repro tissue"
    if not path.exists():
        log.info("%s: not there; the patches have no scores", path)
        return None
    metrics = documents.read(file, _Comparison, remedy)
    for tissue, name in metrics["pair"].items():
        if metrics["weights"][tissue] != TrainingRecord(name).training["weights"]:
            raise DataError(f"{file}: of other weights of {name}; {remedy}")
    numbers = documents.read_numbers(path, ("position", *SCORES), ",", remedy)
    scores = evaluated.of_patches(numbers, rows, SCORES, path, remedy)
    called = np.where(scores["score"] >= metrics["threshold"]["patch"], *COMPARED)
    return scores.assign(**{"class": called})
