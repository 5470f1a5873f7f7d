"""Files: YAML as DVC reads it, params of saved models to the byte, and JSON that may be missing."""

import errno
import os

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from histocae import checksums, files, params_file
from histocae.errors import DataError, YamlError
from histocae.patches import shard_file
from histocae.sources import table_text
from histocae.sources.hashes import Hashes
from histocae.tracking import documents

MODELS = {
    "plain": {
        "architecture": "plain",
        "decoder": None,
        "filters": [8, 16, 32],
        "input_shape": [128, 128, 3],
        "kernel": [3, 3],
        "latent_features": 512,
        "lossfn": "mse",
        "optimizer": "adamax",
        "pool": [2, 2],
        "stride": 1,
    },
    "without latents": {"filters": [8], "latent_features": None, "lossfn": "binary_crossentropy"},
    "linear": {"architecture": "pca", "filters": [], "input_shape": [28, 28, 1], "latent_features": 40},
}
words = st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1, max_size=12)
saved_params = st.dictionaries(
    words, st.none() | st.integers() | words | st.lists(st.integers(), max_size=4), max_size=6
)


@pytest.mark.parametrize("params", MODELS.values(), ids=MODELS)
def test_params_of_saved_models_are_written_as_in_former_versions(tmp_path, params):
    files.write_yaml(params, tmp_path / "params.yaml")
    # they wrote YAML with PyYAML
    assert (tmp_path / "params.yaml").read_text() == yaml.safe_dump(params, sort_keys=True)
    assert files.read_yaml(tmp_path / "params.yaml") == params


@given(params=saved_params)
def test_written_yaml_is_read_back_unchanged(tmp_path_factory, params):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    files.write_yaml(params, file)
    assert files.read_yaml(file) == params


def test_yaml_is_read_as_dvc_reads_it(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text("rate: 1e-3\nlarge: +1E5\nswitch: on\ntime: 12:00:00\nnothing:\n")
    expected = {"rate": 0.001, "large": 100000.0, "switch": "on", "time": "12:00:00", "nothing": None}
    assert files.read_yaml(file) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1\n", "not YAML: did not find expected ',' or ']' in line 2"),
        ("a: 1\na: 2\n", "key 'a' is in line 1 and again in line 2"),
        ("a: 1\n\tb: 2\n", "not YAML: found "),
        ("a: 2020-99-99\n", "a date or time that does not exist: month"),
        ("a: \x00\n", "not YAML: "),
        ("a: *b\n", "not YAML: line 1: no value before *b"),
    ],
)
def test_invalid_yaml_is_reported_in_one_line(tmp_path, text, problem):
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(YamlError) as error_info:
        files.read_yaml(file)
    message = str(error_info.value)
    assert message.startswith(f"{file}: {problem}") and "\n" not in message


def test_missing_or_damaged_json_is_none_or_an_error(tmp_path):
    file = tmp_path / "x.json"
    assert files.read_json_or_none(file) is None
    with pytest.raises(DataError, match="not there yet; run the stages before"):
        files.read_json(file)
    file.write_text('{"a": ')
    assert files.read_json_or_none(file) is None
    with pytest.raises(DataError, match="can't be read"):
        files.read_json(file)
    file.write_text('{"a": ' + "9" * 5000 + "}")
    assert files.read_json_or_none(file) is None
    with pytest.raises(DataError, match=r"can't be read: a number has thousands of digits; run the stages"):
        files.read_json(file)
    files.write_json({"a": 1}, file)
    assert files.read_json(file) == files.read_json_or_none(file) == {"a": 1}


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC, errno.ENOMEM])
def test_errors_of_the_machine_are_not_taken_for_damage(tmp_path, monkeypatch, number):
    path = tmp_path / "x.json"
    files.write_json({}, path)
    checksums.write(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    readers = (
        lambda: files.read_json(path),
        lambda: documents.read(path, documents.Document, "a remedy"),
        lambda: checksums.check(path, "a remedy"),
        lambda: params_file.read(path),
        lambda: table_text.read_text(path, "a remedy"),
        lambda: Hashes(tmp_path / "hashes.json").of(path),
        lambda: shard_file.check_shard(path, 1, 8),
    )
    monkeypatch.setattr("builtins.open", fail)
    monkeypatch.setattr("io.open", fail)
    for read in readers:
        with pytest.raises(OSError, match=r"x\.json") as error_info:
            read()
        assert error_info.value.errno == number


def test_a_damaged_table_is_an_error_of_its_file(tmp_path):
    file = tmp_path / "x.csv"
    for content in (b"", b"a|b\n\xff|1\n", b'a|b\n"1|2\n', b"a\n1\n"):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"x\.csv: can't be read: .*; run the stages before this one"):
            files.read_table(file, columns={"a": "str", "b": "float64"})
    file.write_bytes(b"a|b\n1|2\n1|2|3\n")
    with pytest.raises(DataError, match=r"x\.csv: can't be read: .*saw 3"):
        files.read_table(file)
    file.write_bytes(b"a|b\n1|2\n" * 3 + b"\xff|1\n")
    with pytest.raises(DataError, match=r"x\.csv: can't be read"):
        list(files.read_table_parts(file, rows=2))


TABLE = b"name|count\none|1\n'two'|\n"
DAMAGED = {
    "within a row": (TABLE[:-2], "it was cut: its last row has no line end"),
    "at the end of a row": (TABLE[:-1], "it was cut: its last row has no line end"),
    "within the header": (b"name|co", "it was cut: its last row has no line end"),
    "a column": (b"name|other\none|1\n", "it has no column 'count'"),
    "a cell": (b"name|count\none\ntwo|2\n", "row 2 has 1 cells under 2 columns"),
    "a part of the header": (b"count\none|1\ntwo|2\n", "it has no column 'name'"),
    "another header": (b"name|count\nx|one|1\nx|two|2\n", "row 2 has 3 cells under 2 columns"),
}


@pytest.mark.parametrize(("content", "problem"), DAMAGED.values(), ids=DAMAGED)
def test_a_table_that_lacks_something_is_refused(tmp_path, content, problem):
    file = tmp_path / "x.csv"
    file.write_bytes(TABLE)
    assert len(files.read_table(file, ("name",), numbers=("count",))) == 2
    file.write_bytes(content)
    for read in (
        lambda: files.read_table(file, ("name",), needed=("name",), numbers=("count",)),
        lambda: list(files.read_table_parts(file, ("name",), 1, needed=("name", "count"))),
        lambda: (
            list(files.read_cells(file, ("name", "count"))) if "3 cells" not in problem else files.read_table(file)
        ),
    ):
        with pytest.raises(
            DataError, match=r"x\.csv: can't be read: .*; run the stages before this one"
        ) as error_info:
            read()
        assert problem in str(error_info.value) or "row 2 ends too early" in str(error_info.value)


def test_text_in_a_column_of_numbers_is_refused(tmp_path):
    file = tmp_path / "x.csv"
    file.write_text("name|count\none|1\ntwo|many\n")
    with pytest.raises(DataError, match=r"x\.csv: can't be read: column 'count' has something else than numbers"):
        files.read_table(file, ("name",), numbers=("count",))


@pytest.mark.parametrize("rows", [0, 1])
def test_all_written_tables_end_with_a_line_end(tmp_path, rows):
    table = pd.DataFrame({"name": ["a"], "count": [1]})[:rows]
    files.write_table(table, tmp_path / "x.csv")
    with files.table_writer(tmp_path / "y.csv", ("name", "count")) as writer:
        writer.writerows(table.to_numpy())
    for file in (tmp_path / "x.csv", tmp_path / "y.csv"):
        assert len(files.read_table(file, ("name",), needed=("name",), numbers=("count",))) == rows


@given(values=st.lists(st.floats(allow_nan=False), min_size=1, max_size=20))
def test_floats_are_read_back_to_the_last_bit(tmp_path_factory, values):
    file = tmp_path_factory.getbasetemp() / "floats.csv"
    files.write_table(pd.DataFrame({"value": values}), file)
    assert list(files.read_table(file)["value"]) == values
    assert [value for part in files.read_table_parts(file, rows=7) for value in part["value"]] == values


@given(
    content=st.binary(max_size=200) | st.text("ab|\n\"',;1.\0é", max_size=80).map(str.encode), rows=st.integers(1, 3)
)
def test_any_bytes_are_a_table_or_an_error_of_their_file(tmp_path_factory, content, rows):
    file = tmp_path_factory.getbasetemp() / "any.csv"
    file.write_bytes(content)
    for read in (
        lambda: files.read_table(file, ("a",)),
        lambda: list(files.read_table_parts(file, ("a",), rows)),
        lambda: list(files.read_cells(file, ("a", "b"))),
    ):
        try:
            read()
        except DataError as error:
            assert str(error).startswith(f"{file}: ")
