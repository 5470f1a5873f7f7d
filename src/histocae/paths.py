"""Paths of the pipeline's files, relative to the working directory.

Only stages and the tracking of their outputs use these; other code gets paths as arguments.
"""

from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parent  # the code

PARAMS = Path("params.yaml")
SCRATCH = Path(".histocae")  # locks and remembered hashes; safe to delete

HASHES = SCRATCH / "hashes.json"  # SHA-256 of the user's files
FETCHED = SCRATCH / "fetched.json"  # md5s of fetched slides that were checked

INVENTORY = Path("data/inventory.csv")
ANNOTATIONS = Path("data/annotations.csv")  # the user's files of regions, with their hashes
FEATURES = Path("data/features.csv")  # the user's files of features by another program
CODE = Path("data/code")
LINEAGE = Path("models/lineage")
METADATA = Path("data/slides_metadata.csv")
GIVEN_SPLIT = Path("data/given_split.csv")
ASKED = Path("data/gdc")  # the query to the GDC, and a manifest
METADATA_SET_ASIDE = Path("data/set_aside/metadata.csv")
SLIDES = Path("data/slides.csv")
FIRST_SEEN = Path("data/first_seen.csv")  # hashes of the user's files when they were first read
SLIDES_SET_ASIDE = Path("data/set_aside/slides.csv")
SLIDE_FILES = Path("data/slides")  # the slides themselves; outside DVC, made or fetched again where missing
PATCHES = Path("data/patches")
PATCHING_REPORT = Path("reports/patching")
PREVIEWS = PATCHING_REPORT / "thumbnails"  # and what else later figures show of a slide
FAULTS = PATCHING_REPORT / "quality"  # of patches, drawn over their slides
REGIONS = PATCHING_REPORT / "regions"  # of the slides, for figures
SET_ASIDE = Path("reports/set_aside.csv")
SPLITS = Path("data/splits")
SPLIT_REPORT = Path("reports/split.json")
TRAINED = Path("models/trained")
RUNS = Path("models/runs")
LATENTS = Path("models/latents")
MODEL_REPORTS = Path("reports/models")
CODECS = Path("reports/codecs")
COMPARISON = Path("reports/comparison.csv")
PAGE = Path("reports/index.html")
FIGURES = Path("reports/figures")
TISSUE = Path("reports/tissue")
METRICS = Path("reports/metrics.json")
PLOTS = Path("reports/plots")
FOLDS = Path("models/folds")
CROSSVALIDATION = Path("reports/crossvalidation")
REGISTERED = Path("models/registered.json")


class Layout(NamedTuple):  # a dataclass would take a tenth of the time of an inventory with nothing to do
    """Folders of the trainings on one split: of the pipeline, or of a fold of the cross-validation.

    Attributes:
        splits: tables of the split.
        trained: folder of trained models.
        runs: run id, times and commit of each training, one file per model.
        checkpoints: from which a killed training resumes; outside DVC.
        fold: its number, from 1; None for the pipeline's own split.

    """

    splits: Path
    trained: Path
    runs: Path
    checkpoints: Path
    fold: int | None = None


MAIN = Layout(SPLITS, TRAINED, RUNS, Path("models/checkpoints"))


def fold(number: int) -> Layout:
    """Return the folders of a fold of the cross-validation, numbered from 1."""
    folder = FOLDS / f"fold-{number}"
    return Layout(folder / "splits", folder / "trained", folder / "runs", MAIN.checkpoints / f"fold-{number}", number)


def evaluation(model: str) -> Path:
    """Return the folder of a model's evaluation."""
    return MODEL_REPORTS / model / "evaluation"


def latent(model: str) -> Path:
    """Return the folder of the study of a model's latents."""
    return MODEL_REPORTS / model / "latent"
