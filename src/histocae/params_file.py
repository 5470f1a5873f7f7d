"""Read params.yaml. Unknown, missing and ill-typed keys are reported by name."""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import ValidationError

from histocae.address import origin
from histocae.errors import ParamsError, YamlError, one_line, raise_if_machine, shortened
from histocae.files import read_yaml
from histocae.params import Params, Section

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MOST_FAULTS = 10  # that a message lists
SHOWN = 80  # characters of a wrong value that a message has
ADD = "; add it, as in the params.yaml that came with histocae"  # remedy of a missing key
AnyParams = TypeVar("AnyParams", bound=Section)
_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "keys with values",
    "model_type": "keys with values",
}


def load(path: Path) -> Params:
    """Read and check params.yaml of the pipeline of slides; see `load_as`."""
    return load_as(path, Params)


def load_as(path: Path, kind: type[AnyParams]) -> AnyParams:
    """Read and check params.yaml of a pipeline.

    Args:
        path: of the file.
        kind: params of the pipeline: those of slides or of MNIST.

    Returns:
        The params.

    Raises:
        ParamsError: the file is missing or not YAML, or a key is unknown, missing, ill-typed or in conflict with
            another.

    """
    raw = read(path)
    try:
        params = kind.model_validate(raw)
    except ValidationError as error:
        faults = [f"{path}: {explain(fault, kind)}" + ADD * (fault["type"] == "missing") for fault in error.errors()]
        raise ParamsError(shortened(faults, MOST_FAULTS)) from None
    for conflict in params.conflicts():
        raise ParamsError(f"{path}: {conflict}")
    return params


def read(path: Path) -> dict[str, Any]:
    """Read a YAML file of sections, unchecked.

    Raises:
        ParamsError: the file is missing, not YAML, or has no sections.

    """
    try:
        raw = read_yaml(path)
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file here; run histocae in the folder of {path}") from None
    except OSError as error:
        raise_if_machine(error)
        raise ParamsError(f"{path}: can't be read: {error.strerror}") from None
    except YamlError as error:
        raise ParamsError(str(error)) from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{path}: expected sections of keys, got {_shown(raw)}")
    return raw


def explain(error: "ErrorDetails", kind: type[Section]) -> str:
    """Word one error of pydantic.

    Args:
        error: an entry of `ValidationError.errors()`.
        kind: the params that were checked.

    Returns:
        A text of the form `key: expected ..., got ...`.

    """
    key = ".".join(_cut(str(part)) for part in error["loc"] if part != "[key]")
    fault, got, context = error["type"], error["input"], error.get("ctx", {})
    if fault == "missing":
        return f"{key}: missing"
    if fault == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][-1]), _siblings(error["loc"][:-1], kind), 1)
        return f"{key}: unknown key" + (f"; did you mean {near[0]}?" if near else "")
    if fault == "literal_error":
        return f"{key}: expected one of {context['expected']}, got {_shown(got)}"
    if fault in _EXPECTED:
        return f"{key}: expected {_EXPECTED[fault]}, got {_shown(got)}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}: {message[0].lower()}{message[1:]}, got {_shown(got)}"


def _shown(value: object) -> str:
    """Return the `repr` of a value, which may be of any length, in so few characters that a line can have it."""
    if isinstance(value, str) and ("://" in value or "@" in value):
        value = origin(value)  # the rest of an address may be secret
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text):,} characters)"


def explain_all(error: ValidationError, kind: type[Section]) -> str:
    """Word the first errors of pydantic.

    Args:
        error: of pydantic.
        kind: the params that were checked.

    Returns:
        One line.

    """
    return shortened([one_line(explain(fault, kind).removeprefix(": ")) for fault in error.errors(include_url=False)])


def _siblings(location: tuple[int | str, ...], section: type[Section]) -> list[str]:
    """List the keys of the section at a location; below a named entry of `models`, the keys of an entry."""
    for part in location:
        if isinstance(part, str) and part in section.model_fields:
            inner = section.model_fields[part].annotation
            within = [
                kind for kind in (inner, *get_args(inner)) if isinstance(kind, type) and issubclass(kind, Section)
            ]
            section = within[0] if within else section
    return list(section.model_fields)
