"""Kinds of random input: damaged tables, params, patch stores, slides, tiles, and requests."""

import random
import re
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Protocol

import numpy as np
import yaml

from histocae import params_file
from histocae.files import read_table, write_table
from histocae.patches import tiles
from histocae.patches.shard_record import ShardTask
from histocae.patches.shards import make_shard
from histocae.patches.store import PatchStore
from histocae.sources import slide_source
from histocae.sources.tables import METADATA_TEXTS
from support import make_data

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = (b"0", b"-1", b"1", b"2", b"0.5", b"1e308", b"1e999", b"nan", b"inf", b"65536", b"4294967295", b"9" * 25)
WORDS = (
    b"",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b"~",
    b"'",
    b'"',
    b"\0",
    b"\xff",
    b"../x",
    b"/",
    b"a" * 300,
    b"\xc3\xa9",
)
VALUES = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    10**30,
    "",
    "x",
    "1",
    "no",
    [],
    [0],
    {},
)


def mutate(data: bytes, choice: random.Random, text: bool) -> bytes:
    """Damage bytes in one to four places: bits, bytes, numbers, missing, doubled, moved or cut parts."""
    damaged = bytearray(data)
    for _ in range(choice.choice((1, 1, 1, 2, 3, 4))):
        place = choice.randrange(len(damaged) + 1)
        length = choice.choice((1, 2, 4, 16, 256))
        part = damaged[place : place + length]
        kind = choice.randrange(9)
        if kind == 0 and part:
            part[0] ^= 1 << choice.randrange(8)
            damaged[place : place + 1] = part[:1]
        elif kind == 1:
            damaged[place : place + length] = choice.randbytes(len(part))
        elif kind == 2:
            del damaged[place : place + length]
        elif kind == 3:
            damaged[place:place] = part
        elif kind == 4:
            other = choice.randrange(len(damaged) + 1)
            damaged[other : other + len(part)] = part
        elif kind == 5 and choice.random() < 0.3:
            del damaged[place:]
        elif kind == 6:
            damaged[place:place] = choice.choice(WORDS)
        elif text:
            found = list(re.finditer(rb"[0-9.]+|\w+", damaged))
            if found:
                token = choice.choice(found)
                damaged[token.start() : token.end()] = choice.choice(NUMBERS + WORDS)
        else:  # a number of a binary format
            size = choice.choice((1, 2, 4))
            number = choice.choice((0, 1, 2, 3, 127, 255, 256, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1))
            damaged[place : place + size] = (number % 256**size).to_bytes(size, choice.choice(("little", "big")))
    return bytes(damaged)


class Kind(Protocol):
    """A kind of input; it is made with a folder for its files."""

    def attempt(self, choice: random.Random) -> None:
        """Make an input and use it as the pipeline does; an error other than a HistocaeError is a fault."""


class Tables:
    """Tables of slides and of tiles."""

    def __init__(self, folder: Path):
        self.folder = folder
        rows = []
        for number in range(4):
            name = f"TCGA-AA-000{number}-01A-01-TS1"
            (folder / f"{number}.tif").touch()
            rows.append(
                {
                    "slide_id": name,
                    "case_id": name[:12],
                    "sample_type": (make_data.TUMOR, make_data.NORMAL)[number % 2],
                    "file_name": f"{number}.tif",
                    "path": f"{number}.tif",
                    "percent_tumor_nuclei": 10.5 * number,
                    "mpp": 0.5,
                    "disease_type": "a, b" if number else None,
                }
            )
        self.bases = [make_data.table_text(rows, separator).encode() for separator in ",|;\t"]
        params = params_file.load(ROOT / "params.yaml")
        self.data = {
            source: params.data.model_copy(update={"source": source, "path": str(folder), "table": "table.csv"})
            for source in ("slides", "tiles")
        }

    def attempt(self, choice: random.Random) -> None:
        """Read a table as the stages inventory and metadata do; what they write must be read as it was."""
        (self.folder / "table.csv").write_bytes(mutate(choice.choice(self.bases), choice, text=True))
        data = self.data[choice.choice(("slides", "tiles"))]
        slide_source.inputs(data)
        slides = slide_source.cohort(data, 0).slides
        write_table(slides, self.folder / "written.csv")
        written = read_table(self.folder / "written.csv", METADATA_TEXTS)
        assert written["slide_id"].tolist() == slides["slide_id"].tolist(), "the table of slides is read as another"


class Params:
    """params.yaml."""

    def __init__(self, folder: Path):
        self.path = folder / "params.yaml"
        self.tree = yaml.safe_load((ROOT / "params.yaml").read_text())
        self.tree["training"]["denoise"] = {"shift": 1, "until": 0.5}
        self.tree["crossvalidation"]["folds"] = 5
        self.tree["models"]["residual-512"]["init_from"] = "all"
        self.text = yaml.safe_dump(self.tree, sort_keys=False).encode()

    def attempt(self, choice: random.Random) -> None:
        """Read params, and the settings of each model."""
        if choice.random() < 0.5:
            self.path.write_bytes(mutate(self.text, choice, text=True))
        else:
            self.path.write_text(
                yaml.dump(self._changed(choice), Dumper=_DUMPER, sort_keys=False, allow_unicode=True)
            )
        params = params_file.load(self.path)
        for name in params.models:
            params.model(name).training(params.training)

    def _changed(self, choice: random.Random) -> dict:
        tree = deepcopy(self.tree)
        for _ in range(choice.choice((1, 1, 2, 3))):
            section, key = tree, choice.choice(list(tree))
            while isinstance(section[key], dict) and section[key] and choice.random() < 0.9:
                section = section[key]
                key = choice.choice(list(section))
            kind = choice.randrange(5)
            if kind == 0:
                del section[key]
            elif kind == 1:
                section[choice.choice(("new", "", "1", "a b", "../x", "pixels", 7, None, True))] = section[key]
            else:
                section[key] = choice.choice(VALUES)
            if not tree:
                break
        return tree


_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class Stores:
    """Patch stores: manifest, index and shards."""

    def __init__(self, folder: Path):
        self.folder = folder / "store"
        make_data.make_store(self.folder)
        self.files = {path: path.read_bytes() for path in sorted(self.folder.rglob("*")) if path.is_file()}

    def attempt(self, choice: random.Random) -> None:
        """Read a store in all the ways that stages do."""
        path = choice.choice(list(self.files))
        if path.suffix == ".npy" and choice.random() < 0.8:  # its header more often than its pixels
            damaged = mutate(self.files[path][:128], choice, text=choice.random() < 0.5) + self.files[path][128:]
        else:
            damaged = mutate(self.files[path], choice, text=path.suffix != ".npy")
        path.write_bytes(damaged)
        try:
            store = PatchStore(self.folder)
            index = store.index()
            store.slides()
            for _ in store.rows():
                pass
            selection = store.select(index)
            patches = selection.take(np.arange(len(selection)))
            assert patches.shape == (len(index), store.pixels, store.pixels, 3)
        finally:
            path.write_bytes(self.files[path])


class Slides:
    """Slides in several encodings."""

    def __init__(self, folder: Path):
        self.folder = folder
        image = make_data.tissue(0, 256, 256)
        written = [
            make_data.write_slide(folder / "jpeg.tif", image, 0.5, pyramid=True, tile=64),
            make_data.write_slide(folder / "deflate.tif", image, 0.25, lossless=True, tile=64),
            *(make_data.write_aperio(folder / f"{kind}.svs", image, kind) for kind in ("4:2:0", "restarts", "33005")),
        ]
        self.bases = {path.suffix: [] for path in written}
        for path in written:
            self.bases[path.suffix].append(path.read_bytes())
        self.params = params_file.load(ROOT / "params.yaml").patches

    def attempt(self, choice: random.Random) -> None:
        """Extract the patches of a slide; what can't be read is a reason in its record."""
        suffix = choice.choice(list(self.bases))
        base = choice.choice(self.bases[suffix])
        edge = 600 if choice.random() < 0.5 else len(base)  # directories are at either end of the file
        start = choice.choice((0, max(0, len(base) - edge)))
        damaged = base[:start] + mutate(base[start : start + edge], choice, text=False) + base[start + edge :]
        (self.folder / f"a{suffix}").write_bytes(damaged)
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        changes = {"pixels": 32, "mpp": choice.choice((0.5, 1.0)), "color": choice.choice(("rgb", "rgb", "macenko"))}
        record = make_shard(
            ShardTask(
                slide_id="a",
                files=(f"a{suffix}",),
                source=slide_source.Source(self.folder),
                own_mpp=None,
                default_mpp=choice.choice((None, 0.5)),
                params=self.params.model_copy(update=changes),
                seed=0,
                shards=out / "shards",
                overviews=out / "overviews",
                previews=out / "previews",
                hashes={},
                made_from="",
            )
        )
        assert not record.failed or record.reason


class Tiles:
    """Tiles: images of several formats."""

    def __init__(self, folder: Path):
        self.folder = folder
        image = make_data.tissue(0, 128, 128)
        self.bases = {}
        for suffix in (".png", ".jpg", ".tif", ".bmp"):
            self.bases[suffix] = make_data.write_tile(folder / f"base{suffix}", image).read_bytes()

    def attempt(self, choice: random.Random) -> None:
        """Read a tile, reduce it, and extract its patches."""
        suffix = choice.choice(list(self.bases))
        path = self.folder / f"a{suffix}"
        path.write_bytes(mutate(self.bases[suffix], choice, text=False))
        tile = tiles.read_tile(path)
        tiles.reduce_tile(tile, path.name, 32)
        tiles.divide_tile(tile, path.name, 32, 0.5)


class Requests:
    """Requests to a served model."""

    def __init__(self, folder: Path):
        from mlflow.exceptions import MlflowException

        from histocae.tracking import served_model

        self._checked, self._refused = served_model.checked, MlflowException
        self.base = make_data.tissue(0, 8, 8)[:4, :4].tolist()

    def attempt(self, choice: random.Random) -> None:
        """Check the patches of a request; a refused request is answered with status 400."""
        data = deepcopy([self.base] * choice.randrange(3))
        for _ in range(choice.randrange(3)):
            where = data
            while isinstance(where, list) and where and choice.random() < 0.8:
                number = choice.randrange(len(where))
                if not isinstance(where[number], list):
                    break
                where = where[number]
            if isinstance(where, list) and where:
                where[choice.randrange(len(where))] = choice.choice((*VALUES, 255, 256, -0.0, 10**19, deepcopy(data)))
        request = (
            data if choice.random() < 0.9 else choice.choice((*VALUES, np.array(0), np.zeros((1, 4, 4, 3)), b"x"))
        )
        try:
            patches = self._checked(request, 4)
        except self._refused as error:
            assert "\n" not in str(error)
            return
        assert patches.dtype == np.uint8 and patches.shape[1:] == (4, 4, 3)


KINDS: dict[str, Callable[[Path], Kind]] = {
    "tables": Tables,
    "params": Params,
    "stores": Stores,
    "slides": Slides,
    "tiles": Tiles,
    "requests": Requests,
}
