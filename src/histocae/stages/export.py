"""Command export: the latents of a model with positions, labels and scores, in the forms that other tools read."""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae import __version__, paths
from histocae.cohort.balance import read_split
from histocae.cohort.split import SPLITS
from histocae.errors import DataError
from histocae.exports import features, tables
from histocae.exports.columns import About
from histocae.exports.forms import FILES, FOLDERS, FORMS
from histocae.files import read_table, replacing_folder, write_table
from histocae.identifiers import COMPARED
from histocae.latent import stored
from histocae.params import Params
from histocae.patches.shard_file import shard_name
from histocae.patches.store import PatchStore
from histocae.progress import bar
from histocae.tracking import documents
from histocae.tracking.record import TrainingRecord

SLIDES_FILE = "slides.csv"
PATCH_KEY = ["shard", "position"]
SCORES = ("error_tumor", "error_normal", "log_ratio", "score", "probability")
TUMOR, NORMAL = COMPARED
log = logging.getLogger(__name__)


class _Comparison(documents.Document):
    """What a class needs of reports/tissue/metrics.json with a pair: names, weights and thresholds."""

    pair: documents.Pair
    weights: documents.Pair
    threshold: documents.Levels[documents.Number]


def run(params: Params, name: str | None, forms: Collection[str], out: Path) -> None:
    """Write the latents of all splits to <out>/<name>.

    Args:
        params: of the pipeline.
        name: of an evaluated model; None: the one that tissue.latents names, or the first that has latents.
        forms: of `FORMS`; empty for all that the data have.
        out: folder of exports.

    Raises:
        DataError: the model has no latents, or is not evaluated, or outputs are of other weights or patches.

    """
    name = name or default_model(params)
    params.model(name)
    mapped, split_tables, about = _latents(name)
    table = _table(name, split_tables, about)
    chosen = _chosen(forms, of_tiles=about.mpp is None)
    folder = out / name
    if set(chosen) & set(FILES):
        joined = np.concatenate([mapped[split] for split in split_tables])
        if "h5ad" in chosen:
            tables.write_h5ad(folder / FILES["h5ad"], table, joined, about)
        if "parquet" in chosen:
            tables.write_parquet(folder / FILES["parquet"], table, joined, about)
        del joined
    for form in (form for form in FOLDERS if form in chosen):
        _write_slides(folder / FOLDERS[form][0], FOLDERS[form][1], table, mapped, about)
    if set(chosen) & set(FOLDERS):
        write_table(_slides(table), folder / SLIDES_FILE, separator=",")
    names = [FILES[form] if form in FILES else f"{FOLDERS[form][0]}/" for form in chosen]
    log.info("%d patches of %d slides: %s: %s", len(table), table["slide_id"].nunique(), folder, ", ".join(names))


def default_model(params: Params) -> str:
    """Choose a model with latents: the one that tissue.latents names, or the first in params.yaml.

    Args:
        params: of the pipeline.

    Returns:
        Its name.

    Raises:
        DataError: no model has a latent layer.

    """
    if params.tissue.latents is not None:
        return params.tissue.latents
    for name, model in params.models.items():
        if model.latent_features is not None:
            return name
    raise DataError("no model of params.yaml has a latent layer; set latent_features of one, and run dvc repro")


def _chosen(forms: Collection[str], *, of_tiles: bool) -> list[str]:
    if of_tiles and (refused := [form for form in FOLDERS if form in forms]):
        raise DataError(f"tiles have no position on a slide, which --form {refused[0]} needs; use --form h5ad")
    if forms:
        return [form for form in FORMS if form in forms]
    if of_tiles:
        log.info("tiles have no position on a slide: no files for %s", " and ".join(FOLDERS))
    return list(FILES) if of_tiles else list(FORMS)


def _latents(name: str) -> tuple[dict[str, NDArray[np.float32]], dict[str, pd.DataFrame], About]:
    """Map the latents of each split, and read its table."""
    folder, record = paths.LATENTS / name, TrainingRecord(name)
    weights = record.training["weights"]
    description = stored.read_description(folder)
    if description["weights"] != weights:
        raise DataError(f"{folder / stored.FILE}: of other weights; run dvc repro evaluate@{name}")
    if description["features"] is None:
        raise DataError(f"{name} has no latent layer, and so no latents; name a model with latent_features")
    split_tables = {split: read_split(paths.SPLITS / f"{split}.csv") for split in SPLITS}
    store = PatchStore(paths.PATCHES)
    about = About(model=name, weights=weights, pixels=store.pixels, mpp=store.mpp, version=__version__)
    return stored.map_features(folder, split_tables, description["features"]), split_tables, about


def _table(name: str, split_tables: Mapping[str, pd.DataFrame], about: About) -> pd.DataFrame:
    """Make the table of all patches, in the order of the latents."""
    record = TrainingRecord(name)
    evaluation, remedy = paths.evaluation(name), f"run dvc repro evaluate@{name}"
    if record.evaluation is None:
        raise DataError(f"{evaluation}: missing, or of other weights; {remedy}")
    files = {"validation": "per_patch_validation.csv", "test": "per_patch.csv"}
    parts = []
    for split, rows in split_tables.items():
        part = _positions(rows, about).assign(split=split)
        if split in files:
            part = part.join(
                _per_patch(evaluation / files[split], rows, ("mse",), remedy).rename({"mse": "error"}, axis=1)
            )
        if split == "test" and (scores := _scores(rows)) is not None:
            part = part.join(scores)
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    leading = ["slide_id", "case_id", "label", "split"]
    return table[leading + [column for column in table if column not in leading]]


def _positions(rows: pd.DataFrame, about: About) -> pd.DataFrame:
    table = rows[["slide_id", "case_id", "sample_type", "file", "x", "y"]].rename({"sample_type": "label"}, axis=1)
    if about.mpp is None:
        return table.assign(width=np.nan, mpp=np.nan, tissue_share=rows["tissue_share"])
    file = paths.PATCHING_REPORT / "counts.csv"
    slides = read_table(file, ("slide_id",), ",", needed=("slide_id",), numbers=("mpp",))
    mpp = rows["slide_id"].map(slides.drop_duplicates("slide_id").set_index("slide_id")["mpp"])
    if mpp.isna().any():
        slide = rows["slide_id"][mpp.isna()].iloc[0]
        raise DataError(f"{file}: has no microns per pixel of slide {slide}; run dvc repro patches")
    width = about.pixels * rows["mpp"] / mpp
    return table.drop(columns="file").assign(width=width, mpp=rows["mpp"], tissue_share=rows["tissue_share"])


def _per_patch(path: Path, rows: pd.DataFrame, columns: Sequence[str], remedy: str) -> pd.DataFrame:
    """Read numbers of patches, which must be these rows of a split."""
    table = documents.read_numbers(path, ("position", *columns), ",", remedy)
    if "shard" not in table or not np.array_equal(
        table[PATCH_KEY].to_numpy(object), rows[PATCH_KEY].to_numpy(object)
    ):
        raise DataError(f"{path}: is of other patches; {remedy}")
    return table[list(columns)]


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
    scores = _per_patch(path, rows, SCORES, remedy)
    called = np.where(scores["score"] >= metrics["threshold"]["patch"], TUMOR, NORMAL)
    return scores.assign(**{"class": called})


def _write_slides(
    folder: Path,
    reader: features.Reader,
    table: pd.DataFrame,
    mapped: Mapping[str, NDArray[np.float32]],
    about: About,
) -> None:
    """Write a file for each slide; only the latents of one slide are in memory."""
    sizes = _sizes()
    with replacing_folder(folder) as aside:
        for split, rows in table.groupby("split", sort=False):
            local = rows.reset_index(drop=True)  # positions in the latents of the split
            groups = local.groupby("slide_id", sort=False)
            for slide, of_slide in bar(groups, f"{folder.name} of {split}", "slides", total=groups.ngroups):
                features.write_features_h5(
                    aside / f"{shard_name(slide)}.h5",
                    of_slide,
                    mapped[str(split)][of_slide.index.to_numpy()],
                    about,
                    reader=reader,
                    size=sizes.get(slide),
                )


def _sizes() -> dict[str, tuple[int, int]]:
    """Read width and height (level-0 pixels) of each slide."""
    file, numbers = paths.PATCHING_REPORT / "counts.csv", ("width", "height")
    slides = read_table(file, ("slide_id",), ",", needed=("slide_id",), numbers=numbers).dropna(subset=list(numbers))
    return {
        slide: (int(width), int(height))
        for slide, width, height in zip(*(slides[name] for name in ("slide_id", *numbers)), strict=True)
    }


def _slides(table: pd.DataFrame) -> pd.DataFrame:
    """List the slides with what CLAM and STAMP ask of a table of slides."""
    slides = table[["case_id", "slide_id", "label", "split"]].drop_duplicates("slide_id")
    slides = slides.sort_values(["case_id", "slide_id"])  # STAMP only joins slides of a case that follow each other
    return slides.assign(file=[f"{shard_name(slide)}.h5" for slide in slides["slide_id"]])
