"""The size of a cohort: from outputs of stages where they exist, else from params.yaml, options and assumptions."""

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histocae import paths
from histocae.errors import DataError
from histocae.files import SEPARATOR, read_json
from histocae.identifiers import SOLID_TISSUE_NORMAL
from histocae.params import Params
from histocae.sources.demo_cases import count_slides
from histocae.table_faults import check_end

PARTS = ("train", "validation", "test")
REMEDY = "run dvc repro"
DEMO_NORMAL = 0.5  # share of the slides


@dataclass(frozen=True)
class CohortSize:
    """The size of a cohort.

    Attributes:
        source: data.source; gdc where options replace the demo's slides.
        slides: number of slides.
        slide_bytes: bytes of all slides.
        patches: number of patches of all slides.
        parts: patches of train, validation and test, by tissue: all, tumor, normal.
        origins: where the numbers of slides, bytes and patches come from, in words.

    """

    source: str
    slides: int
    slide_bytes: float
    patches: int
    parts: dict[str, dict[str, int]]
    origins: dict[str, str]


def measure(params: Params, chosen: dict[str, float], assumed: dict[str, float]) -> CohortSize:
    """Determine the size of the cohort that params.yaml names.

    Args:
        params: of the pipeline.
        chosen: numbers that replace those of the cohort: any of slides, patches_per_slide, slide_mb.
        assumed: the same numbers, normal_share and demo_tissue, for what is unknown.

    Returns:
        The size.

    Raises:
        DataError: the number of slides is unknown, or an output of a stage is damaged.

    """
    origins: dict[str, str] = {}
    listed = list(_rows(paths.METADATA)) if "slides" not in chosen else []
    source = "gdc" if "slides" in chosen and params.data.source == "demo" else params.data.source
    slides = _slides(params, chosen, listed, origins)
    patches = _patches(params, source, chosen, slides, assumed, origins)
    return CohortSize(
        source,
        slides,
        _bytes(source, chosen, slides, listed, assumed, origins),
        patches,
        _parts(params, source, chosen, patches, listed, assumed),
        origins,
    )


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """Read a table of a stage row by row; no rows where it is not there."""
    if path.is_file():
        try:
            check_end(path)
            with open(path, encoding="utf-8", newline="") as handle:
                rows = csv.DictReader(handle, delimiter=SEPARATOR)
                for row in rows:
                    if None in row or None in row.values():
                        raise ValueError(f"row {rows.line_num} has too few or too many cells")
                    yield row
        except (csv.Error, ValueError) as error:
            raise DataError(f"{path}: can't be read: {error}; {REMEDY}") from None


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a stage; empty where it is not there."""
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds no keys with values; {REMEDY}")
    return content


def _slides(params: Params, chosen: dict[str, float], listed: list[dict[str, str]], origins: dict[str, str]) -> int:
    if "slides" in chosen:
        origins["slides"] = "--slides"
        return int(chosen["slides"])
    if listed:
        origins["slides"] = str(paths.METADATA)
        return len(listed)
    data = params.data
    if data.source == "demo":
        origins["slides"] = "data.demo.cases"
        return count_slides(data.demo.cases)
    if data.source == "gdc" and data.gdc.slides is not None:
        origins["slides"] = "data.gdc.slides"
        return len(data.gdc.slides)
    if data.source == "gdc" and data.gdc.per_class is not None:
        origins["slides"] = "data.gdc.per_class, at most"
        return data.gdc.per_class * len(data.gdc.sample_types)
    raise DataError(
        f"{paths.METADATA}: not there yet, so the number of slides is unknown; run dvc repro metadata or set --slides"
    )


def _patches(
    params: Params,
    source: str,
    chosen: dict[str, float],
    slides: int,
    assumed: dict[str, float],
    origins: dict[str, str],
) -> int:
    most = params.patches.max_per_slide
    if "patches_per_slide" in chosen:
        origins["patches"] = "--patches-per-slide"
        return round(slides * chosen["patches_per_slide"])
    store = _json(paths.PATCHES / "store.json")
    if "slides" not in chosen and isinstance(store.get("patches"), int):
        origins["patches"] = str(paths.PATCHES)
        return int(store["patches"])
    reduced = source == "tiles" and params.patches.tiles == "reduce" and "slides" not in chosen
    if reduced and (tiles := Counter(row["slide_id"] for row in _rows(paths.SLIDES))):
        origins["patches"] = str(paths.SLIDES)
        return sum(count if most is None else min(count, most) for count in tiles.values())
    if source == "demo":
        origins["patches"] = "data.demo.side_microns"
        each = (params.data.demo.side_microns // (params.patches.pixels * params.patches.mpp)) ** 2
        each = round(each * assumed["demo_tissue"])
    else:
        origins["patches"] = "assumed patches_per_slide"
        each = assumed["patches_per_slide"]
    return round(slides * (min(each, most) if most is not None else each))


def _bytes(
    source: str,
    chosen: dict[str, float],
    slides: int,
    listed: list[dict[str, str]],
    assumed: dict[str, float],
    origins: dict[str, str],
) -> float:
    if "slide_mb" in chosen:
        origins["bytes"] = "--slide-mb"
        return slides * chosen["slide_mb"] * 1e6
    if "slides" not in chosen:
        path, sizes = paths.SLIDES, [row.get("bytes", "") for row in _rows(paths.SLIDES)]
        if not sizes:
            path, sizes = paths.METADATA, [row.get("size", "") for row in listed]
        if sizes and all(sizes):
            origins["bytes"] = str(path)
            try:
                return sum(float(size) for size in sizes)
            except ValueError as error:
                raise DataError(f"{path}: can't be read: {error}; {REMEDY}") from None
    if source == "demo":
        origins["bytes"] = "not drawn yet"
        return 0.0  # the cost model computes them from the area
    origins["bytes"] = "assumed slide_mb"
    return slides * assumed["slide_mb"] * 1e6


def _parts(
    params: Params,
    source: str,
    chosen: dict[str, float],
    patches: int,
    listed: list[dict[str, str]],
    assumed: dict[str, float],
) -> dict[str, dict[str, int]]:
    """Divide the patches as the stage split did, or approximately will."""
    counted = _counted() if not {"slides", "patches_per_slide"} & set(chosen) else {}
    if counted and sum(part["all"] for part in counted.values()) == patches:  # else it is of a former store
        return counted
    types = Counter(row.get("sample_type") for row in listed)
    normal = DEMO_NORMAL if source == "demo" else assumed["normal_share"]
    if types:
        normal = types[SOLID_TISSUE_NORMAL] / types.total()
    shares = {"validation": params.split.validation, "test": params.split.test}
    shares = {"train": 1 - sum(shares.values()), **shares}
    return {
        part: {
            "all": round(patches * share),
            "tumor": round(patches * share * (1 - normal)),
            "normal": round(patches * share * normal),
        }
        for part, share in shares.items()
    }


def _counted() -> dict[str, dict[str, int]]:
    """Read the counts of the stage split; empty where it did not run yet."""
    report = _json(paths.SPLIT_REPORT)
    counted: dict[str, dict[str, int]] = {}
    try:
        for part in PARTS if report else ():
            whole = report[part]["patches"]
            normal = report[part]["sample_types"].get(SOLID_TISSUE_NORMAL, {}).get("patches", 0)
            counted[part] = {"all": whole, "tumor": whole - normal, "normal": normal}
    except (KeyError, TypeError) as error:
        raise DataError(f"{paths.SPLIT_REPORT}: not as the stage split writes it ({error}); {REMEDY}") from None
    return counted
