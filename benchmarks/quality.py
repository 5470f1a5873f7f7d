"""How many patches with drawn faults are flagged, and how many clean ones, on the demo and on real images.

    python benchmarks/quality.py DATA

DATA has the folders of `SOURCES`; one that is absent is left out. Prints tables as Markdown. With all of them, it
writes the tables into docs/quality.md.
"""

import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import patching
import slides
from harness import in_turn

from histocae.files import write_text
from histocae.patches import quality
from histocae.patches.tiles import read_tile, reduce_tile
from histocae.patches.tissue import cell_shares
from histocae.slides.area_means import reduce_image
from histocae.sources import demo, demo_faults

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support import faulty_images

DOCUMENT = Path(__file__).parents[1] / "docs" / "quality.md"
DEMO = demo.DemoSpec(seed=5, cases=240, side_microns=512.0, faults=True)  # another seed than that of the tests
CROPS, EBHI, LUNG = "tcga_paad_crops", "ebhi_colorectal", "lc25000_lung_tiles"
# columns of the tables, and what each needs in DATA
SOURCES = {
    "demo": "",
    "PAAD": CROPS,
    "PAAD, halved": CROPS,
    "CMU-1": faulty_images.REAL_SLIDE,
    "EBHI": EBHI,
    "lung": LUNG,
}
TILES_MPP = 0.5  # no file says that of tiles: histocae takes it to be this
DRAWINGS = {"CMU-1": 4}  # of each fault on each image; else 1
EVERY = {EBHI: 4, LUNG: 8}  # of so many tiles one gets faults
HALF, OPAQUE = " at half opacity", "opaque black"
KINDS = (*demo_faults.INKS, OPAQUE, *(ink + HALF for ink in faulty_images.EDITED), "blur", "fold", "debris", "pale")
# Other stains and scanners: clean images whose stain is denser, or whose light is dimmer
GLASS = quality.GLASS
OTHERS = {
    "stain 1.15 times as dense": lambda light: GLASS * (np.maximum(light, 1) / GLASS) ** 1.15,
    "stain 1.3 times as dense": lambda light: GLASS * (np.maximum(light, 1) / GLASS) ** 1.3,
    "0.85 of the light": lambda light: 0.85 * light,
}
TISSUE = 0.5  # of a cell is tissue, at least, in a patch
COVERED = 0.5  # of a patch is under its fault, at least
SPECKS = 0.25  # likewise of debris, which has gaps
BLUR_MEASURES = {"sharpness": "sharpness", "laplacian": "variance of the Laplacian"}
FALSE_FLAGS = 0.01  # of clean patches, at which measures of blur are compared
SIDE, ROUNDS = 4096, 5  # of the slide that extraction is timed on, in pixels


def fault_of(kind: str) -> str:
    """Name the fault of a kind: pen for each ink."""
    return kind if kind in demo_faults.FAULTS else "pen"


def measured(patches: np.ndarray, mpp: float | None) -> pd.DataFrame:
    """Measure patches: a row for each."""
    gray = patches @ np.array([0.299, 0.587, 0.114], np.float32)
    inner = gray[:, 1:-1, 1:-1]
    around = gray[:, :-2, 1:-1] + gray[:, 2:, 1:-1] + gray[:, 1:-1, :-2] + gray[:, 1:-1, 2:]
    return pd.DataFrame({**quality.measure(patches, mpp), "laplacian": (around - 4 * inner).var(axis=(1, 2))})


def flagged(patches: pd.DataFrame, rest: pd.DataFrame | None = None, alone: bool = False) -> pd.DataFrame:
    """Add the flags of patches, which with `rest` are a slide, or each alone is one."""
    slide = patches if rest is None else pd.concat([patches, rest])
    slides = np.arange(len(slide)) if alone else None
    return patches.assign(
        **{fault: flags[: len(patches)] for fault, flags in quality.flag(slide, slides=slides).items()}
    )


def of_demo() -> Iterator[pd.DataFrame]:
    """Yield the patches of each slide of the demo that has faults, extracted as the stage does."""
    with tempfile.TemporaryDirectory() as folder:
        for slide in demo.cohort(DEMO).itertuples():
            slide_id = slide.slide_id
            kinds = demo.fault_kinds(DEMO, slide_id)
            if not kinds or kinds == ("glass",):
                continue
            (kind,) = kinds
            path = demo.write_slide(DEMO, slide_id, Path(folder))
            shape, cells, pixels = faulty_images.patches_of(path, slide.mpp)
            path.unlink()
            kept = np.zeros(shape, bool)
            kept[cells] = True
            order = np.lexsort(cells[::-1])  # row by row, as numpy selects by a mask
            cover = cell_shares(demo.faults_of(DEMO, slide_id)[fault_of(kind)], *shape)
            tissue = cell_shares(demo.layout(DEMO, slide_id, slide.sample_type)[0], *shape)
            found = placed(flagged(measured(pixels[order], faulty_images.MPP)), kept, cover, tissue)
            yield found.assign(kind=np.where(found["cover"] > 0, kind, "clean"))


def placed(patches: pd.DataFrame, kept: np.ndarray, cover: np.ndarray, tissue: np.ndarray) -> pd.DataFrame:
    """Return a row for each cell of a grid: the patches, and missing values where the cell is kept as none.

    Args:
        patches: flagged, row by row.
        kept: bool, shape (rows, columns): the cells of the patches.
        cover: share of each cell under a fault.
        tissue: share of each cell that is tissue where no fault is.

    """
    cells = patches.set_axis(np.flatnonzero(kept)).reindex(np.arange(kept.size))
    return cells.assign(cover=cover.ravel(), tissue=tissue.ravel())


def change(
    rng: np.random.Generator, kind: str, image: np.ndarray, mpp: float, width: float = 0.6
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a fault onto an image and compress it as JPEG: the image, and how far each pixel is under the fault."""
    ink = kind.removesuffix(HALF)
    opaque = kind == OPAQUE
    fault = faulty_images.draw(rng, "black" if opaque else ink, image.shape, mpp, opaque, width)
    if ink == kind:
        image = faulty_images.apply(image, fault, mpp)
    else:
        image = faulty_images.lay(image, fault.cover, faulty_images.EDITED[ink], 0.5)
    return faulty_images.recompressed(image, int(rng.integers(40, 95))), fault.cover


def changed_light(patches: np.ndarray, other: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return patches as another stain or scanner might have made them."""
    return other(patches.astype(np.float32)).clip(0, 255).astype(np.uint8)


def of_image(rng: np.random.Generator, image: np.ndarray, mpp: float, drawings: int) -> Iterator[pd.DataFrame]:
    """Yield the cells of an image of a slide: unchanged, and with each fault, which is a small part of the slide."""
    before = faulty_images.shares(image)
    clean = measured(faulty_images.cells(image)[before >= TISSUE], mpp)
    yield placed(flagged(clean), before >= TISSUE, np.zeros(before.shape), before).assign(kind="clean")
    for kind, other in OTHERS.items():
        yield flagged(measured(changed_light(faulty_images.cells(image)[before >= TISSUE], other), mpp)).assign(
            kind=kind
        )
    for kind in KINDS * drawings:
        changed, cover = change(rng, kind, image, mpp)
        kept = faulty_images.shares(changed) >= TISSUE
        patches = flagged(measured(faulty_images.cells(changed)[kept], mpp), clean)
        covers = (faulty_images.cells(cover) > 0.5).mean(axis=(2, 3))
        yield placed(patches, kept, covers, before).assign(kind=kind)


def of_tiles(rng: np.random.Generator, folder: Path, every: int) -> Iterator[pd.DataFrame]:
    """Yield the patches of tiles, each reduced to one patch: unchanged, and some of them with each fault."""
    files = sorted(folder.rglob("*.jp*g"))
    tiles = [reduce_tile(read_tile(path), path.name, faulty_images.PIXELS) for path in files]
    patches = np.concatenate([tile.patches for tile in tiles])
    yield flagged(measured(patches, None), alone=True).assign(kind="clean", cover=0.0, tissue=1.0, fold=np.nan)
    for kind, other in OTHERS.items():
        yield flagged(measured(changed_light(patches, other), None), alone=True).assign(kind=kind)
    for kind in KINDS:
        if kind == "fold":  # the tiles are of many slides, of which none has the 10 patches that folds need
            continue
        changed, covers = zip(*(change(rng, kind, patch, TILES_MPP, 1.2) for patch in patches[::every]), strict=True)
        cover = (np.stack(covers) > 0.5).mean(axis=(1, 2))
        yield flagged(measured(np.stack(changed), None), alone=True).assign(kind=kind, cover=cover, tissue=1.0)


def of_source(name: str, data: Path) -> Iterator[pd.DataFrame]:
    """Yield the measured patches of a source."""
    rng = np.random.default_rng([5, list(SOURCES).index(name)])
    if name == "demo":
        yield from of_demo()
    elif name == "CMU-1":
        yield from of_image(rng, faulty_images.real_slide(data), 0.5, DRAWINGS[name])
    elif SOURCES[name] == CROPS:
        for _, image in faulty_images.real_crops(data):
            halved = reduce_image(image, image.shape[1] // 2, image.shape[0] // 2)
            yield from of_image(rng, *((image, 0.25) if name == "PAAD" else (halved, 0.5)), DRAWINGS.get(name, 1))
    else:
        yield from of_tiles(rng, data / SOURCES[name], EVERY[SOURCES[name]])


def covered(found: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Select the cells that are under a fault."""
    return found[(found["kind"] == kind) & (found["cover"] >= (SPECKS if kind == "debris" else COVERED))]


def table(title: str, rows: dict[str, dict[str, str]], names: list[str]) -> str:
    """Format a table: a row for each measure, a column for each source."""
    lines = [f"| {title} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {row} | {' | '.join(cells.get(name, '–') for name in names)} |" for row, cells in rows.items()]
    return "\n".join(lines)


def count(cells: pd.DataFrame, fault: str) -> dict[str, str]:
    """Format, for each source, the share of patches with a flag, their number, and that of cells kept as no patch."""
    found = {}
    for name, group in cells.groupby("source"):
        flags = group[fault].dropna().astype(float)
        none = f" + {len(group) - len(flags)}" if len(flags) < len(group) else ""
        found[name] = f"{flags.mean():.3f} ({len(flags)}{none})" if len(flags) else f"– (0{none})"
    return found


def count_flags(found: pd.DataFrame) -> Iterator[str]:
    """Yield tables of the flags of covered tissue, of covered glass and of clean tissue."""
    names = list(dict.fromkeys(found["source"]))
    tissue, glass = found[found["tissue"] >= TISSUE], found[found["tissue"] == 0]
    yield table("found on tissue", {kind: count(covered(tissue, kind), fault_of(kind)) for kind in KINDS}, names)
    yield table("found on glass", {ink: count(covered(glass, ink), "pen") for ink in demo_faults.INKS}, names)
    clean = found[(found["kind"] == "clean") & found["sharpness"].notna()]
    rows = {fault: count(clean.dropna(subset=fault), fault) for fault in quality.FAULTS}
    yield table("clean patches flagged", rows, names)
    yield table(
        "clean patches flagged as ink", {kind: count(found[found["kind"] == kind], "pen") for kind in OTHERS}, names
    )


def compare_blur(found: pd.DataFrame) -> str:
    """Format a table of how much blur each measure finds, at equal shares of clean patches below its threshold."""
    names = list(dict.fromkeys(found["source"]))
    patches = found[found["sharpness"].notna()]
    clean, blurred = patches[patches["kind"] == "clean"], covered(patches, "blur")
    each = 1 / clean.groupby("source")["source"].transform("count")  # each source counts alike
    rows: dict[str, dict[str, str]] = {}
    for measure, words in BLUR_MEASURES.items():
        limit = np.quantile(clean[measure], FALSE_FLAGS, weights=each, method="inverted_cdf")
        own = clean.groupby("source")[measure].quantile(FALSE_FLAGS)
        for one, limits in ("one threshold", dict.fromkeys(names, limit)), ("own thresholds", own):
            below = {name: (blurred[blurred["source"] == name][measure] < limits[name]).mean() for name in names}
            rows[f"{words}, {one}"] = {name: f"{share:.3f}" for name, share in below.items()}
    return table(f"blur found at {FALSE_FLAGS:.0%}", rows, names)


def time_measuring() -> str:
    """Time extraction of a slide's patches, which includes measuring them, and measuring alone; processor time."""
    with tempfile.TemporaryDirectory() as folder:
        path = slides.generic(Path(folder) / "slide.tif", slides.repeat_tissue(SIDE, SIDE))
        _, _, pixels = faulty_images.patches_of(path, slides.MPP)

        def extracting() -> float:
            with tempfile.TemporaryDirectory(dir=folder) as out:
                start = time.process_time()
                patching.extract_patches(path, Path(out), 1)
                return time.process_time() - start

        def measuring() -> float:
            start = time.process_time()
            quality.measure(pixels, slides.MPP)
            return time.process_time() - start

        medians = in_turn({"extraction": extracting, "measures": measuring}, ROUNDS, len(pixels), "patches")
    share = medians["measures"] / medians["extraction"]
    return f"Measuring takes {share:.1%} of the processor time of extracting a slide's patches."


def main(data: Path) -> None:
    """Measure and print."""
    parts = []
    for name, needed in SOURCES.items():
        if not (data / needed).exists():
            print(f"left out: {name}, for which {needed} is not in {data.name}/")
            continue
        start = time.perf_counter()
        parts += [part.assign(source=name) for part in of_source(name, data)]
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    found = pd.concat(parts, ignore_index=True)
    text = "\n\n".join([*count_flags(found), compare_blur(found), time_measuring()])
    print(f"\n{text}")
    if found["source"].nunique() == len(SOURCES):
        between = re.compile(r"(?<=<!-- measured -->\n\n).*?(?=\n\n<!-- end of measured -->)", re.DOTALL)
        write_text(between.sub(lambda _: text, DOCUMENT.read_text(encoding="utf-8")), DOCUMENT)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
