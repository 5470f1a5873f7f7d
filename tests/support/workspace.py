"""A small project in a folder, whose stages run in this process."""

import io
import logging
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from histocae import cli
from histocae.files import exact_floats
from support import make_data

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "data.source": "slides",
    "data.path": "own",
    "data.max_failed_share": 1.0,
    "patches.pixels": 32,
    "quality.pen": None,  # what other tests draw may look like ink
    "executor.workers": 1,
}
ALL_STAGES = ("inventory", "metadata", "slides", "patches", "split")


@dataclass(frozen=True)
class Result:
    """The result of a command: its exit code and the lines of its stderr."""

    code: int
    lines: list[str]

    @property
    def error(self) -> str:
        """The only line that reports an error, which must be the last line."""
        assert self.code == 1, self.lines
        assert "Traceback" not in "".join(self.lines)
        errors = [line for line in self.lines if line.startswith("histocae ")]
        assert len(errors) == 1 and self.lines[-1] == errors[0], self.lines
        return errors[0]

    @property
    def only_line(self) -> str:
        """The error line, which must be the only line of stderr."""
        assert len(self.lines) == 1, self.lines
        return self.error


def command(*commands: str) -> Result:
    """Run commands of histocae in this process one after the other, up to the first that fails."""
    root, stderr, code = logging.getLogger(), io.StringIO(), 0
    handlers, root.handlers = root.handlers, []  # as in a new process: pytest installs handlers
    try:
        with redirect_stderr(stderr):
            for line in commands:
                code = cli.main(line.split())
                if code:
                    break
    finally:
        root.handlers = handlers
    return Result(code, stderr.getvalue().splitlines())


class Workspace:
    """A folder with params.yaml where `histocae` runs; the user's files are in `own`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.own = folder / "own"
        self.own.mkdir(parents=True, exist_ok=True)
        self.params()

    def params(self, **changes: object) -> None:
        """Write params.yaml: the committed file with small values, and `section__key` changed."""
        values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        for name, value in {**SMALL, **changes}.items():
            section = values
            *sections, key = name.replace("__", ".").split(".")
            for section_name in sections:
                section = section[section_name]
            section[key] = value
        (self.folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")

    def table(self, rows: Sequence[dict], **options: object) -> None:
        """Write own/table.csv."""
        (self.own / "table.csv").write_text(make_data.table_text(rows, **options), encoding="utf-8")

    def slides(self, *names: str, **options: object) -> list[dict]:
        """Write slides own/<name>.tif of 256 x 256 pixels with their table, and return its rows."""
        for i, name in enumerate(names):
            make_data.write_slide(self.own / f"{name}.tif", make_data.tissue(i, 256, 256), **{"mpp": 0.5, **options})
        rows = [slide_row(name, i) for i, name in enumerate(names)]
        self.table(rows)
        return rows

    def forget(self, *files: str) -> None:
        """Delete the rows of files in data/first_seen.csv, as a user does whose change is meant."""
        path = self.folder / "data" / "first_seen.csv"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(line for line in lines if line.split("|")[1] not in files), encoding="utf-8")

    def run(self, *commands: str) -> Result:
        """Run commands one after the other, up to the first that fails."""
        return command(*commands)

    def make(self, *commands: str) -> "Workspace":
        """Run commands (by default, all stages up to the split); they must succeed."""
        result = self.run(*(commands or ALL_STAGES))
        assert result.code == 0, result.lines
        return self

    def read(self, path: str) -> pd.DataFrame:
        """Read an output table; the separator is `|` in data and `,` in reports."""
        return pd.read_csv(self.folder / path, sep="|" if path.startswith("data") else ",", **exact_floats())

    @property
    def index(self) -> pd.DataFrame:
        """The patch store's index."""
        return self.read("data/patches/index.csv")

    def outputs(self, *folders: str) -> dict[str, bytes]:
        """Read all output files; the package's hidden files outside the outputs are left out."""
        contents = {}
        for folder in folders or ("data", "models", "reports"):
            for path in sorted((self.folder / folder).rglob("*")):
                if path.is_file():
                    contents[path.relative_to(self.folder).as_posix()] = path.read_bytes()
        return contents

    def leftovers(self) -> list[str]:
        """List temporary files that a stage did not delete."""
        return [str(path) for path in self.folder.rglob("*") if path.name.endswith((".part", ".former"))]


def slide_row(slide_id: str, number: int = 0, file: str | None = None, **columns: object) -> dict:
    """Make a row of a table of slides; each number is a case, and sample types alternate."""
    return {
        "slide_id": slide_id,
        "case_id": f"case-{number}",
        "sample_type": (make_data.TUMOR, make_data.NORMAL)[number % 2],
        "file_name": file or f"{slide_id}.tif",
        **columns,
    }
