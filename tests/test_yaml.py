"""Any YAML is read in little time and memory, or refused in one line: params, a trained model's params, dvc.lock."""

import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from histocae import yaml_text
from histocae.errors import YamlError
from histocae.files import read_yaml
from support.workspace import ROOT

# each anchor of 90 levels has the one before in its middle
NESTED = "\n".join(f"- &a{i} {'[' * 90}{f'*a{i - 1}' if i else ''}{']' * 90}" for i in range(15))
BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", "any.yaml: key 'a' is in line 1 and again in line 3"),
        ('a: 1\n"a": 2\n', "key 'a' is in line 1 and again in line 2"),
        ("x: {a: 1, a: 2}", "key 'a' is in line 1 and again in line 1"),
        ("b: &b {x: 1}\na:\n  <<: *b\n  x: 2\n  x: 3\n", "key 'x' is in line 4 and again in line 5"),
        ("b: &b {x: 1}\na:\n  <<: *b\n  <<: *b\n", "key '<<' is in line 3 and again in line 4"),
        ("a: &k b\nb: 1\n*k : 2\n", "key 'b' is in line 2 and again in line 3"),
        ("1: 1\n0x1: 2\n", "duplicate key"),
        ("a: " + "[" * 5000 + "]" * 5000, "line 1: nested deeper than 100 levels"),
        ("a: " + "{a: " * 5000 + "1" + "}" * 5000, "line 1: nested deeper than 100 levels"),
        ("\n".join(" " * i + "a:" for i in range(1500)), "line 101: nested deeper than 100 levels"),
        ("a: 1\nb: " + "9" * 5000, "line 2: a number of 5,000 digits"),
        ("a: -" + "9" * 5000, "line 1: a number of 5,001 digits"),
        ("a: 0x" + "f" * 5000, "line 1: a number of 5,002 digits"),
        (NESTED, "line 2: *a0 is nested deeper than 100 levels"),
        (BOMB, "line 5: aliases (*a3) repeat more than 100,000 values"),
        ("a: &a [*a]", "line 1: no value before *a has this name"),
        ("a: &a 1\nb: &a 2\n", "found duplicate anchor; first occurrence, second occurrence in line 2"),
        ("a: *x", "line 1: no value before *x has this name"),
        ('a: !!python/object/apply:os.system ["exit"]', "line 1: has the tag !!python/object/apply:os.system"),
        ("a: !!bool x", "line 1: has the tag !!bool"),
        ('a: !!float ""', "line 1: has the tag !!float"),
        ("a: !!omap [x: 1, x: 2]", "line 1: has the tag !!omap"),
        ("a: !x 1", "line 1: has the tag !x"),
        ("? [1]\n: 1\n", "line 1: a key is a list or a mapping"),
        ("? {a: 1}\n: 1\n", "line 1: a key is a list or a mapping"),
        ("a: 2001-02-30", "any.yaml: a date or time that does not exist: day is out of range"),
        ("a: 2001-02-03T00:00:00+99:99", "a date or time that does not exist: offset"),
        ("a: 1\0", "not YAML: unacceptable character"),
        ('a: 1\nb: "\\0"', "line 2: has the character NUL"),
        ("a:\n\tb: 1", "not YAML: found character that cannot start any token in line 2"),
        (
            "a: 1\n---\nb: 2\n",
            "any.yaml: expected a single document in the stream, but found another",
        ),
    ],
)
def test_what_would_harm_is_refused_in_one_line(tmp_path, text, expected):
    (tmp_path / "any.yaml").write_bytes(text.encode())
    began = time.monotonic()
    with pytest.raises(YamlError) as refused:
        read_yaml(tmp_path / "any.yaml")
    assert time.monotonic() - began < 10
    message = str(refused.value)
    assert message.startswith(f"{tmp_path / 'any.yaml'}: ") and expected in message
    assert "\n" not in message and len(message) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_refused_with_the_line(tmp_path, encoding):
    (tmp_path / "any.yaml").write_bytes("ü: 1".encode(encoding))
    with pytest.raises(YamlError, match="line 1 is no UTF-8; save the file as UTF-8"):
        read_yaml(tmp_path / "any.yaml")


def test_a_huge_file_is_refused_without_reading_it(tmp_path):
    with open(tmp_path / "any.yaml", "wb") as handle:
        handle.truncate(10**11)  # a sparse file
    with pytest.raises(YamlError, match="larger than the 8,388,608 bytes"):
        read_yaml(tmp_path / "any.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("\ufeffa: 1", {"a": 1}),
        ("a: 1e-3\nb: on\nc: 0o17\nd: 2001-02-03", None),
        ("b: &b {x: 1}\na:\n  <<: *b\n  x: 2\n", {"b": {"x": 1}, "a": {"x": 2}}),
        ("a: &a [1]\nb: [*a, *a]\n", {"a": [1], "b": [[1], [1]]}),
        ("- {a: 1}\n- {a: 2}\n", [{"a": 1}, {"a": 2}]),
        ("a: {b: 1}\nc: {b: 1}\nb: c\n", {"a": {"b": 1}, "c": {"b": 1}, "b": "c"}),
        ("a: " + "[" * 99 + "]" * 99, None),
        ("a: " + "9" * 1000, {"a": int("9" * 1000)}),
        ("a: '" + "9" * 5000 + "'", {"a": "9" * 5000}),
        ("a: 1e999999", {"a": float("inf")}),
    ],
)
def test_yaml_that_does_no_harm_is_read(text, value):
    read = yaml_text.load(text.encode())
    assert read == value or value is None


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(value=yaml_values)
def test_what_was_written_is_read(tmp_path_factory, value):
    from histocae.files import write_yaml

    file = tmp_path_factory.getbasetemp() / "written.yaml"
    write_yaml(value, file)
    text = file.read_text(encoding="utf-8")
    if "\\0" in text:  # refused: no file name may have it
        return
    assert read_yaml(file) == value


@given(text=st.text("ab:-[]{}&*!? \n\"'#|>,1<.%@`\t", max_size=40))
def test_any_text_is_read_or_refused(text):
    try:
        yaml_text.load(text.encode())
    except ValueError as error:
        assert "\n" not in str(error)


def test_the_committed_files_are_read_as_before():
    for file in ("params.yaml", "examples/mnist/params.yaml"):
        assert read_yaml(ROOT / file) == yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
