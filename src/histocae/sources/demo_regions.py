"""Regions of the demo cohort in QuPath's form: the truth of each slide, as a pathologist would outline it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histocae.errors import raise_if_machine
from histocae.files import replacing
from histocae.regions import outlines
from histocae.sources import demo
from histocae.sources.demo_tissue import TRUTH_MICRONS

OWN = "histocae_demo"  # a member of the files that are written here; a file without it is the user's
COLORS = {"Tumor": [200, 0, 0], "Normal": [50, 120, 200]}


def write(spec: demo.DemoSpec, folder: Path) -> None:
    """Write the regions of all slides of a demo cohort that are not there yet; a user's files stay as they are.

    Regions of tumor and of normal tissue are those of the truth mask, in level-0 pixels.

    Args:
        spec: of the cohort.
        folder: for the files, <slide_id>.geojson; it is made if it is not there.

    """
    folder.mkdir(parents=True, exist_ok=True)
    for row in demo.cohort(spec).itertuples():
        path = folder / f"{row.slide_id}.geojson"
        if path.with_suffix(".geojson.gz").exists() or (path.exists() and _owner(path) in (None, spec.fingerprint)):
            continue
        tissue, tumor = demo.layout(spec, row.slide_id, row.sample_type)
        regions = {"Tumor": tumor, "Normal": tissue & ~tumor}
        pixel = TRUTH_MICRONS / row.mpp
        features = [_feature(name, mask, pixel) for name, mask in regions.items() if mask.any()]
        content = {"type": "FeatureCollection", OWN: spec.fingerprint, "features": features}
        with replacing(path, "w") as handle:
            handle.write(json.dumps(content, separators=(",", ":")) + "\n")


def _owner(path: Path) -> str | None:
    """Return the fingerprint of the cohort whose truth a file has; None where it is the user's."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise_if_machine(error)
        return None
    return content.get(OWN) if isinstance(content, dict) else None


def _feature(name: str, mask: NDArray[np.bool_], pixel: float) -> dict[str, Any]:
    import shapely

    shape = shapely.transform(outlines.outline(mask), lambda corners: corners * pixel)
    return {
        "type": "Feature",
        "geometry": outlines.geometry(shapely.normalize(shape)),
        "properties": {"objectType": "annotation", "classification": {"name": name, "color": COLORS[name]}},
    }
