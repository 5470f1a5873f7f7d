"""Features of a pretrained encoder, which another program wrote, joined to the patches by their positions."""

import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.errors import DataError, shortened, unreadable
from histocae.exports import outside
from histocae.files import read_table
from histocae.patches.shard_file import shard_name
from histocae.progress import bar
from histocae.slides.units import Level0Pixels
from histocae.sources.hashes import Hashes

KEY = "baselines.features"
SUFFIX = ".h5"
ROUNDING = 1.0  # level-0 pixels: positions and sides are rounded to whole pixels
TIE = 0.25  # level-0 pixels: STAMP's microns are float32, so equal distances differ by a few hundredths
LEAST_SHARE = 0.5  # of a slide's patches with features, below which a warning names the file
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
log = logging.getLogger(__name__)
NEAREST = 4  # patches of a grid without overlap can be equally near to a position


@dataclass(frozen=True)
class Pairs:
    """Which features each patch takes.

    Attributes:
        patches: positions of patches, int64, shape (n,), rising. A patch that takes several features is there again.
        features: positions of features, int64, shape (n,).

    """

    patches: NDArray[np.int64]
    features: NDArray[np.int64]


def assign(
    corners: NDArray[np.float64],
    side: Level0Pixels,
    outside_corners: NDArray[np.float64],
    outside_side: Level0Pixels,
) -> Pairs:
    """Find the outside patches that show what each patch shows: the center of the smaller lies in the larger.

    Where outside patches are at least as large as ours, a patch takes the features of the outside patch whose center
    is nearest, if that patch includes the center of ours. Where they are smaller, an outside patch belongs to the
    patch whose center is nearest, if that patch includes its center; a patch takes the mean of all that belong to it.
    Distances are the larger one along x and y, with a pixel for rounding. Of several that are equally near, to a
    quarter of a pixel, the first from the top counts, then from the left.

    Args:
        corners: x and y of our patches, in level-0 pixels, float64, shape (patches, 2).
        side: of our patches.
        outside_corners: x and y of outside patches, in level-0 pixels, float64, shape (outside patches, 2); of
            several at one position, the first counts.
        outside_side: of outside patches.

    Returns:
        The pairs.

    """
    rounded = np.rint(outside_corners)[:, ::-1]  # rows first
    _, distinct = np.unique(rounded, axis=0, return_index=True)  # sorted from the top, then from the left
    ours, theirs = corners + side / 2, outside_corners[distinct] + outside_side / 2
    reach = max(side, outside_side) / 2 + ROUNDING
    if outside_side > side - ROUNDING:
        taken = _nearest(ours, theirs, reach)
        patches = np.flatnonzero(taken >= 0)
        return Pairs(patches, distinct[taken[patches]])
    order = np.lexsort(np.rint(corners).T)
    owner = _nearest(theirs, ours[order], reach)
    owned = np.flatnonzero(owner >= 0)
    patches, features = order[owner[owned]], distinct[owned]
    by_patch = np.argsort(patches, kind="stable")
    return Pairs(patches[by_patch], features[by_patch])


def _nearest(places: NDArray[np.float64], candidates: NDArray[np.float64], reach: float) -> NDArray[np.int64]:
    """Find the nearest candidate of each place, within reach; -1 where there is none. At a tie the first counts."""
    from scipy.spatial import cKDTree

    if not len(places) or not len(candidates):
        return np.full(len(places), -1, np.int64)
    count = min(NEAREST, len(candidates))
    tree = cKDTree(candidates)
    distances, positions = tree.query(places, k=range(1, count + 1), p=np.inf, distance_upper_bound=reach + 2 * TIE)
    near = distances[:, 0] <= reach
    tied = distances <= distances[:, :1] + TIE
    first = np.where(tied, positions, len(candidates)).min(axis=1)
    return np.where(near, first, -1).astype(np.int64)


@dataclass(frozen=True)
class Joined:
    """The features of some patches.

    Attributes:
        features: float32, shape (patches with features, features), in the order of the patches.
        matched: which patches have features, bool, shape (patches,).
        slides_without: number of slides that have no file.

    """

    features: NDArray[np.float32]
    matched: NDArray[np.bool_]
    slides_without: int


class Folder:
    """The user's files of features, one per slide."""

    def __init__(self, files: Sequence[Path], slides: pd.DataFrame, pixels: int):
        """Take the files.

        Args:
            files: of slides; see `files_of_slides`.
            slides: mpp (microns per level-0 pixel), width and height (level-0 pixels); the index is slide_id.
            pixels: side of our patches, in their own pixels.

        """
        self._slides, self._pixels = slides, pixels
        self.files = files_of_slides(files, slides.index)
        self._first: tuple[Path, int] | None = None  # a file, and how many features a patch has there

    def join(self, rows: pd.DataFrame) -> Joined:
        """Read the features of patches.

        Args:
            rows: slide_id, x and y (level-0 pixels) and mpp of each patch.

        Returns:
            The features.

        Raises:
            DataError: a file is damaged, or has another number of features than the others; the microns per pixel of
                a slide are missing.

        """
        matched = np.zeros(len(rows), np.bool_)
        features = np.empty((0, 0), np.float32)
        places = rows.reset_index(drop=True).groupby("slide_id", sort=False)
        few = list[str]()
        with_file = {str(slide_id): of_slide for slide_id, of_slide in places if slide_id in self.files}
        for slide_id, of_slide in bar(with_file.items(), "outside features", "slides"):
            content = self._read(slide_id)
            pairs = self._assign(slide_id, of_slide, content)
            if not features.size:
                features = np.empty((len(rows), content.features.shape[1]), np.float32)
            which, first, counts = np.unique(pairs.patches, return_index=True, return_counts=True)
            own = of_slide.index.to_numpy()[which]
            if len(own) < LEAST_SHARE * len(of_slide):
                few.append(f"{self.files[slide_id].name} ({len(own):,} of {len(of_slide):,})")
            matched[own] = True
            features[own] = content.features[pairs.features[first]]
            several = counts > 1
            if several.any():
                sums = np.add.reduceat(content.features[pairs.features].astype(np.float64), first)
                features[own[several]] = (sums / counts[:, None])[several]
        if few:
            log.warning(
                "%s: %d files have features of less than half of the patches: %s; are they of another level?",
                KEY,
                len(few),
                shortened(few),
            )
        kept = features if matched.all() or not features.size else features[matched]
        return Joined(kept, matched, places.ngroups - len(with_file))

    def _read(self, slide_id: str) -> outside.OutsideFeatures:
        path = self.files[slide_id]
        content = outside.read(path)
        count = content.features.shape[1]
        if self._first is None:
            self._first = path, count
        if count != self._first[1]:
            raise DataError(
                f"{path}: has {count} features per patch, and {self._first[0]} has {self._first[1]}; name a folder "
                "with the features of one encoder"
            )
        return content

    def _assign(self, slide_id: str, rows: pd.DataFrame, content: outside.OutsideFeatures) -> Pairs:
        mpp, width, height = (float(self._slides.loc[slide_id, name]) for name in ("mpp", "width", "height"))
        if not mpp > 0:  # NaN too
            raise DataError(
                f"{self.files[slide_id]}: the microns per pixel of slide {slide_id} are unknown, so its patches have "
                "no place among these; run dvc repro patches"
            )
        side = Level0Pixels(self._pixels * float(rows["mpp"].iloc[0]) / mpp)
        scale = 1 / mpp if content.unit == outside.MICRONS else 1.0
        corners, stated = content.corners * scale, content.side
        # a single patch without a side says nothing about it
        outside_side = outside.step(corners) or side if stated is None else stated * scale
        beyond = (corners < -outside_side).any(axis=1) | (corners > np.array([width, height]) + outside_side).any(
            axis=1
        )
        if beyond.any():
            row = int(np.flatnonzero(beyond)[0])
            x, y = corners[row]
            raise DataError(
                f"{self.files[slide_id]}: row {row + 1}: x {x:g}, y {y:g} lies outside slide {slide_id}, which has "
                f"{width:g} x {height:g} pixels; is it of another slide, or of another level?"
            )
        return assign(rows[["x", "y"]].to_numpy(np.float64), side, corners, Level0Pixels(outside_side))


def files_of_slides(files: Iterable[Path], slide_ids: Iterable[str]) -> dict[str, Path]:
    """Find the file of each slide by its name: the slide_id or its safe form, or else with a dot and a UUID.

    Slides of the GDC have a UUID: TCGA-XX-0000-01A-01-TS1.<UUID>.svs becomes TCGA-XX-0000-01A-01-TS1.<UUID>.h5.

    Args:
        files: to choose from.
        slide_ids: of the slides.

    Returns:
        The files by slide_id; slides without a file are not there.

    Raises:
        DataError: two files are of the same slide.

    """
    slide_of = {shard_name(slide_id): slide_id for slide_id in slide_ids}
    slide_of |= {slide_id: slide_id for slide_id in slide_of.values()}
    slide_of = {unicodedata.normalize("NFC", name): slide_id for name, slide_id in slide_of.items()}
    exact, with_uuid = dict[str, Path](), dict[str, Path]()
    for path in files:
        name = unicodedata.normalize("NFC", path.name.removesuffix(SUFFIX))
        start, _, end = name.rpartition(".")
        if name in slide_of:
            found, slide_id = exact, slide_of[name]
        elif start in slide_of and UUID.fullmatch(end):
            found, slide_id = with_uuid, slide_of[start]
        else:
            continue
        if slide_id in found:
            raise DataError(
                f"{found[slide_id]} and {path}: both are of slide {slide_id}; {KEY} takes a folder with one file of "
                "each slide"
            )
        found[slide_id] = path
    return with_uuid | exact


def list_files(folder: Path) -> list[Path]:
    """List the files of features in a folder and the folders in it.

    Args:
        folder: of the user.

    Returns:
        The files, sorted.

    Raises:
        DataError: there is no such folder, or it has no such file.

    """
    if not folder.is_dir():
        raise DataError(f"{KEY}: {folder}: no such folder; name the folder with the {SUFFIX} files, or set null")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() == SUFFIX)
    for path in files:
        if path.suffix != SUFFIX or not path.is_file():
            problem = "is no file" if path.suffix == SUFFIX else f"has another suffix than {SUFFIX}"
            raise DataError(f"{path}: {problem}; rename or remove it")
        if (name := unreadable(path.name)) is not None:
            raise DataError(f"{folder}: has a file whose name is not UTF-8: {name}; rename it")
    if not files:
        raise DataError(f"{KEY}: {folder}: has no {SUFFIX} file; name the folder with these files, or set null")
    return files


def open_folder(folder: Path, listed: Path, hashes: Hashes, counts: Path, pixels: int) -> Folder:
    """Find the user's files of features, as the inventory lists them.

    Args:
        folder: of the user.
        listed: the inventory of the folder.
        hashes: remembered hashes of files.
        counts: table of slides with their microns per pixel (reports/patching/counts.csv).
        pixels: side of our patches, in their own pixels.

    Returns:
        The files.

    Raises:
        DataError: a file changed after the inventory, or is not there.

    """
    table = read_table(listed, ("file", "sha256"), needed=("file", "bytes", "sha256"))
    if table.empty:
        raise DataError(f"{listed}: lists no file of {folder}; run dvc repro, which lists them")
    slides = read_table(counts, ("slide_id",), ",", needed=("slide_id",), numbers=("mpp", "width", "height"))
    files = [folder / name for name in table["file"]]
    found = Folder(files, slides.drop_duplicates("slide_id").set_index("slide_id"), pixels)
    recorded = dict(zip(files, table["sha256"], strict=True))
    for path in found.files.values():
        if not path.is_file() or hashes.of(path)[1] != recorded[path]:
            raise DataError(f"{path}: changed since this repro began; run dvc repro again")
    return found
