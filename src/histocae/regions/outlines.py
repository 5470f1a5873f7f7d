"""Outlines of masks as polygons, and polygons as coordinates of GeoJSON."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # shapely is loaded where there are outlines
    import shapely


def outline(mask: NDArray[np.bool_]) -> "shapely.Polygon | shapely.MultiPolygon":
    """Outline the pixels of a mask exactly.

    Args:
        mask: bool, shape (height, width).

    Returns:
        The union of its pixels, with their corners at whole numbers; empty where there are none.

    """
    import shapely

    steps = np.diff(mask.astype(np.int8), axis=1, prepend=0, append=0)
    (rows, starts), (_, ends) = np.nonzero(steps == 1), np.nonzero(steps == -1)
    # the runs of each row, where all numbers are whole and so exact
    return shapely.disjoint_subset_union_all(shapely.box(starts, rows, ends, rows + 1))


def geometry(shape: "shapely.Polygon | shapely.MultiPolygon") -> dict[str, Any]:
    """Give the geometry of a shape as GeoJSON has it.

    Args:
        shape: not empty. Positions are rounded to two decimals, as QuPath writes them.

    Returns:
        type and coordinates; whole numbers are without decimals.

    """
    import shapely

    rings = [
        [shapely.get_coordinates(ring).tolist() for ring in (part.exterior, *part.interiors)]
        for part in shapely.get_parts(shape)
    ]
    polygons = [[[[plain(x), plain(y)] for x, y in ring] for ring in part] for part in rings]
    single = len(polygons) == 1
    return {"type": "Polygon" if single else "MultiPolygon", "coordinates": polygons[0] if single else polygons}


def plain(value: float) -> float:
    """Round to two decimals; a whole number is without decimals.

    Example:
        >>> plain(2.0), plain(2.125), plain(1 / 3)
        (2, 2.12, 0.33)

    """
    rounded = round(value, 2)
    return int(rounded) if rounded.is_integer() else rounded
