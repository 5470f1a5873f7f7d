"""Random input of every kind is refused in one line, or is read; nothing else happens, and nothing hangs."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histocae import params_file
from histocae.errors import HistocaeError
from histocae.sources import tables
from support.fuzzed import KINDS
from support.fuzzing import Fuzzing

SEED = os.environ.get("FAULTS_SEED", "1")
SHORT = {"tables": 250, "params": 300, "stores": 250, "slides": 60, "tiles": 100, "requests": 300}
LONG = {"tables": 20_000, "params": 40_000, "stores": 20_000, "slides": 4_000, "tiles": 6_000, "requests": 12_000}
WHAT = {
    "tables": "damaged tables of slides and tiles",
    "params": "damaged params.yaml",
    "stores": "damaged patch stores",
    "slides": "damaged slides: TIFF and SVS, JPEG, JPEG 2000 and deflate",
    "tiles": "damaged tiles: PNG, JPEG, TIFF and BMP",
    "requests": "requests to a served model",
}


def check(kind: str, count: int, new_tries) -> None:
    fuzzing, tries = Fuzzing(kind, SEED, count), new_tries("random input", WHAT[kind])
    failures = fuzzing.failures()
    refused = [failure for failure in failures if failure.is_refused_memory]
    failures = [failure for failure in failures if failure not in refused]
    tries.tries = count - len(refused)
    tries.survived = tries.tries - len({failure.number for failure in failures})
    if refused:  # as for a worker of the pipeline, which sets the slide aside
        ended = new_tries("random input", f"{WHAT[kind]}; the process got no more memory and ended")
        ended.tries = ended.survived = len(refused)
    assert not failures, fuzzing.report(failures)


@pytest.mark.parametrize("kind", KINDS)
def test_some_random_input_is_refused_in_one_line_or_read(kind, new_tries):
    check(kind, SHORT[kind], new_tries)


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_random_input_is_refused_in_one_line_or_read(kind, new_tries):
    check(kind, LONG[kind], new_tries)


@pytest.mark.faults
def test_any_text_is_refused_as_a_table_or_as_params(tmp_path, new_tries):
    tries = new_tries("random input", "any Unicode text as a table and as params.yaml")
    cells = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
    rows = st.lists(st.lists(cells, min_size=1, max_size=5), max_size=5)

    @settings(max_examples=1000)
    @given(rows, st.sampled_from(",|;\t: \n"))
    def read(rows, separator):
        path = tmp_path / "file"
        path.write_bytes("\n".join(separator.join(row) for row in [["slide_id"], *rows]).encode())
        with tries.one():
            for reader in (lambda: tables.read(path, ("slide_id",)), lambda: params_file.load(path)):
                try:
                    reader()
                except HistocaeError as error:
                    assert len(str(error).splitlines()) <= 1

    read()
