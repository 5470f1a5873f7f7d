"""Read params.yaml. Unknown, missing and ill-typed keys are reported by name."""

import difflib
import re
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError

from histocae.errors import ParamsError
from histocae.params import Params, Section, Whole

AnyWhole = TypeVar("AnyWhole", bound=Whole)


class _Loader(yaml.SafeLoader):
    """PyYAML reads 1e-3 as text (YAML 1.1); DVC reads it as a number (1.2), and so do we."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load(path: Path, kind: type[AnyWhole] = Params) -> AnyWhole:
    """Read and check params.yaml.

    Args:
        path: of the file.
        kind: of which pipeline.

    Raises:
        ParamsError: the file is missing or not YAML, or a key is unknown, missing,
            ill-typed or at odds with another.

    """
    raw = read(path)
    try:
        params = kind.model_validate(raw)
    except ValidationError as error:
        raise ParamsError("; ".join(f"{path}: {explain(one, kind)}" for one in error.errors())) from None
    for told in params.conflicts():
        raise ParamsError(f"{path}: {told}")
    return params


def read(path: Path) -> dict[str, Any]:
    """Read a YAML file of sections, unchecked.

    Raises:
        ParamsError: the file is missing, not YAML, or has no sections.

    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file here; run histocae where {path} lies") from None
    except OSError as error:
        raise ParamsError(f"{path}: can't be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        told = " ".join(str(error).split()).replace('"<unicode string>"', str(path))
        raise ParamsError(f"{path}: not YAML: {told}") from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{path}: expected sections of keys, got {raw!r}")
    return raw


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


def explain(error: dict[str, Any], kind: type[Section]) -> str:
    """Tell one pydantic error as `key: expected ..., got ...`."""
    key = ".".join(str(part) for part in error["loc"] if part != "[key]")
    what, got, context = error["type"], error["input"], error.get("ctx", {})
    if what == "missing":
        return f"{key}: missing"
    if what == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][-1]), _siblings(error["loc"][:-1], kind), 1)
        return f"{key}: unknown key" + (f"; did you mean {near[0]}?" if near else "")
    if what == "literal_error":
        return f"{key}: expected one of {context['expected']}, got {got!r}"
    if what in _EXPECTED:
        return f"{key}: expected {_EXPECTED[what]}, got {got!r}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}: {message[0].lower()}{message[1:]}, got {got!r}"


def _siblings(location: tuple, section: type[Section]) -> list[str]:
    """Keys of the section at a place; below a named entry of `models` that of the entries."""
    for part in location:
        if isinstance(part, str) and part in section.model_fields:
            inner = section.model_fields[part].annotation
            within = [one for one in (inner, *get_args(inner)) if isinstance(one, type) and issubclass(one, Section)]
            section = within[0] if within else section
    return list(section.model_fields)
