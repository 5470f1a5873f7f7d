"""Files of regions in QuPath's form."""

import gzip
import json
from pathlib import Path


def rectangle(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    """Make the ring of a rectangle."""
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def polygon(*rings: list[list[float]]) -> dict:
    return {"type": "Polygon", "coordinates": list(rings)}


def feature(name: str | None, geometry: object, /, **properties: object) -> dict:
    """Make a feature as QuPath 0.5 writes it."""
    own = {"objectType": "annotation", **properties}
    if name is not None:
        own["classification"] = {"name": name, "color": [200, 0, 0]}
    identity = "1c4f1ff1-9e0d-4a0b-8b26-0f9c7cba1d3e"
    return {"type": "Feature", "id": identity, "geometry": geometry, "properties": own}


def write(path: Path, *features: dict) -> Path:
    """Write a FeatureCollection, compressed where the suffix says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"type": "FeatureCollection", "features": list(features)}).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path
