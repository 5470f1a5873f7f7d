"""A slide that a user gives, or the tiles of one."""

from dataclasses import dataclass
from pathlib import Path

from histocae.exports import forms
from histocae.slides.units import MicronsPerPixel

RECORD = "result.json"  # of a folder with a slide's results
SLIDES, SET_ASIDE, PAGE = "slides.csv", "set_aside.csv", "index.html"  # in the folder of all results
RESERVED = (SLIDES, SET_ASIDE, PAGE, *map(forms.name_of, forms.FORMS))  # names there that no slide has


@dataclass(frozen=True, kw_only=True)
class Given:
    """A slide to score, or the tiles of one.

    Attributes:
        slide_id: its name in all results.
        folder: of its files.
        files: relative to the folder: one slide, or any number of tiles.
        tiles: the files are tiles.
        own_mpp: microns per level-0 pixel from a table; None: as the slide states.
        hashes: file, algorithm and hash (hex) of files whose hash a table gives.
        metadata: what a table says of it: case_id and sample_type, where it has them.
        from_table: a table gives its name.
        trouble: why it can't be scored under its name; None where it can.

    """

    slide_id: str
    folder: Path
    files: tuple[str, ...]
    tiles: bool = False
    own_mpp: MicronsPerPixel | None = None
    hashes: tuple[tuple[str, str, str], ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    from_table: bool = False
    trouble: str | None = None

    @property
    def paths(self) -> list[Path]:
        """The files with their folder."""
        return [self.folder / file for file in self.files]
