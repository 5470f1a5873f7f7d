"""Where the pipeline of the digits keeps things, beside what it shares with that of slides."""

from pathlib import Path

from histocae import paths

IMAGES = Path("data/images")
SAMPLES = Path("reports/samples.png")
PIXELS = Path("reports/pixels")
CLASSES = Path("models/classes")
CLASSES_REPORT = Path("reports/classes")
PUBLISHED = Path("models/published.json")
# one model per digit
CLASSES_LAYOUT = paths.Layout(paths.SPLITS, CLASSES / "trained", CLASSES / "runs", Path("models/checkpoints/classes"))
