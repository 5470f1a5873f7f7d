"""Damage to the files of a model, drawn from a seed."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import yaml

VALUES = (None, -1, 0, 3, 10**12, 2.5, float("nan"), "text", "", [], [1], [0, -2], {}, {"a": {"b": None}}, True)


def flip_byte(path: Path) -> None:
    """Change one byte in the middle of a file; size and time of the last change stay."""
    times, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def flip(file: Path, rng: random.Random) -> None:
    """Flip bits of one to eight bytes."""
    data = bytearray(file.read_bytes())
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] ^= rng.randint(1, 255)
    file.write_bytes(data)


def truncate(file: Path, rng: random.Random) -> None:
    """Cut the end off, or all of it."""
    data = file.read_bytes()
    file.write_bytes(data[: rng.choice([0, rng.randrange(len(data))])])


def blank(file: Path, rng: random.Random) -> None:
    """Zero a part, as a disk that lost a block."""
    data = bytearray(file.read_bytes())
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice([1, 64, 4096]))
    data[start:end] = bytes(end - start)
    file.write_bytes(data)


def lengthen(file: Path, rng: random.Random) -> None:
    """Append random bytes."""
    file.write_bytes(file.read_bytes() + rng.randbytes(rng.randint(1, 100)))


def replace(file: Path, rng: random.Random) -> None:
    """Write random bytes in its place."""
    file.write_bytes(rng.randbytes(rng.randint(1, 2000)))


def remove(file: Path, rng: random.Random) -> None:
    """Delete the file, or put a folder in its place."""
    file.unlink()
    if rng.random() < 0.5:
        file.mkdir()


def change_value(file: Path, rng: random.Random) -> None:
    """Change, add or delete a key of a JSON or YAML file, or a number of a weights file; flip others."""
    if file.suffix == ".h5":
        return change_weight(file, rng)
    if file.suffix not in (".json", ".yaml"):
        return flip(file, rng)
    content = json.loads(file.read_text()) if file.suffix == ".json" else yaml.safe_load(file.read_text())
    holder = content
    while True:
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        if isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.7:
            holder = holder[key]
            continue
        break
    if rng.random() < 0.25:
        del holder[key]
    else:
        holder[key] = rng.choice(VALUES)
    if rng.random() < 0.05:
        content = rng.choice(VALUES)
    file.write_text(json.dumps(content) if file.suffix == ".json" else yaml.safe_dump(content))
    return None


def change_weight(file: Path, rng: random.Random) -> None:
    """Set a weight to NaN, infinity, or another number."""
    with h5py.File(file, "r+") as opened:
        arrays: list[h5py.Dataset] = []
        opened.visititems(lambda _, item: arrays.append(item) if isinstance(item, h5py.Dataset) else None)
        array = rng.choice(arrays)
        values = array[()]
        values.flat[rng.randrange(values.size)] = rng.choice([np.nan, np.inf, -np.inf, 7.5])
        array[...] = values


def swap(one: Path, other: Path) -> None:
    """Exchange two files."""
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


KINDS: tuple[Callable[[Path, random.Random], None], ...] = (
    flip,
    truncate,
    blank,
    lengthen,
    replace,
    remove,
    change_value,
    change_value,
)


def damage(folder: Path, others: Path, rng: random.Random) -> str:
    """Damage one file of a folder.

    Args:
        folder: of a model, or of its latents.
        others: the same folder of another model, whose files may take the place.
        rng: decides which file, and how.

    Returns:
        What was done.

    """
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    file = rng.choice(files)
    if rng.random() < 0.1:
        other = rng.choice([item for item in files if item != file])
        swap(file, other)
        return f"{file.name} and {other.name} exchanged"
    if rng.random() < 0.15 and (foreign := others / file.relative_to(folder)).is_file():
        shutil.copyfile(foreign, file)
        return f"{file.name} of another model"
    kind = rng.choice(KINDS)
    kind(file, rng)
    return f"{kind.__name__} {file.name}"
