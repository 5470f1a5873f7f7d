"""Paths of the MNIST pipeline, beside those that it shares with the pipeline of slides."""

from pathlib import Path

from histocae import paths

IMAGES = Path("data/images")
SAMPLES = Path("reports/samples.png")
PIXELS = Path("reports/pixels")
CLASSES = Path("models/classes")
CLASSES_REPORT = Path("reports/classes")
PUBLISHED = Path("models/published.json")
# of the trainings of one model per digit
CLASSES_LAYOUT = paths.Layout(paths.SPLITS, CLASSES / "trained", CLASSES / "runs", Path("models/checkpoints/classes"))
