"""The files of a saved CAE, which are checked before they are used. Loading a CAE never runs code from its files.

The weights are plain arrays in HDF5. A file with anything else in it is refused.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histocae import checksums
from histocae.errors import DataError, HistocaeError, one_line, raise_if_machine
from histocae.files import fingerprint, read_json, sha256_once
from histocae.networks.blocks import NetworkParams
from histocae.networks.sizes import size

if TYPE_CHECKING:
    import keras

PARAMS_FILE = "params.yaml"
ENCODER_FILE = "encoder.weights.h5"
DECODER_FILE = "decoder.weights.h5"
RECORD_FILE = "training.json"  # only of a CAE that a stage has trained
# of h5py and Keras about files that are no HDF5, are damaged, or hold something else
_FAULTS = (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, UserWarning)


def weights_fingerprint(folder: Path) -> str:
    """Return the fingerprint of the weights in a folder, which the record of their training holds as `weights`."""
    return fingerprint([sha256_once(folder / name) for name in (DECODER_FILE, ENCODER_FILE)])


def check(folder: Path) -> None:
    """Check the files of which a CAE is loaded against the hashes, and the record of the training, beside them.

    Other files in the folder, such as the history of the training, are not read: `checksums.compare` compares all.

    Args:
        folder: of the CAE. One without hashes or without a record passes: a notebook or an earlier version saved it.

    Raises:
        DataError: a file is missing, or is not the one that was saved.

    """
    record = folder / RECORD_FILE
    remedy = _remedy(folder)
    names = [PARAMS_FILE, ENCODER_FILE, DECODER_FILE]
    if record.exists() or checksums.lists(record, remedy):
        names.append(RECORD_FILE)
    for name in names:
        checksums.check(folder / name, remedy)
    if not record.exists():
        return
    content = read_json(record)
    try:
        found = weights_fingerprint(folder)
    except OSError as error:
        raise_if_machine(error)
        raise DataError(f"{error.filename}: can't be read: {error.strerror}; {remedy}") from None
    if not isinstance(content, dict) or content.get("weights") != found:
        files = f"{folder / ENCODER_FILE} or {DECODER_FILE}"
        raise DataError(f"{files}: not the weights of the training in {RECORD_FILE}; {remedy}")


def read(folder: Path) -> NetworkParams:
    """Read the params of a saved CAE, once its files are checked.

    Args:
        folder: of the CAE.

    Returns:
        Params that an architecture allows, and whose layers have as many weights as the files hold. So what is built
        from them takes no more memory than the files do.

    Raises:
        DataError: a file is missing, damaged or of another CAE, or a param is missing or invalid.

    """
    from histocae.networks.saved_params import read_params  # pydantic, which a machine that only trains may lack

    if not (folder / PARAMS_FILE).exists():
        remedy = _remedy(folder) if (folder / ENCODER_FILE).exists() else "check the path"
        raise DataError(f"{folder}: no saved CAE here ({PARAMS_FILE} is missing); {remedy}")
    check(folder)
    params = read_params(folder / PARAMS_FILE, _remedy(folder))
    try:
        layers = size(params)
    except ValueError as error:
        raise unbuilt(folder, error) from None
    for name, expected in ((ENCODER_FILE, layers.encoder.weights), (DECODER_FILE, layers.decoder.weights)):
        found = _count(folder / name)
        if found != expected:
            raise DataError(
                f"{folder / name}: not the weights of this CAE: {found:,} numbers, and the layers of {PARAMS_FILE} "
                f"have {expected:,}; {_remedy(folder)}"
            )
    return params


def load_weights(part: "keras.Model", file: Path) -> None:
    """Load the weights of an encoder or a decoder.

    Args:
        part: gets the weights.
        file: with the weights of exactly these layers.

    Raises:
        DataError: the file is missing or damaged, has weights of other layers, or numbers that are not finite.

    """
    import numpy as np

    try:
        with warnings.catch_warnings():
            # Keras only warns about layers that the file lacks, and keeps their initial weights. Filters are of all
            # threads, and another one may be importing MLflow
            warnings.filterwarnings("error", category=UserWarning, module="keras")
            part.load_weights(file)
    except _FAULTS as error:
        raise_if_machine(error)
        raise _refused(file, error) from None
    for weight in part.weights:
        if not np.isfinite(weight.numpy()).all():
            raise DataError(f"{file}: {weight.path} has numbers that are not finite; {_remedy(file.parent)}")


def unbuilt(folder: Path, error: ValueError) -> HistocaeError:
    """Make the error about params of a saved CAE that can't be built, such as an unknown optimizer.

    Args:
        folder: of the CAE.
        error: that building it raised.

    Returns:
        An error of one line, with the remedy.

    """
    return DataError(f"{folder / PARAMS_FILE}: {one_line(error)}; {_remedy(folder)}")


def _remedy(folder: Path) -> str:
    if (folder / RECORD_FILE).exists():
        return f"restore it (dvc checkout), or delete {folder} and train the model again"
    return "save the CAE again"


def _refused(file: Path, error: Exception) -> DataError:
    return DataError(f"{file}: not the weights of this CAE: {one_line(error)}; {_remedy(file.parent)}")


def _count(file: Path) -> int:
    """Count the weights in a file without reading them."""
    import h5py  # beside Keras only

    sizes, taken = [], 0
    try:
        with h5py.File(file, "r") as opened:
            links: dict[str, Any] = {}
            opened.visititems_links(links.__setitem__)
            for name, link in links.items():
                item = opened[name] if isinstance(link, h5py.HardLink) else None
                if isinstance(item, h5py.Group):
                    continue
                if not isinstance(item, h5py.Dataset) or item.dtype.kind != "f" or item.is_virtual or item.external:
                    raise ValueError(f"{name} is no array of floating-point numbers in this file")
                sizes.append(int(item.size or 0))
                taken += int(item.nbytes)
        whole = taken <= file.stat().st_size
    except _FAULTS as error:
        raise_if_machine(error)
        raise _refused(file, error) from None
    if not whole:  # compressed, or claimed without being there: reading it might take any amount of memory
        raise DataError(f"{file}: claims {sum(sizes):,} numbers, more than it has room for; {_remedy(file.parent)}")
    return sum(sizes)
