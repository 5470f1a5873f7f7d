"""Texts of YAML 1.2 from people and programs: read strictly, in limited time and memory."""

import re
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import ComposerError
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
)

MOST_BYTES = 8 * 2**20  # dvc.lock of thousands of models; half a minute to read
MOST_LEVELS = 100  # the reader is recursive, and Python ends it at some hundreds
MOST_DIGITS = 1000  # Python refuses to print integers of more than 4300 digits
MOST_REPEATED = 100_000  # values that aliases repeat
_INTEGER = re.compile(r"[-+]?(0[xob])?[0-9a-fA-F_]+")


def load(content: bytes) -> Any:
    """Read YAML 1.2 as DVC reads it: `1e-3` is a number, `on` is text.

    Args:
        content: of the file, in UTF-8.

    Returns:
        Dicts, lists, texts, numbers, dates; None for an empty text.

    Raises:
        ValueError: it is no such YAML, has tags, has a key twice, or is too large; the message has the line, not the
            name of the file.

    """
    if len(content) > MOST_BYTES:
        raise ValueError(f"larger than the {MOST_BYTES:,} bytes that are read of a file")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"not YAML: line {line} is no UTF-8; save the file as UTF-8") from None
    try:
        _check(text)
    except YAMLError as error:
        raise ValueError(f"not YAML: {_problem(error)}") from None
    try:
        return YAML(typ="safe").load(text)
    except YAMLError as error:  # the text is YAML, but breaks a rule, such as more than one document
        raise ValueError(_problem(error)) from None
    except ValueError as error:
        raise ValueError(f"a date or time that does not exist: {_problem(error)}") from None


@dataclass
class _Open:
    """A list or mapping whose end is not read yet."""

    mapping: bool
    anchor: str | None
    before: int  # values before it, each repetition by an alias counted
    levels: int = 1  # of lists and mappings, itself included
    items: int = 0  # of a mapping: keys and values
    lines: dict[str, int] = field(default_factory=dict)  # of a mapping's keys


@dataclass
class _Anchored:
    """A value that aliases may repeat."""

    values: int
    levels: int
    text: str | None  # of a scalar


def _check(text: str) -> None:
    """Check what the reader would not: it is recursive, and with merge keys it lets the last of equal keys win."""
    stack: list[_Open] = []
    anchors: dict[str, _Anchored] = {}
    values = repeated = 0
    for event in YAML(typ="safe").parse(text):
        if isinstance(event, CollectionEndEvent):
            closed = stack.pop()
            if stack:
                stack[-1].levels = max(stack[-1].levels, closed.levels + 1)
            if closed.anchor:
                anchors[closed.anchor] = _Anchored(values - closed.before, closed.levels, None)
        if not isinstance(event, NodeEvent):
            continue
        line = event.start_mark.line + 1
        word = _word(event, anchors)
        if stack:
            _add_item(stack[-1], word, line)
        values += 1
        if isinstance(event, AliasEvent):
            if event.anchor not in anchors:
                raise ValueError(f"not YAML: line {line}: no value before *{event.anchor} has this name")
            levels = anchors[event.anchor].levels
            if stack:
                stack[-1].levels = max(stack[-1].levels, levels + 1)
            if len(stack) + levels > MOST_LEVELS:
                raise ValueError(f"line {line}: *{event.anchor} is nested deeper than {MOST_LEVELS} levels")
            values += anchors[event.anchor].values - 1
            repeated += anchors[event.anchor].values
            if repeated > MOST_REPEATED:
                raise ValueError(f"line {line}: aliases (*{event.anchor}) repeat more than {MOST_REPEATED:,} values")
            continue
        if isinstance(event, ScalarEvent | CollectionStartEvent) and event.tag is not None:
            tag = str(event.tag).replace("tag:yaml.org,2002:", "!!")[:80]
            raise ValueError(f"line {line}: has the tag {tag}; write values without tags, text in quotes")
        if isinstance(event, CollectionStartEvent):
            stack.append(_Open(isinstance(event, MappingStartEvent), event.anchor, values - 1))
            if len(stack) > MOST_LEVELS:
                raise ValueError(f"line {line}: nested deeper than {MOST_LEVELS} levels")
        elif isinstance(event, ScalarEvent):
            if "\0" in event.value:
                raise ValueError(f"line {line}: has the character NUL")
            digits = len(event.value)
            if event.implicit[0] and digits > MOST_DIGITS and _INTEGER.fullmatch(event.value):
                raise ValueError(f"line {line}: a number of {digits:,} digits; at most {MOST_DIGITS:,} are read")
            if event.anchor:
                anchors[event.anchor] = _Anchored(1, 0, word)


def _word(event: NodeEvent, anchors: dict[str, _Anchored]) -> str | None:
    """Return the text of a scalar, also of one that an alias repeats."""
    if isinstance(event, ScalarEvent):
        return str(event.value)
    return anchors[event.anchor].text if isinstance(event, AliasEvent) and event.anchor in anchors else None


def _add_item(parent: _Open, word: str | None, line: int) -> None:
    """Count a key or value of a mapping; a key must be a scalar that the mapping does not have yet."""
    parent.items += 1
    if not parent.mapping or parent.items % 2 == 0:
        return
    if word is None:
        raise ValueError(f"line {line}: a key is a list or a mapping; expected text")
    if word in parent.lines:
        raise ValueError(f"key {word[:80]!r} is in line {parent.lines[word]} and again in line {line}")
    parent.lines[word] = line


def _problem(error: Exception) -> str:
    """Say in one line what is wrong and where, without the library's advice to its caller."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    if problem is None or mark is None:
        return " ".join(str(error).split()).replace('"<unicode string>"', "the file")
    context = getattr(error, "context", None) if isinstance(error, ComposerError) else None
    problem = f"{context}, {problem}" if context else problem
    return f"{problem} in line {mark.line + 1}, column {mark.column + 1}"
