"""The folder that all results go into: what is there already, and that one command at a time writes there."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from histocae.errors import DataError
from histocae.exports import existing
from histocae.scoring.given import PAGE, RECORD, SET_ASIDE, SLIDES
from histocae.scoring.results import FILES, folder_of

MODELS = ".models"  # fetched models
SET_ASIDE_COLUMNS = ("slide_id", "file", "reason")
# what those of histocae score begin with, or have
_PAGE_TITLE = "<title>histocae: scores of slides"
_BEGIN = 100_000  # bytes in which the title is


def check(out: Path, forms: Collection[str] = ()) -> None:
    """Refuse a folder in which results would replace something else, such as a table of the user.

    Args:
        out: folder of all results; it need not be there.
        forms: that the latents of all slides are exported to; see `existing.check`.

    Raises:
        DataError: it has such a thing.

    """
    for name, is_own in {SLIDES: _is_table, SET_ASIDE: _is_table, PAGE: _is_page}.items():
        path = out / name
        if path.exists() and not (path.is_file() and is_own(path)):
            raise DataError(f"{path}: exists and was not written by histocae score; {existing.REMEDY}")
    existing.check(out, forms)


def trouble(out: Path, slide_id: str) -> str | None:
    """Say why the results of a slide can't be written: something else would be replaced, such as its tiles.

    Args:
        out: folder of all results.
        slide_id: of the slide.

    Returns:
        The reason; None if they can.

    """
    folder = folder_of(out, slide_id)
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    others = [name for name in names if name not in FILES and not name.startswith(".")]
    if not folder.exists() or (folder.is_dir() and not others and (not names or RECORD in names)):
        return None
    subject = f"{folder / others[0]} was" if others else f"{folder} was"
    return f"{subject} not written by histocae score, and would be replaced; {existing.REMEDY}"


def _is_table(path: Path) -> bool:
    """Return whether a table is one of those that histocae score writes, by its columns."""
    with open(path, "rb") as handle:
        columns = handle.readline().decode("utf-8", "replace").strip().split(",")
    ours = {"slide_id", "patches", "warnings"} <= set(columns) and {"score", "error"} & set(columns)
    return bool(ours) or columns in ([""], list(SET_ASIDE_COLUMNS))


def _is_page(path: Path) -> bool:
    with open(path, "rb") as handle:
        return _PAGE_TITLE.encode() in handle.read(_BEGIN)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Wait until no other command fetches a model into a folder of results, or writes its tables.

    Args:
        out: folder of all results; it is made.

    Yields:
        Nothing.

    """
    (out / MODELS).mkdir(parents=True, exist_ok=True)
    with FileLock(out / MODELS / "lock"):
        yield
