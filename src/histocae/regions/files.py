"""The folder of the regions: a file per slide, named <slide_id>.geojson or <slide_id>.geojson.gz."""

import unicodedata
from pathlib import Path

from histocae.errors import DataError, unreadable
from histocae.regions.reading import SUFFIXES


def find(folder: Path) -> dict[str, Path]:
    """List the files of regions in a folder.

    Args:
        folder: of the files; hidden files and those with another suffix are left out.

    Returns:
        The file by slide_id, or by the slide_id in the safe form of file names; Unicode in the form NFC.

    Raises:
        DataError: there is no such folder, a slide has two files, or a name can't be read.

    """
    if not folder.is_dir():
        raise DataError(f"data.annotations: {folder}: no such folder; name the folder of the .geojson files, or null")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        for suffix in SUFFIXES:
            if path.name.lower().endswith(suffix):
                if (name := unreadable(path.name)) is not None:
                    raise DataError(f"{folder}: has a file whose name is not UTF-8: {name}; rename it")
                if not path.is_file():
                    raise DataError(f"{path}: is no file; remove it")
                slide_id = unicodedata.normalize("NFC", path.name[: -len(suffix)])
                if slide_id in found:
                    raise DataError(f"{path}: {found[slide_id].name} is of the same slide; delete either")
                found[slide_id] = path
    return found
