"""The forms in which patches and latents are exported, and the names of their files.

`--help` imports this module, so it must be quick to import.
"""

from collections.abc import Collection
from typing import Literal

from histocae.errors import DataError

Reader = Literal["clam", "stamp"]

FILES = {"h5ad": "latents.h5ad", "parquet": "latents.parquet"}
# a file per slide; `h5_files` is the name that CLAM looks for
FOLDERS: dict[str, tuple[str, Reader]] = {"h5": ("h5_files", "clam"), "stamp": ("h5_stamp", "stamp")}
FORMS = (*FILES, *FOLDERS)
ALL = "all"  # in place of a form: all forms that the data allow


def name_of(form: str) -> str:
    """Return the name of the file or folder of a form."""
    return FILES[form] if form in FILES else FOLDERS[form][0]


def expanded(chosen: Collection[str]) -> list[str]:
    """List the forms that a user chose, in the order of `FORMS`.

    >>> expanded(["h5", "h5ad"])
    ['h5ad', 'h5']
    >>> expanded(["all"])
    ['h5ad', 'parquet', 'h5', 'stamp']
    """
    return [form for form in FORMS if form in chosen or ALL in chosen]


def allowed(chosen: Collection[str], *, positions: bool, option: str) -> list[str]:
    """List the forms to write.

    Args:
        chosen: forms, or `ALL`.
        positions: whether patches have a position on a slide, which those of tiles lack.
        option: of the command line, for the error's line.

    Returns:
        The forms, in the order of `FORMS`; of `ALL`, those that need positions only where there are any.

    Raises:
        DataError: a form was chosen by its name, and needs positions that the patches lack.

    """
    refused = [] if positions else [form for form in FOLDERS if form in chosen]
    if refused and ALL not in chosen:
        raise DataError(
            f"tiles have no position on a slide, which {option} {refused[0]} needs; use {option} h5ad or "
            f"{option} parquet"
        )
    return [form for form in expanded(chosen) if positions or form in FILES]
