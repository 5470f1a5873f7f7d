"""The folder that all results go into: what is there already, and that one command at a time writes there."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from histocae.errors import DataError
from histocae.scoring.given import RECORD
from histocae.scoring.results import FILES, folder_of

MODELS = ".models"  # fetched models
SLIDES, SET_ASIDE, PAGE = "slides.csv", "set_aside.csv", "index.html"
SET_ASIDE_COLUMNS = ("slide_id", "file", "reason")
# what those of histocae score begin with, or have
_PAGE_TITLE = "<title>histocae: scores of slides"
_BEGIN = 100_000  # bytes in which the title is
_REMEDY = "choose another folder by --out, or move it"


def check(out: Path, slide_ids: Iterable[str], further: Iterable[str] = ()) -> None:
    """Refuse a folder in which results would replace something else: a user's table, or the tiles of a slide.

    Args:
        out: folder of all results; it need not be there.
        slide_ids: of the slides to score.
        further: names of files and folders with the latents of all slides.

    Raises:
        DataError: it has such a thing.

    """
    for name, is_own in {SLIDES: _is_table, SET_ASIDE: _is_table, PAGE: _is_page}.items():
        path = out / name
        if path.exists() and not (path.is_file() and is_own(path)):
            raise DataError(f"{path}: is there, and not from histocae score; {_REMEDY}")
    for name in further:
        if (out / name).exists() and not (out / PAGE).exists():
            raise DataError(f"{out / name}: is there, and not from histocae score; {_REMEDY}")
    for slide_id in slide_ids:
        folder = folder_of(out, slide_id)
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        others = [name for name in names if name not in FILES and not name.startswith(".")]
        if folder.exists() and (not folder.is_dir() or others or (names and RECORD not in names)):
            has = f"has {others[0]}" if others else "is there"
            raise DataError(f"{folder}: {has}, not from histocae score, and would be replaced; {_REMEDY}")


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
