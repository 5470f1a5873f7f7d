"""What is there already under the names of exports: only what histocae wrote is replaced."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from histocae.errors import DataError, raise_if_machine
from histocae.exports.columns import ENCODER, KEY, MEANING
from histocae.exports.forms import FOLDERS, expanded, name_of

REMEDY = "choose another folder by --out, or move it"
_OF_SYSTEMS = (".DS_Store",)  # macOS writes it into each folder that it shows
_FAULTS = (OSError, RuntimeError, KeyError, ValueError)  # of h5py and pyarrow, about other files and damaged ones


def check(folder: Path, chosen: Collection[str]) -> None:
    """Refuse a folder in which exports would replace something that histocae did not write.

    A file is replaced if it has the description of a model that histocae writes, and a folder if all of its files are
    features of histocae's models.

    Args:
        folder: of the exports; it need not be there.
        chosen: forms that will be written, or `forms.ALL`.

    Raises:
        DataError: it has such a thing.

    """
    for form in expanded(chosen):
        path = folder / name_of(form)
        if form in FOLDERS:
            _check_folder(path)
        elif path.exists() and not (path.is_file() and _is_own(path, _READERS[form])):
            raise _refusal(path)


def check_table(path: Path, columns: Sequence[str]) -> None:
    """Refuse to replace a table with other columns.

    Args:
        path: of the table, with commas; it need not be there.
        columns: that histocae writes.

    Raises:
        DataError: there is something else.

    """
    if not path.exists():
        return
    if path.is_file():
        with open(path, "rb") as handle:
            if handle.readline().decode("utf-8", "replace").strip() == ",".join(columns):
                return
    raise _refusal(path)


def _check_folder(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise _refusal(path)
    for file in sorted(path.iterdir()) if path.is_dir() else []:
        if file.name in _OF_SYSTEMS or (file.suffix == ".h5" and file.is_file() and _is_own(file, _is_features)):
            continue
        raise _refusal(file)


def _refusal(path: Path) -> DataError:
    return DataError(f"{path}: exists, was not written by histocae, and would be replaced; {REMEDY}")


def _is_own(path: Path, reads: Callable[[Path], bool]) -> bool:
    try:
        return reads(path)
    except _FAULTS as error:
        raise_if_machine(error)
        return False


def _is_features(path: Path) -> bool:
    import h5py

    with h5py.File(path) as file:
        attributes = file["features"].attrs if "features" in file else file.attrs
        encoder: Any = attributes.get("encoder", attributes.get("extractor"))
        return isinstance(encoder, str) and encoder.startswith(ENCODER)


def _is_anndata(path: Path) -> bool:
    """Return whether a file is as it was exported: scanpy's results in it are a user's work."""
    import h5py

    with h5py.File(path) as file:
        added = set(file["obs"]) - {"_index", *MEANING} or set(file["obsm"]) - {"spatial"} or set(file["obsp"])
        return set(file["uns"]) == {KEY} and not added


def _is_parquet(path: Path) -> bool:
    import pyarrow.parquet as pq

    return KEY.encode() in (pq.read_schema(path).metadata or {})


_READERS = {"h5ad": _is_anndata, "parquet": _is_parquet}
