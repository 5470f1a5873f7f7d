"""Small data for the tests: slides, tiles, tables, and a patch store of the current version.

`python tests/support/make_data.py` writes the committed files under tests/data again.
"""

import csv
import hashlib
import io
import json
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import pyvips
import tifffile
from PIL import Image

from histocae import checksums
from histocae.networks import saved
from histocae.patches.store import MEASURES
from histocae.sources import demo_faults

DATA = Path(__file__).parents[1] / "data"
GLASS = 243
TUMOR, NORMAL = "Primary Tumor", "Solid Tissue Normal"
# TIFF tags
NEXT, WIDTH, RESOLUTION_UNIT, TILE_OFFSETS, TILE_BYTES = "next", 256, 296, 324, 325


def tissue(seed: int, height: int, width: int, glass: int = 0) -> np.ndarray:
    """Draw stained, grainy tissue, uint8 RGB; the first `glass` columns are empty glass."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 15, (height // 16 + 1, width // 16 + 1, 3)).repeat(16, 0).repeat(16, 1)
    grain = rng.normal(0, 20, (height, width, 3))
    image = np.array([190, 110, 160]) + coarse[:height, :width] * [0.6, 1, 0.6] + grain
    image[:, :glass] = GLASS
    return image.clip(0, 255).astype(np.uint8)


def inked(image: np.ndarray, columns: slice, kind: str = "blue") -> np.ndarray:
    """Draw even ink of a pen over columns of an image, uint8 RGB."""
    light = np.ones(image.shape, np.float64)
    light[:, columns] = np.exp(-np.array(demo_faults.INKS[kind]))
    return (image * light).astype(np.uint8)


def write_slide(
    path: Path,
    image: np.ndarray,
    mpp: float | None = None,
    *,
    pyramid: bool = False,
    keep_levels: Sequence[int] | None = None,
    description: str | None = None,
    lossless: bool = False,
    tile: int = 128,
) -> Path:
    """Write a tiled TIFF that OpenSlide opens.

    Args:
        path: the slide's file.
        image: pixels of its finest level.
        mpp: microns per pixel in its header; None leaves the resolution without a unit.
        pyramid: add levels, each half the level before, down to a single tile.
        keep_levels: numbers of the levels to keep (0 is the finest); other levels are unlinked.
        description: the header's text; if it starts with "Aperio", the slide is an SVS.
        lossless: compress by deflate instead of JPEG.
        tile: side of a compressed tile.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    slide = pyvips.Image.new_from_array(np.ascontiguousarray(image))
    per_mm = 1000 / (mpp or 1)
    slide = slide.copy(xres=per_mm, yres=per_mm)
    if description is not None:
        slide.set_type(pyvips.GValue.gstr_type, "image-description", description)
    encoding = {"compression": "deflate"} if lossless else {"compression": "jpeg", "Q": 90}
    slide.tiffsave(str(path), tile=True, tile_width=tile, tile_height=tile, pyramid=pyramid, resunit="cm", **encoding)
    if mpp is None:
        _without_unit(path)
    if keep_levels is not None:
        _unlink_levels(path, keep_levels)
    return path


def write_aperio(path: Path, image: np.ndarray, kind: str, tile: int = 64) -> Path:
    """Write an SVS with level 0 and a level that is four times coarser.

    Args:
        path: the slide's file.
        image: pixels of its finest level.
        kind: encoding of its tiles. JPEG: 4:4:4, 4:2:2, 4:2:0, RGB, or restarts (4:4:4 with restart markers).
            JPEG 2000, by TIFF's number: 33003 (YCbCr) or 33005 (RGB).
        tile: side of a compressed tile.

    """
    jpeg = {
        "4:4:4": {"subsampling": (1, 1)},
        "4:2:2": {"subsampling": (2, 1)},
        "4:2:0": {"subsampling": (2, 2)},
        "RGB": {"compressionargs": {"outcolorspace": "RGB"}},
    }
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate((image, np.asarray(Image.fromarray(image).reduce(4)))):
            options = {"compression": "jpeg", **jpeg.get(kind, {})}
            if kind not in jpeg:
                compression = 7 if kind == "restarts" else int(kind)
                options = {"compression": compression, "shape": level.shape, "dtype": np.uint8}
                level = _encoded(level, tile, kind)
            tiff.write(
                level,
                tile=(tile, tile),
                metadata=None,
                subfiletype=int(number > 0),
                photometric="ycbcr" if kind == "restarts" else "rgb",
                description="Aperio Image Library\n|AppMag = 20|MPP = 0.5",
                **{"subsampling": (1, 1), **options},
            )
    return path


def _encoded(image: np.ndarray, side: int, kind: str) -> Iterable[bytes]:
    height, width, _ = image.shape
    padded = np.pad(image, ((0, -height % side), (0, -width % side), (0, 0)))
    for y in range(0, height, side):
        for x in range(0, width, side):
            tile = Image.fromarray(padded[y : y + side, x : x + side])
            if kind == "restarts":
                tile.save(data := io.BytesIO(), "JPEG", subsampling="4:4:4", restart_marker_blocks=2)
                yield data.getvalue()
            else:
                tile = np.asarray(tile.convert("YCbCr") if kind == "33003" else tile)
                yield imagecodecs.jpeg2k_encode(tile, level=35, codecformat="j2k", mct=kind == "33005")


def write_shared_tiles(
    path: Path, side: int, tile: int, data: bytes, mpp: float = 0.5, there: int | None = None
) -> Path:
    """Write a small TIFF that states many pixels: all its tiles are the same bytes of the file.

    Args:
        path: the slide's file.
        side: of the slide, in pixels.
        tile: side of a compressed tile, in pixels.
        data: a JPEG of a tile, without chroma subsampling.
        mpp: microns per pixel.
        there: the number of tiles that have data, in row order; None: all.

    """
    count = (-(-side // tile)) ** 2
    present = count if there is None else there
    body = data + bytes(len(data) % 2)
    tables = struct.pack(f"<{count}I", *[8] * present, *[0] * (count - present))
    tables += struct.pack(f"<{count}I", *[len(data)] * present, *[0] * (count - present))
    offsets = 8 + len(body)
    resolution = offsets + len(tables)
    rest = struct.pack("<2I3H", round(1e7 / mpp), 1000, 8, 8, 8) + bytes(2)
    entries = [
        *((WIDTH, 4, 1, side), (257, 4, 1, side), (258, 3, 3, resolution + 8), (259, 3, 1, 7), (262, 3, 1, 6)),
        *(
            (277, 3, 1, 3),
            (282, 5, 1, resolution),
            (283, 5, 1, resolution),
            (284, 3, 1, 1),
            (RESOLUTION_UNIT, 3, 1, 3),
        ),
        *((322, 4, 1, tile), (323, 4, 1, tile), (TILE_OFFSETS, 4, count, offsets)),
        *((TILE_BYTES, 4, count, offsets + 4 * count), (530, 3, 2, 1 | 1 << 16)),
    ]
    directory = (
        struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    )
    path.write_bytes(b"II*\0" + struct.pack("<I", resolution + len(rest)) + body + tables + rest + directory)
    return path


def encode_jpeg(image: np.ndarray) -> bytes:
    """Encode an image as JPEG without chroma subsampling."""
    Image.fromarray(image).save(data := io.BytesIO(), "JPEG", quality=90, subsampling=0)
    return data.getvalue()


def write_plain_tiff(path: Path, pixels: np.ndarray, **options: object) -> Path:
    """Write any pixels as an uncompressed, tiled TIFF of 0.5 microns per pixel."""
    resolution = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, tile=(64, 64), metadata=None, **resolution, **options)
    return path


def directories(path: Path) -> list[dict]:
    """Read a little-endian TIFF's directories: tag -> (position of its value, type, count)."""
    data = path.read_bytes()
    assert data[:4] == b"II*\0"
    all_tags, link = [], 4
    while offset := struct.unpack_from("<I", data, link)[0]:
        entries, start = struct.unpack_from("<H", data, offset)[0], offset + 2
        tags: dict = {}
        for position in range(start, start + 12 * entries, 12):
            tag, value_type, count = struct.unpack_from("<HHI", data, position)
            tags[tag] = (position + 8, value_type, count)
        link = start + 12 * entries
        tags[NEXT] = link
        tags["offset"] = offset
        all_tags.append(tags)
    return all_tags


def _values(data: bytes, entry: tuple[int, int, int]) -> list[int]:
    position, value_type, count = entry
    size, code = {3: (2, "H"), 4: (4, "I")}[value_type]
    if size * count > 4:
        position = struct.unpack_from("<I", data, position)[0]
    return list(struct.unpack_from(f"<{count}{code}", data, position))


def _without_unit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for directory in directories(path):
        struct.pack_into("<H", data, directory[RESOLUTION_UNIT][0], 1)
    path.write_bytes(data)


def _unlink_levels(path: Path, keep: Sequence[int]) -> None:
    data, levels = bytearray(path.read_bytes()), directories(path)
    kept = [levels[i] for i in keep]
    for directory, following in zip(kept, [*kept[1:], None], strict=True):
        struct.pack_into("<I", data, directory[NEXT], following["offset"] if following else 0)
    path.write_bytes(data)


def damage_tiles(path: Path, numbers: Iterable[int], level: int = 0) -> None:
    """Overwrite compressed tiles of a level (in row order; negative counts from the end) with zeros."""
    data, directory = bytearray(path.read_bytes()), directories(path)[level]
    offsets, sizes = _values(data, directory[TILE_OFFSETS]), _values(data, directory[TILE_BYTES])
    for i in numbers:
        data[offsets[i] : offsets[i] + sizes[i]] = bytes(sizes[i])
    path.write_bytes(data)


def change_tiles(
    path: Path, changes: dict[int, Callable[[bytes], bytes]], level: int = 0, claim: int | None = None
) -> None:
    """Change compressed tiles of a level (in row order).

    Args:
        path: the slide's file.
        changes: functions from bytes to bytes, by tile number. The result must not be longer; if empty, the tile is
            missing.
        level: number of the level.
        claim: the number of bytes that the table states for these tiles; None: the true number.

    """
    data, directory = bytearray(path.read_bytes()), directories(path)[level]
    offsets, sizes = _values(data, directory[TILE_OFFSETS]), _values(data, directory[TILE_BYTES])
    table = struct.unpack_from("<I", data, directory[TILE_BYTES][0])[0]
    assert len(sizes) > 2  # the directory itself stores up to two sizes, without a table
    for i, change in changes.items():
        changed = change(bytes(data[offsets[i] : offsets[i] + sizes[i]]))
        assert len(changed) <= sizes[i]
        data[offsets[i] : offsets[i] + len(changed)] = changed
        width, code = {3: (2, "H"), 4: (4, "I")}[directory[TILE_BYTES][1]]
        struct.pack_into(f"<{code}", data, table + width * i, len(changed) if claim is None else claim)
    path.write_bytes(data)


def write_tile(path: Path, image: np.ndarray | Image.Image, **options: object) -> Path:
    """Write an image in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **options)
    return path


def table_text(rows: Sequence[dict], separator: str = ",", end: str = "\n", quoting: int = csv.QUOTE_MINIMAL) -> str:
    """Return a table as text; a cell is empty where its row lacks the column."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    handle = io.StringIO(newline="")
    writer = csv.writer(handle, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writerow(columns)
    writer.writerows([["" if row.get(name) is None else row[name] for name in columns] for row in rows])
    return handle.getvalue()


METRICS = dict.fromkeys(("train_mse", "validation_mse", "test_mse", "test_mean_color_mse"), 0.01) | {
    "test_psnr": 20.0,
    "test_patches": 3,
}


def training_record(folder: Path, name: str, cohort: str = "all", **sizes: int | None) -> dict:
    """Write training.json of a saved CAE, as a training of one epoch would, and return its content."""
    content = {
        "cohort": cohort,
        "made_from": "a fingerprint",
        "weights": saved.weights_fingerprint(folder),
        "model": {"architecture": "plain", "init_from": None},
        "params": {
            "seed": 20181003,
            "data": {"source": "slides"},
            "model": {"name": name},
            "training": {"epochs": 1, "balance": "patches", "min_percent_tumor_nuclei": None},
        },
        "splits": dict.fromkeys(("train", "validation", "test"), "a hash"),
        "patches": {"train": 2, "validation": 1},
        "epochs": 1,
        "best_epoch": 1,
        "parameters": 1,
        **sizes,
    }
    (folder / "training.json").write_text(json.dumps(content))
    checksums.write(folder)
    return content


def die_on_odd(number: int) -> int:
    """Double a number; at an odd number the process dies."""
    if number % 2:
        os._exit(9)
    return 2 * number


def stored_patches() -> dict[str, np.ndarray]:
    """Make the shards of the committed stores: patches by name."""
    rng = np.random.default_rng(1)
    return {name: rng.integers(0, 256, (n, 8, 8, 3), np.uint8) for name, n in (("0012", 3), ("A%2FB~3b1b2c3d", 2))}


def make_store(folder: Path) -> None:
    """Write a patch store of the current version as its documentation describes it, without the package."""
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    slides = {
        "0012": ("0012", "case 1", TUMOR, "0012.svs", "0.5"),
        "A%2FB~3b1b2c3d": ("A/B", "case|2", NORMAL, "sub/a.svs", ""),
    }
    rows = []
    for name, patches in stored_patches().items():
        header = repr({"descr": "|u1", "fortran_order": False, "shape": patches.shape})
        header = (header[:-1] + ", }").ljust(117) + "\n"
        with open(folder / "shards" / f"{name}.npy", "wb") as handle:
            handle.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + patches.tobytes())
        slide_id, case_id, sample_type, file, mpp = slides[name]
        for i in range(len(patches)):
            rows.append(
                {
                    "slide_id": slide_id,
                    "case_id": case_id,
                    "sample_type": sample_type,
                    "shard": name,
                    "position": i,
                    "file": file,
                    "row": i,
                    "column": 2,
                    "x": 16,
                    "y": 8 * i,
                    "mpp": mpp,
                    "tissue_share": 0.75,
                    **dict.fromkeys(MEASURES, 0.5),
                    "patch_label": sample_type,
                    "label_share": "",
                    "flags": "",
                }
            )
    (folder / "index.csv").write_text(table_text(rows, "|"), encoding="utf-8")
    manifest = {
        "channels": 3,
        "dtype": "uint8",
        "format": "histocae patch store",
        "mpp": 0.5,
        "patches": len(rows),
        "pixels": 8,
        "version": 4,
        "index": hashlib.sha256((folder / "index.csv").read_bytes()).hexdigest(),
        "shards": {
            name: {
                "patches": len(patches),
                "sha256": hashlib.sha256((folder / "shards" / f"{name}.npy").read_bytes()).hexdigest(),
            }
            for name, patches in stored_patches().items()
        },
    }
    (folder / "store.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make_store(DATA / "store-v4")
