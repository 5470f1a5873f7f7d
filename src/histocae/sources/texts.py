"""Texts from tables of users and servers: what may not stand in a report, and how messages quote them."""

import re
import unicodedata

# what begins a cell: the text, or a part of it in a spreadsheet that splits rows at another separator than the file's
_BEGIN = re.compile(r"(^|[,;|])\s*(\S)")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
QUOTED = 80  # characters of a text that a message quotes


def problem(text: str) -> str | None:
    """Return what is wrong with a text that later stands in a cell of reports/*.csv; None where nothing is.

    Spreadsheets run a cell as a formula if it begins with = + - or @, also in full width (OWASP, "CSV Injection").
    Some split the rows of every CSV file at `;`.

    >>> problem("=CASE2()")
    "begins with '=', so spreadsheets would run it as a formula"
    >>> problem("CASE;=2+2")
    "has '=' after ';', so spreadsheets would run it as a formula"
    >>> problem("CASE-2, left; right")
    """
    for separator, character in _BEGIN.findall(text):
        if unicodedata.normalize("NFKC", character) in tuple("=+-@"):
            place = f"has {character!r} after {separator!r}" if separator else f"begins with {character!r}"
            return f"{place}, so spreadsheets would run it as a formula"
    control = _CONTROL.search(text)
    return f"has the control character {control[0]!r}" if control else None


def harmless(text: str) -> str:
    """Return a text as it is, or quoted where a report may not have it as it is."""
    return text if problem(text) is None else quoted(text)


def quoted(value: object) -> str:
    """Return the `repr` of a value, shortened: a cell may have any length."""
    text = repr(value[: QUOTED + 1] if isinstance(value, str) else value)
    return text if len(text) <= QUOTED + 2 else f"{text[:QUOTED]}…"


def listed(names: list[str], most: int = 10) -> str:
    """Join the first names of a list, each shortened, and count the rest.

    Args:
        names: any number of them.
        most: of them that are listed.

    Returns:
        A text of some hundred characters.

    """
    first = ", ".join(name if len(name) <= QUOTED else f"{name[:QUOTED]}…" for name in names[:most])
    return f"{first} and {len(names) - most:,} more" if len(names) > most else first
