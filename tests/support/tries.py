"""Counts of injected faults, in a table: what was done, how often, and how often all went well."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from tabulate import tabulate

PROPERTY = "tries"
BEGIN, END = "<!-- table of make test-faults: begin -->", "<!-- table of make test-faults: end -->"


@dataclass
class Tries:
    """Tries of one kind.

    Attributes:
        kind: a row of the table, with `done`.
        done: what was done.
        tries: how often.
        survived: how often all went well.

    """

    kind: str
    done: str
    tries: int = 0
    survived: int = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count a try; it is survived if the block raises nothing."""
        self.tries += 1
        yield
        self.survived += 1


def record(item: pytest.Item, kind: str, done: str) -> Tries:
    """Begin to count the tries of a test; a test may count several kinds."""
    tries = Tries(kind, done)
    item.stash.setdefault(_KEY, []).append(tries)
    return tries


def attach(item: pytest.Item) -> None:
    """Put a test's counts into its report, which pytest-xdist sends to the process that prints the table."""
    for tries in item.stash.get(_KEY, []):
        item.user_properties.append((PROPERTY, asdict(tries)))


def table(reports: Iterable[pytest.TestReport]) -> str:
    """Add up the counts of all tests; return a table in Markdown, empty where no test counted."""
    rows: dict[tuple[str, str], list[int]] = {}
    for report in reports:
        for name, value in report.user_properties:
            if name == PROPERTY and report.when == "call":
                row = rows.setdefault((value["kind"], value["done"]), [0, 0])
                row[0] += value["tries"]
                row[1] += value["survived"]
    cells = [(kind, done, f"{tries:,}", f"{survived:,}") for (kind, done), (tries, survived) in sorted(rows.items())]
    head = ("kind", "what was done", "tries", "survived")
    return tabulate(cells, head, tablefmt="pipe", colalign=("left", "left", "right", "right")) if cells else ""


def write(text: str, path: Path) -> None:
    """Write the table between its marks in a document."""
    document = path.read_text(encoding="utf-8")
    before, rest = document.split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


_KEY = pytest.StashKey[list[Tries]]()
