"""Files of features as CLAM, TRIDENT and STAMP write them: datasets, types and attributes, with h5py alone."""

from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

Writer = Callable[[Path, np.ndarray, np.ndarray, float], None]


def write(path: Path, datasets: Mapping[str, np.ndarray], attributes: Mapping = {}, coords: Mapping = {}) -> None:
    """Write datasets, attributes of the file, and attributes of coords."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
        file.attrs.update(attributes)
        if "coords" in file:
            file["coords"].attrs.update(coords)


def grid(columns: int, rows: int, step: float) -> np.ndarray:
    """List the corners of a grid, x and y, row by row."""
    y, x = np.mgrid[:rows, :columns]
    return np.stack([x.ravel(), y.ravel()], axis=1) * step


def table(corners: np.ndarray, *, mpp: float, width: float, slide_id: str = "a") -> pd.DataFrame:
    """Make the table of a slide's patches that an export takes."""
    columns = {"slide_id": slide_id, "x": corners[:, 0], "y": corners[:, 1]}
    return pd.DataFrame(columns).assign(width=width, mpp=mpp, tissue_share=1.0)


def clam(path: Path, features: np.ndarray, corners: np.ndarray, side: float) -> None:
    """CLAM's extract_features_fp.py: arrays that grow by batches, and no attribute."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in {"features": features.astype(np.float32), "coords": corners.astype(np.int32)}.items():
            file.create_dataset(name, data=values, maxshape=(None, *values.shape[1:]), chunks=(1, *values.shape[1:]))


def trident(path: Path, features: np.ndarray, corners: np.ndarray, side: float) -> None:
    """TRIDENT's extract_patch_features: the attributes of its file of coordinates are those of coords."""
    coords = {
        "patch_size": 256,
        "patch_size_level0": int(side),
        "level0_magnification": 40,
        "target_magnification": 20,
        "overlap": 0,
        "name": path.stem,
        "savetodir": "features",
        "level0_width": 100_000,
        "level0_height": 80_000,
    }
    write(path, {"features": features.astype(np.float32), "coords": corners.astype(np.int64)}, coords=coords)


def stamp(path: Path, features: np.ndarray, corners: np.ndarray, side: float) -> None:
    """STAMP from 2.1 on: half floats, and microns."""
    attributes = {
        "stamp_version": "2.4.0",
        "extractor": "uni2",
        "unit": "um",
        "tile_size_um": side,
        "tile_size_px": 224,
        "code_hash": "0123abcd",
        "feat_type": "tile",
    }
    write(path, {"coords": corners.astype(np.float32), "feats": features.astype(np.float16)}, attributes)


def stamp_2_0(path: Path, features: np.ndarray, corners: np.ndarray, side: float) -> None:
    """STAMP 2.0: the side has another name."""
    attributes = {"extractor": "ctranspath", "unit": "um", "tile_size": side}
    write(path, {"coords": corners.astype(np.float32), "feats": features.astype(np.float16)}, attributes)


def stamp_1(path: Path, features: np.ndarray, corners: np.ndarray, side: float) -> None:
    """STAMP 1: no unit; 224 of its coordinates are 256 microns, the side of its patches."""
    coords = np.rint(corners * 224 / 256).astype(np.int64)
    write(path, {"coords": coords, "feats": features.astype(np.float16)}, {"extractor": "xiyuewang-ctranspath"})


def of_patches(
    folder: Path,
    rows: pd.DataFrame,
    features: np.ndarray,
    mpp: Mapping[str, float],
    pixels: int,
    layout: str = "trident",
) -> None:
    """Write a file for each slide: features of patches, in the order of their rows, as another program would."""
    for slide_id, of_slide in rows.reset_index(drop=True).groupby("slide_id"):
        side = pixels * of_slide["mpp"].iloc[0] / mpp[slide_id]
        corners, path = of_slide[["x", "y"]].to_numpy(), folder / f"{slide_id}.h5"
        if layout in PIXEL_LAYOUTS:
            PIXEL_LAYOUTS[layout](path, features[of_slide.index], corners, round(side))
        else:
            MICRON_LAYOUTS[layout](path, features[of_slide.index], corners * mpp[slide_id], side * mpp[slide_id])


PIXEL_LAYOUTS: dict[str, Writer] = {"clam": clam, "trident": trident}
MICRON_LAYOUTS: dict[str, Writer] = {"stamp": stamp, "stamp 2.0": stamp_2_0, "stamp 1": stamp_1}
