"""Where the pipeline keeps things, relative to the working directory.

Only stages and the tracking of their outputs use these; the core is handed paths.
"""

from pathlib import Path

PARAMS = Path("params.yaml")
SCRATCH = Path(".histocae")  # locks and remembered hashes; safe to delete

INVENTORY = Path("data/inventory.csv")
LINEAGE = Path("models/lineage")
METADATA = Path("data/slides_metadata.csv")
METADATA_SET_ASIDE = Path("data/set_aside/metadata.csv")
SLIDES = Path("data/slides.csv")
SLIDES_SET_ASIDE = Path("data/set_aside/slides.csv")
SLIDE_FILES = Path("data/slides")  # the bytes; outside DVC, made again when missing
PATCHES = Path("data/patches")
PATCHING_REPORT = Path("reports/patching")
SET_ASIDE = Path("reports/set_aside.csv")
SPLITS = Path("data/splits")
SPLIT_REPORT = Path("reports/split.json")
TRAINED = Path("models/trained")
RUNS = Path("models/runs")
CHECKPOINTS = Path("models/checkpoints")  # outside DVC: what a killed training goes on from
MODEL_REPORTS = Path("reports/models")
COMPARISON = Path("reports/comparison.csv")
PAGE = Path("reports/index.html")
FIGURES = Path("reports/figures")
REGISTERED = Path("models/registered.json")


def evaluation(model: str) -> Path:
    """The folder of a model's evaluation."""
    return MODEL_REPORTS / model / "evaluation"
