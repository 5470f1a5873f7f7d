"""How large a cohort is, from what stages have written, else from params.yaml, options and assumptions."""

import csv
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from histocae import paths
from histocae.errors import DataError
from histocae.files import SEPARATOR
from histocae.identifiers import SOLID_TISSUE_NORMAL
from histocae.params import Params

PARTS = ("train", "validation", "test")
REMEDY = "run dvc repro"
DEMO_SITES = 4
DEMO_NORMAL = 0.5  # share of the slides


@dataclass(frozen=True)
class Known:
    """What a plan is about.

    Attributes:
        source: data.source; slides that a user asks for in place of the demo's are planned as fetched ones.
        slides: how many.
        slide_bytes: of all of them.
        patches: of all of them.
        parts: patches of train, validation and test, by tissue: all, tumor, normal.
        origins: where slides, bytes and patches are known from, to be told.

    """

    source: str
    slides: int
    slide_bytes: float
    patches: int
    parts: dict[str, dict[str, int]]
    origins: dict[str, str]


def known(params: Params, given: dict[str, float], assumed: dict[str, float]) -> Known:
    """Find out how large the cohort is that params.yaml names.

    Args:
        params: of the pipeline.
        given: what the user wants planned instead: slides, patches_per_slide, slide_mb, where they are given.
        assumed: the same and normal_share, demo_tissue, where nothing is known.

    Raises:
        DataError: nothing tells the number of slides, or an output of a stage is damaged.

    """
    origins: dict[str, str] = {}
    listed = list(_rows(paths.METADATA)) if "slides" not in given else []
    source = "gdc" if "slides" in given and params.data.source == "demo" else params.data.source
    slides = _slides(params, given, listed, origins)
    patches = _patches(params, source, given, slides, assumed, origins)
    return Known(
        source,
        slides,
        _bytes(source, given, slides, listed, assumed, origins),
        patches,
        _parts(params, source, given, patches, listed, assumed),
        origins,
    )


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """Read a table of ours if it is there, a row at a time."""
    if path.is_file():
        try:
            with open(path, encoding="utf-8", newline="") as handle:
                yield from csv.DictReader(handle, delimiter=SEPARATOR)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}: can't be read: {error}; {REMEDY}") from None


def _json(path: Path) -> dict:
    """Read a JSON file of ours; empty where it is not there."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(f"{path}: can't be read: {error}; {REMEDY}") from None
    if not isinstance(told, dict):
        raise DataError(f"{path}: holds no keys with values; {REMEDY}")
    return told


def _slides(params: Params, given: dict[str, float], listed: list[dict], origins: dict[str, str]) -> int:
    if "slides" in given:
        origins["slides"] = "--slides"
        return int(given["slides"])
    if listed:
        origins["slides"] = str(paths.METADATA)
        return len(listed)
    data = params.data
    if data.source == "demo":
        origins["slides"] = "data.demo.cases"
        return demo_slides(data.demo.cases)
    if data.source == "gdc" and (data.gdc.slides is not None or data.gdc.per_class is not None):
        chosen = data.gdc.slides is not None
        origins["slides"] = "data.gdc.slides" if chosen else "data.gdc.per_class, at most"
        return len(data.gdc.slides) if chosen else data.gdc.per_class * len(data.gdc.sample_types)
    raise DataError(
        f"{paths.METADATA}: not there yet, so that nobody knows how many slides there are; run dvc repro metadata "
        "or give --slides"
    )


def demo_slides(cases: int) -> int:
    """Count the slides of the demo: one of each tissue of a case, and a second of each tissue and site."""
    # tumor, normal and both in turn, at a site each three
    again = {(case // 3 % DEMO_SITES, kind) for case in range(cases) for kind in ((0,), (1,), (0, 1))[case % 3]}
    return cases + cases // 3 + len(again)


def _patches(
    params: Params,
    source: str,
    given: dict[str, float],
    slides: int,
    assumed: dict[str, float],
    origins: dict[str, str],
) -> int:
    most = params.patches.max_per_slide
    if "patches_per_slide" in given:
        origins["patches"] = "--patches-per-slide"
        return round(slides * given["patches_per_slide"])
    store = _json(paths.PATCHES / "store.json")
    if "slides" not in given and isinstance(store.get("patches"), int):
        origins["patches"] = str(paths.PATCHES)
        return store["patches"]
    reduced = source == "tiles" and params.patches.tiles == "reduce" and "slides" not in given
    if reduced and (tiles := sum(1 for _ in _rows(paths.SLIDES))):
        origins["patches"] = str(paths.SLIDES)
        return tiles
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
    given: dict[str, float],
    slides: int,
    listed: list[dict],
    assumed: dict[str, float],
    origins: dict[str, str],
) -> float:
    if "slide_mb" in given:
        origins["bytes"] = "--slide-mb"
        return slides * given["slide_mb"] * 1e6
    if "slides" not in given:
        found = [row.get("bytes") for row in _rows(paths.SLIDES)]
        path, named = (paths.SLIDES, found) if found else (paths.METADATA, [row.get("size") for row in listed])
        if named and all(named):
            origins["bytes"] = str(path)
            try:
                return sum(map(float, named))
            except ValueError as error:
                raise DataError(f"{path}: can't be read: {error}; {REMEDY}") from None
    if source == "demo":
        origins["bytes"] = "not drawn yet"
        return 0.0  # the model has them by area
    origins["bytes"] = "assumed slide_mb"
    return slides * assumed["slide_mb"] * 1e6


def _parts(
    params: Params, source: str, given: dict[str, float], patches: int, listed: list[dict], assumed: dict[str, float]
) -> dict[str, dict[str, int]]:
    """Divide the patches as the stage split did, or will about do."""
    counted = _counted() if not {"slides", "patches_per_slide"} & set(given) else {}
    if counted and sum(one["all"] for one in counted.values()) == patches:  # else it is of a former store
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
    """Read what the stage split counted; empty where it did not run yet."""
    told, counted = _json(paths.SPLIT_REPORT), {}
    try:
        for part in PARTS if told else ():
            whole = told[part]["patches"]
            normal = told[part]["sample_types"].get(SOLID_TISSUE_NORMAL, {}).get("patches", 0)
            counted[part] = {"all": whole, "tumor": whole - normal, "normal": normal}
    except (KeyError, TypeError) as error:
        raise DataError(f"{paths.SPLIT_REPORT}: is not what it should be ({error}); {REMEDY}") from None
    return counted
