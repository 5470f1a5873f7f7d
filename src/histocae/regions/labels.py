"""Labels of patches by the regions of their slide: the share of each patch's area that lies in regions of a kind."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histocae.regions.reading import EXCLUDED, KINDS, NORMAL, TUMOR, Region

if TYPE_CHECKING:  # shapely is loaded where there are regions
    import shapely

NONE = -1  # the code of a patch that no region has
EQUAL = 1e-9  # shares that differ by less are equal


@dataclass(frozen=True)
class Labels:
    """What the regions of a slide say of its patches.

    Attributes:
        codes: position in `reading.KINDS` (tumor, normal, exclude) of each patch, `NONE` where no region has enough
            of it; int8, shape (n,).
        shares: of the patch's area in regions of that kind, or the larger of tumor and normal where there is no
            kind; float64 in [0, 1], shape (n,).
        labeled: there is a region of tumor or of normal tissue; else the slide keeps its own label.
        overlap: share of the area of tumor regions that is also in normal regions.
        unclear: number of patches that are as much tumor as normal, and so have no label.

    """

    codes: NDArray[np.int8]
    shares: NDArray[np.float64]
    labeled: bool
    overlap: float
    unclear: int

    @property
    def excluded(self) -> NDArray[np.bool_]:
        """The patches in regions to exclude, bool, shape (n,)."""
        excluded: NDArray[np.bool_] = self.codes == KINDS.index(EXCLUDED)
        return excluded


def label(
    regions: Sequence[Region],
    rows: NDArray[np.integer[Any]],
    columns: NDArray[np.integer[Any]],
    side: float,
    least: float,
) -> Labels:
    """Label the patches of a slide.

    A patch is excluded where the share `least` of its area is in regions to exclude. Otherwise its label is the kind
    that has the larger share of its area, and at least the share `least`. Regions of a kind are united, and holes are
    outside. A patch that is equally in regions of tumor and of normal tissue has no label.

    Args:
        regions: of the slide.
        rows: of the patches on their grid, shape (n,).
        columns: of the patches, shape (n,).
        side: of a patch, in level-0 pixels.
        least: share of a patch's area, above 0.

    Returns:
        Labels and shares.

    """
    united = {kind: _united([region.shape for region in regions if region.kind == kind]) for kind in KINDS}
    share = {kind: area_shares(shape, rows, columns, side) for kind, shape in united.items()}
    tumor, normal, excluded = share[TUMOR], share[NORMAL], share[EXCLUDED]
    larger = np.maximum(tumor, normal)
    reached = larger >= least - EQUAL
    unclear = reached & (np.abs(tumor - normal) <= EQUAL)
    codes = np.full(len(rows), NONE, np.int8)
    for code, kind in enumerate((tumor > normal, normal > tumor)):
        codes[reached & ~unclear & kind] = code
    left_out = excluded >= least - EQUAL
    codes[left_out] = KINDS.index(EXCLUDED)
    return Labels(
        codes,
        np.where(left_out, excluded, larger),
        any(region.kind != EXCLUDED for region in regions),
        _overlap(united[TUMOR], united[NORMAL]),
        int((unclear & ~left_out).sum()),
    )


def _united(shapes: Sequence[Any]) -> "shapely.Geometry":
    import shapely

    return shapely.union_all(shapes)


def _overlap(tumor: Any, normal: Any) -> float:
    return float(tumor.intersection(normal).area / tumor.area) if tumor.area > 0 else 0.0


def area_shares(
    shape: "shapely.Geometry", rows: NDArray[np.integer[Any]], columns: NDArray[np.integer[Any]], side: float
) -> NDArray[np.float64]:
    """Compute the share of the area of each cell of a grid that lies in a shape.

    Args:
        shape: polygons; it may be empty.
        rows: of the cells, shape (n,).
        columns: of the cells, shape (n,).
        side: of a cell; cell (0, 0) begins at the origin.

    Returns:
        float64 in [0, 1], shape (n,).

    """
    import shapely

    shares = np.zeros(len(rows))
    if shape.is_empty or not len(rows):
        return shares
    order = np.argsort(rows, kind="stable")
    left, _, right, _ = shape.bounds
    # Halving the rows again and again: each cell meets only the part of the outline in its own row.
    todo = [(shape, int(rows.min()), int(rows.max()) + 1)]
    while todo:
        part, first, end = todo.pop()
        begin, stop = np.searchsorted(rows[order], (first, end))
        if part.is_empty or begin == stop:
            continue
        if end - first > 1:
            middle = (first + end) // 2
            for top, bottom in ((first, middle), (middle, end)):
                strip = shapely.box(left - side, top * side, right + side, bottom * side)
                todo.append((shapely.intersection(part, strip), top, bottom))
            continue
        cells = order[begin:stop]
        x, y = columns[cells] * side, first * side
        boxes = shapely.box(x, y, x + side, y + side)
        shares[cells] = shapely.area(shapely.intersection(boxes, part)) / side**2
    return shares.clip(0, 1)
