"""Regions that a pathologist drew in QuPath, from the GeoJSON that QuPath writes.

Positions are in level-0 pixels of the slide, from its top left corner, as QuPath has them. Annotations count; cells,
detections and other objects do not. Forms of several versions of QuPath are read: a FeatureCollection, a list of
features or a single feature; classifications with `name` or `names`; `objectType`, `object_type` or the id
`PathAnnotationObject`.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histocae.errors import one_line, printable, raise_if_machine
from histocae.params import Annotations

if TYPE_CHECKING:  # shapely is loaded where there are regions
    import shapely

TUMOR, NORMAL, EXCLUDED = KINDS = ("tumor", "normal", "exclude")
TISSUE = "Tissue"  # class and name of the contour of a slide's tissue
SUFFIXES = (".geojson", ".geojson.gz")
LARGEST = 2**30  # bytes of a file, uncompressed
OTHER_TYPES = ("detection", "cell", "tile", "tma_core", "tmacore", "root")  # of QuPath's objects, in lower case
MOST_FAULTS = 100  # of a file that are spelled out
OUTSIDE = 1.0  # level-0 pixels by which a region may pass the slide's border: programs round positions
SHOWN = 60  # characters of a name in a message
_COLLECTIONS = ("FeatureCollection", "GeometryCollection")


@dataclass(frozen=True)
class Region:
    """A region of a slide.

    Attributes:
        kind: tumor, normal or exclude.
        where: the file, number and class of its feature, for messages.
        shape: polygon or multipolygon in level-0 pixels; valid.

    """

    kind: str
    where: str
    shape: "shapely.Polygon | shapely.MultiPolygon"


@dataclass
class Drawn:
    """The content of a file of regions.

    Attributes:
        regions: in the order of the file.
        faults: a line for each feature that can't be used, or for the whole file.
        other: number of objects that are no annotations, such as cells.

    """

    regions: list[Region] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    other: int = 0


def read(path: Path, classes: Annotations) -> Drawn:
    """Read the regions of a slide.

    Args:
        path: of the file, .geojson or .geojson.gz.
        classes: the section `annotations` of params.yaml.

    Returns:
        The regions and the faults. Nothing is repaired: where there is a fault, none of the regions should be used.

    Raises:
        OSError: no file can be read now.

    """
    drawn = Drawn()
    try:
        features = list(_features(json.loads(_text(path))))
    except (OSError, EOFError, zlib.error) as error:
        raise_if_machine(error)
        drawn.faults.append(f"{path}: can't be read: {one_line(error)}; export the annotations again")
    except (ValueError, RecursionError) as error:
        drawn.faults.append(f"{path}: is not GeoJSON: {one_line(error)}; in QuPath: File > Export objects as GeoJSON")
    else:
        for number, feature in enumerate(features, 1):
            _add(drawn, f"{path}: feature {number}", feature, classes)
    if (more := len(drawn.faults) - MOST_FAULTS) > 0:
        drawn.faults[MOST_FAULTS:] = [f"{path}: {more:,} more features can't be used"]
    return drawn


def outside(drawn: Drawn, width: int, height: int) -> list[str]:
    """List the regions that lie outside their slide, wholly or in part.

    Args:
        drawn: the result of `read`.
        width: of the slide, in level-0 pixels.
        height: of the slide, in level-0 pixels.

    Returns:
        A line for each.

    """
    faults = []
    for region in drawn.regions:
        left, top, right, bottom = region.shape.bounds
        if min(left, top) < -OUTSIDE or right > width + OUTSIDE or bottom > height + OUTSIDE:
            faults.append(
                f"{region.where}: lies outside the slide: x {left:g} to {right:g}, y {top:g} to {bottom:g}, and the "
                f"slide has {width} x {height} pixels; is it of another slide, or of another level?"
            )
    return faults


def _text(path: Path) -> str:
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as handle:
        content = handle.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError("it has more than 1 GiB")
    return content.decode("utf-8-sig")


def _features(content: object) -> Iterator[Any]:
    """Yield the features of any form of the file."""
    if isinstance(content, list):
        yield from content
    elif isinstance(content, dict) and content.get("type") == "FeatureCollection":
        features = content.get("features")
        if not isinstance(features, list):
            raise ValueError("the FeatureCollection has no list of features")
        yield from features
    elif isinstance(content, dict) and content.get("type") == "Feature":
        yield content
    else:
        raise ValueError("it has neither a FeatureCollection nor features")


def _add(drawn: Drawn, where: str, feature: object, classes: Annotations) -> None:
    """Add the regions of a feature, or its fault."""
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        drawn.faults.append(f"{where}: is no GeoJSON feature; export the annotations again")
        return
    properties = feature.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    of_object = _object_type(feature, properties)
    if of_object in OTHER_TYPES:
        drawn.other += 1
        return
    if of_object != "annotation":
        drawn.faults.append(f"{where}: is an object of the unknown type {_cut(of_object)}; regions are annotations")
        return
    name = _class_of(properties)
    if name is None:
        drawn.faults.append(f"{where}: has no class; give it one in QuPath, or delete it")
        return
    where = f"{where} ({_cut(name)})"
    kind = kind_of(name, classes)
    if kind is None and name == properties.get("name") == TISSUE:
        drawn.other += 1  # the contour that `exports.geojson` wrote, and that was exported again with the regions
        return
    if kind is None:
        known = ", ".join([*classes.tumor, *classes.normal, *classes.exclude])
        drawn.faults.append(
            f"{where}: unknown class; params.yaml has {known}: add it to annotations.tumor, normal or exclude"
        )
        return
    shape, problem = _shape(feature.get("geometry"))
    if problem is not None:
        drawn.faults.append(f"{where}: {problem}")
    else:
        drawn.regions.append(Region(kind, where, shape))


def kind_of(name: str, classes: Annotations) -> str | None:
    """Say what a class of QuPath stands for.

    A class is also known by its first part: `Tumor: Positive` is a `Tumor`. In the lists, `*` at the end of a name
    stands for any ending, and so also for itself: QuPath calls a class `Ignore*`. The longest such name counts.

    Args:
        name: of the class.
        classes: the section `annotations` of params.yaml.

    Returns:
        tumor, normal or exclude; None for an unknown class.

    """
    lists = {TUMOR: classes.tumor, NORMAL: classes.normal, EXCLUDED: classes.exclude}
    for candidate in (name, name.split(":")[0].strip()):
        for kind, known in lists.items():
            if candidate in known:
                return kind
        endings = [
            (len(entry), kind)
            for kind, known in lists.items()
            for entry in known
            if entry.endswith("*") and candidate.startswith(entry[:-1])
        ]
        if endings:
            return max(endings)[1]
    return None


def _object_type(feature: dict[str, Any], properties: dict[str, Any]) -> str:
    """Give QuPath's type of an object; versions before 0.4 have it in the id. Other programs write none."""
    kind = properties.get("objectType", properties.get("object_type"))
    if kind is None:
        identity = str(feature.get("id", ""))
        of_class = identity.startswith("Path") and identity.endswith("Object")
        kind = identity.removeprefix("Path").removesuffix("Object") if of_class else "annotation"
    return str(kind).lower()


def _class_of(properties: dict[str, Any]) -> str | None:
    classification = properties.get("classification")
    if isinstance(classification, dict):
        names = classification.get("names")
        name = ": ".join(map(str, names)) if isinstance(names, list) and names else classification.get("name")
    else:
        name = classification
    return name.strip() if isinstance(name, str) and name.strip() else None


def _cut(name: str) -> str:
    text = printable(one_line(name))
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _shape(geometry: object) -> tuple[Any, str | None]:
    """Make the shape of a geometry, or say what is wrong with it."""
    import shapely

    try:
        polygons = [_polygon(rings) for rings in _polygons(geometry)]
    except (TypeError, ValueError, OverflowError, shapely.errors.GEOSException) as error:
        return None, printable(one_line(error))
    if not polygons:
        return None, "has no polygon; delete it, or draw it again"
    for polygon in polygons:
        if not polygon.is_valid:
            problem = shapely.is_valid_reason(polygon)
            return None, f"crosses or touches itself: {problem}; correct its outline in QuPath"
        if not polygon.area > 0:
            return None, "has no area; delete it, or draw it again"
    shape = polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)
    if not shape.is_valid:
        return None, f"its parts overlap: {shapely.is_valid_reason(shape)}; draw them as separate annotations"
    return shape, None


def _polygons(geometry: object) -> list[Any]:
    """List the rings of each polygon of a geometry."""
    if not isinstance(geometry, dict):
        raise ValueError("has no geometry; delete it, or draw it again")
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind == "Polygon":
        return [coordinates]
    if kind == "MultiPolygon":
        if not isinstance(coordinates, list):
            raise ValueError("its MultiPolygon has no coordinates; export it again")
        return coordinates
    if kind == "GeometryCollection" and isinstance(geometry.get("geometries"), list):
        return [rings for part in geometry["geometries"] for rings in _polygons(part)]
    shown = one_line(kind, SHOWN)
    raise ValueError(f"is a {shown}, and regions are Polygon or MultiPolygon; draw it as an area, or delete it")


def _polygon(rings: object) -> "shapely.Polygon":
    import shapely

    if not isinstance(rings, list) or not rings:
        raise ValueError("has a polygon without coordinates; export it again")
    exterior, *holes = map(_ring, rings)
    return shapely.Polygon(exterior, holes)


def _ring(points: object) -> Any:
    problem = "has a ring with other things than pairs of finite numbers; export it again"
    if not isinstance(points, list) or any(not isinstance(point, list) or len(point) < 2 for point in points):
        raise ValueError(problem)
    flat = [number for point in points for number in point[:2]]
    if any(isinstance(number, bool) or not isinstance(number, int | float) for number in flat):
        raise ValueError(problem)
    ring = np.array(flat, np.float64).reshape(-1, 2)
    if not np.isfinite(ring).all():
        raise ValueError(problem)
    if len(np.unique(ring, axis=0)) < 3:
        raise ValueError("has a ring of fewer than three points; delete it, or draw it again")
    return ring
