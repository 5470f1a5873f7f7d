"""Features of a slide's patches that another program wrote as .h5: CLAM, TRIDENT or STAMP.

A file is recognized by its content. docs/exports.md describes what these programs write.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from histocae.errors import DataError, one_line, raise_if_machine

Unit = Literal["level-0 pixels", "microns"]
PIXELS: Unit = "level-0 pixels"
MICRONS: Unit = "microns"
REMEDY = "extract the features of this slide again, or move the file away"
_FAULTS = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError)  # of h5py, about damaged files
MOST_EXPANSION = 1100  # bytes of numbers per byte of the file, more than gzip can reach
# the unit of coordinates by STAMP 1: 224 of them are 256 microns
STAMP_1_SIDE, STAMP_1_MICRONS = 224, 256.0


@dataclass(frozen=True)
class OutsideFeatures:
    """Features of the patches of a slide.

    Attributes:
        features: float32, shape (patches, features).
        corners: x and y of the upper left corners of the patches, float64, shape (patches, 2).
        unit: of corners and side.
        side: of a patch; None where the file does not state it.

    """

    features: NDArray[np.float32]
    corners: NDArray[np.float64]
    unit: Unit
    side: float | None


class _FileError(Exception):
    """What is wrong with a file; `read` names the file."""


def read(path: Path) -> OutsideFeatures:
    """Read the features of a slide.

    Args:
        path: of the file.

    Returns:
        The features with the positions of their patches. There may be none.

    Raises:
        DataError: it is no HDF5 file or damaged, or it lacks features or coordinates of patches; their shapes do not
            agree; a number is not finite; or the unit of the coordinates is unknown.

    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return _read(file)
    except _FileError as fault:
        raise DataError(f"{path}: {fault}") from None
    except _FAULTS as error:
        raise_if_machine(error)
        raise DataError(f"{path}: can't be read as HDF5: {one_line(error)}; {REMEDY}") from None


def _read(file: Any) -> OutsideFeatures:
    names = [name for name in ("features", "feats") if name in file]
    if len(names) != 1:
        what = "both features and feats" if names else "neither features (CLAM, TRIDENT) nor feats (STAMP)"
        raise _FileError(f"has {what}; {REMEDY}")
    if "coords" not in file:
        raise _FileError(f"has no coords, and features are joined by position; {REMEDY}")
    kind = _text(file.attrs.get("feat_type", "tile"))
    features, coords = _dataset(file, names[0]), _dataset(file, "coords")
    if kind != "tile" or features.ndim == 1:
        raise _FileError("has features of the whole slide; name the folder with the features of its patches")
    values, corners = _agreeing(names[0], features, coords)
    if names[0] == "features":
        return OutsideFeatures(values, corners, PIXELS, _side_of_clam(file["coords"].attrs))
    return _of_stamp(values, corners, file.attrs)


def _agreeing(
    name: str, features: NDArray[Any], coords: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Give features and corners, one row each per patch, of finite numbers."""
    shapes = f"{name} {features.shape} and coords {coords.shape}"
    features, coords = _without_batch(features), _without_batch(coords)
    if features.ndim != 2 or coords.ndim != 2 or coords.shape[1] != 2 or len(features) != len(coords):
        raise _FileError(f"{shapes} do not agree: expected features, and x and y, of each patch; {REMEDY}")
    if features.shape[1] == 0:
        raise _FileError(f"{name} has no columns; {REMEDY}")
    corners = coords.astype(np.float64)
    with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite
        values = features.astype(np.float32)
    for kind, numbers in ((name, values), ("coords", corners)):
        if not (finite := np.isfinite(numbers).all(axis=1)).all():
            row = int(np.flatnonzero(~finite)[0])
            raise _FileError(f"row {row} of {kind} has a number that is not finite; {REMEDY}")
    return values, corners


def _dataset(file: Any, name: str) -> NDArray[Any]:
    dataset = file[name]
    if not hasattr(dataset, "dtype") or dataset.dtype.kind not in "fiu":
        raise _FileError(f"{name} is no array of numbers; {REMEDY}")
    if dataset.nbytes > MOST_EXPANSION * file.id.get_filesize():  # a damaged shape must not fill the memory
        raise _FileError(f"{name} {dataset.shape} has more numbers than the file can hold; {REMEDY}")
    values: NDArray[Any] = np.asarray(dataset[()])
    return values


def _without_batch(values: NDArray[Any]) -> NDArray[Any]:
    """Drop a leading axis of length 1, which slide encoders take."""
    return values[0] if values.ndim == 3 and len(values) == 1 else values


def _side_of_clam(attributes: Any) -> float | None:
    """Find the side of a patch in level-0 pixels, by the attributes of CLAM or TRIDENT; CLAM may write none."""
    stated = _number(attributes, "patch_size_level0")
    if stated is not None:
        return stated
    side, downsample = _number(attributes, "patch_size"), _number(attributes, "downsample")
    if side is None:
        return None
    custom = _number(attributes, "custom_downsample") or 1.0
    if downsample is not None:  # of the level that CLAM read
        return side * downsample * custom
    if np.all(attributes.get("patch_level", -1) == 0):
        return side * custom
    level0, target = (_number(attributes, f"{name}_magnification") for name in ("level0", "target"))
    return None if level0 is None or target is None else side * level0 / target


def _of_stamp(features: NDArray[np.float32], corners: NDArray[np.float64], attributes: Any) -> OutsideFeatures:
    unit = _text(attributes["unit"]) if "unit" in attributes else None
    if unit not in (None, "um"):
        raise _FileError(f"the unit of coords is {unit!r}, expected 'um'; {REMEDY}")
    side = _number(attributes, "tile_size_um")
    if side is None and unit is not None:  # STAMP 2.0
        side = _number(attributes, "tile_size")
    if unit is not None or side is not None:
        return OutsideFeatures(features, corners, MICRONS, side)
    side = _number(attributes, "tile_size") or step(corners)
    if side is None or round(side) != STAMP_1_SIDE:
        raise _FileError("states no unit of coords (unit, tile_size_um); extract the features with STAMP 2")
    return OutsideFeatures(features, corners * (STAMP_1_MICRONS / STAMP_1_SIDE), MICRONS, STAMP_1_MICRONS)


def _number(attributes: Any, name: str) -> float | None:
    """Read a length or a factor, which some programs write for x and y; None where it is missing."""
    if name not in attributes:
        return None
    values = np.asarray(attributes[name]).ravel()
    if values.dtype.kind not in "fiu" or not values.size or not 0 < values[0] < np.inf:
        raise _FileError(
            f"attribute {name} is {one_line(attributes[name], 40)!r}, expected a number above 0; {REMEDY}"
        )
    return float(values[0])


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def step(corners: NDArray[np.float64]) -> float | None:
    """Measure the step of a grid: the median distance of a patch from its nearest neighbor, along x or y.

    Not the smallest difference of coordinates: CLAM has a grid of its own for each piece of tissue.

    Args:
        corners: x and y of patches, float64, shape (patches, 2).

    Returns:
        The step, in the unit of the corners; None where there are fewer than two positions.

    """
    from scipy.spatial import cKDTree

    places = np.unique(corners, axis=0)
    if len(places) < 2:
        return None
    distances, _ = cKDTree(places).query(places, k=2, p=np.inf)
    return float(np.median(distances[:, 1]))
