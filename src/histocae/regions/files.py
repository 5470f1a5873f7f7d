"""The folder of the regions: a file per slide, named <slide_id>.geojson or <slide_id>.geojson.gz."""

from pathlib import Path

from histocae.errors import DataError
from histocae.regions.reading import SUFFIXES


def find(folder: Path) -> dict[str, Path]:
    """List the files of regions in a folder.

    Args:
        folder: of the files; folders below it and hidden files are left out.

    Returns:
        The file by slide_id, in the order of the names.

    Raises:
        DataError: there is no such folder, or a slide has two files.

    """
    if not folder.is_dir():
        raise DataError(f"data.annotations: {folder}: no such folder; name the folder of the .geojson files, or null")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        for suffix in SUFFIXES:
            if path.name.endswith(suffix):
                slide_id = path.name.removesuffix(suffix)
                if slide_id in found:
                    raise DataError(f"{path}: {found[slide_id].name} is of the same slide; delete either")
                found[slide_id] = path
    return found
