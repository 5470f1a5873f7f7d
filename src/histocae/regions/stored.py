"""The regions of each slide as figures show them: a file per shard, in the folder reports/patching/regions."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from histocae.errors import StoreError
from histocae.files import read_json_or_none, write_json
from histocae.regions import outlines
from histocae.regions.reading import KINDS, Region

if TYPE_CHECKING:  # shapely is loaded where there are regions
    import shapely

REMEDY = "run dvc repro patches"


def write(folder: Path, shard: str, regions: Sequence[Region]) -> None:
    """Write the regions of a slide, those of a kind united.

    Args:
        folder: of the regions of all slides.
        shard: name of the slide's shard.
        regions: of the slide.

    """
    import shapely

    united = {kind: shapely.union_all([each.shape for each in regions if each.kind == kind]) for kind in KINDS}
    write_json(
        {kind: outlines.geometry(shapely.normalize(shape)) for kind, shape in united.items() if not shape.is_empty},
        folder / f"{shard}.json",
    )


def read(folder: Path, shard: str) -> "dict[str, shapely.Polygon | shapely.MultiPolygon] | None":
    """Read the regions of a slide.

    Args:
        folder: of the regions of all slides.
        shard: name of the slide's shard.

    Returns:
        A shape by kind (tumor, normal, exclude), in level-0 pixels; None where the slide has no regions.

    Raises:
        StoreError: the file is damaged.

    """
    import shapely
    from shapely.geometry import shape

    path = folder / f"{shard}.json"
    if not path.is_file():
        return None
    content = read_json_or_none(path)
    try:
        return {kind: shape(content[kind]) for kind in KINDS if kind in content}
    except (TypeError, KeyError, ValueError, AttributeError, shapely.errors.ShapelyError) as error:
        raise StoreError(f"{path}: is damaged: {error}; {REMEDY}") from None
