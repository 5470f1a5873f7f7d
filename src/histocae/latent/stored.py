"""The latents of a model's patches on disk: models/latents/<model>, which the stage evaluate writes."""

from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, ValidationError

from histocae import checksums, params_file
from histocae.errors import DataError, one_line, raise_if_machine
from histocae.files import ARRAY_FAULTS, read_json
from histocae.params import Count, Section

FILE = "latents.json"
AT_ONCE = 2**14  # rows that are checked together


class _Description(Section):
    model_config = ConfigDict(extra="ignore")

    model: str
    weights: str
    features: Count | None


def read_description(folder: Path) -> dict[str, Any]:
    """Read what the latents of a model are made of.

    Args:
        folder: of the latents, named like the model.

    Returns:
        model: its name; weights: fingerprint of its weights; features: latents per patch, or None where it has no
        latent layer, and so no latents.

    Raises:
        DataError: the file is missing, damaged or of another model.

    """
    path, remedy = folder / FILE, _remedy(folder)
    if not path.exists():
        raise DataError(f"{path}: not there yet; {remedy}")
    checksums.check(path, remedy)
    try:
        description = _Description.model_validate(read_json(path))
    except ValidationError as error:
        raise DataError(f"{path}: {params_file.explain_all(error, _Description)}; {remedy}") from None
    if description.model != folder.name:
        raise DataError(f"{path}: has the latents of {description.model}; {remedy}")
    return description.model_dump()


def read_features(folder: Path, rows: Mapping[str, Sized], count: int) -> dict[str, NDArray[np.float32]]:
    """Read the latents of the patches of each split.

    Args:
        folder: of the model's latents.
        rows: of the splits, of which only the number counts.
        count: latents per patch.

    Returns:
        float32, shape (rows, count), by split.

    Raises:
        DataError: a file is missing, damaged or of other rows, or has numbers that are not finite.

    """
    return {split: np.array(mapped) for split, mapped in map_features(folder, rows, count).items()}


def map_features(folder: Path, rows: Mapping[str, Sized], count: int) -> dict[str, NDArray[np.float32]]:
    """Map the latents of the patches of each split, which may not fit into memory, and check them.

    Args:
        folder: of the model's latents.
        rows: of the splits, of which only the number counts.
        count: latents per patch.

    Returns:
        float32, shape (rows, count), by split; read-only, and read from the files where they are used.

    Raises:
        DataError: a file is missing, damaged or of other rows, or has numbers that are not finite.

    """
    features, remedy = dict[str, NDArray[np.float32]](), _remedy(folder)
    for split, split_rows in rows.items():
        path = folder / f"{split}.npy"
        checksums.check(path, remedy)
        try:
            # mapped: a damaged header that claims more than the file holds takes no memory; and it never unpickles
            mapped = np.lib.format.open_memmap(path, "r")
        except ARRAY_FAULTS as error:
            raise_if_machine(error)
            raise DataError(f"{path}: can't be read: {one_line(error)}; {remedy}") from None
        if mapped.shape != (len(split_rows), count):
            expected = f"({len(split_rows)}, {count}): rows of {split}.csv and latents"
            raise DataError(f"{path}: has shape {mapped.shape}, expected {expected}; {remedy}")
        if mapped.dtype != np.float32:
            raise DataError(f"{path}: has numbers of type {mapped.dtype}, expected float32; {remedy}")
        for start in range(0, len(mapped), AT_ONCE):
            finite = np.isfinite(mapped[start : start + AT_ONCE]).all(axis=1)
            if not finite.all():
                row = start + int(np.flatnonzero(~finite)[0])
                raise DataError(f"{path}: row {row} has latents that are not finite numbers; {remedy}")
        features[split] = mapped
    return features


def _remedy(folder: Path) -> str:
    return f"run dvc repro evaluate@{folder.name}"
