"""Names of the slides that a user gives: each slide once, under a name of its own."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from histocae.errors import TableError
from histocae.scoring.given import RESERVED, Given
from histocae.sources.texts import problem, quoted


def unique(found: Iterable[tuple[Given, Path]]) -> list[Given]:
    """Take each slide once, and give it a name of its own.

    Args:
        found: slides, each with the folder that it was found below.

    Returns:
        The slides in their order; those that can't have their name have `trouble`.

    Raises:
        TableError: two tables say different things of a slide, or two slides can't be told apart.

    """
    return _named(_each_once(found))


def _each_once(found: Iterable[tuple[Given, Path]]) -> list[tuple[Given, Path]]:
    """Leave out a slide that was given before; a slide in a table comes before the same file in a folder.

    Raises:
        TableError: two tables say different things of a slide.

    """
    once: dict[tuple[Path, ...], tuple[Given, Path]] = {}
    for each, above in found:
        key = tuple(path.resolve() for path in each.paths)
        former = once[key][0] if key in once else None
        if former is None or (each.from_table and not former.from_table):
            once[key] = each, above
        elif each.from_table and (differs := _difference(former, each)) is not None:
            name, first, second = differs
            raise TableError(
                f"{each.paths[0]}: two tables differ in its {name}: {first} and {second}; give one of them, or make "
                "them agree"
            )
    return list(once.values())


def _difference(first: Given, second: Given) -> tuple[str, str, str] | None:
    """Find the first column in which two tables differ, with both values; None if there is none."""
    columns = [
        {"slide_id": each.slide_id, "mpp": each.own_mpp, **dict(each.metadata)}
        | {f"{kind} of {file}": text for file, kind, text in each.hashes}
        for each in (first, second)
    ]
    for name in dict.fromkeys([*columns[0], *columns[1]]):
        one, other = (each.get(name) for each in columns)
        if one != other:
            first_text, second_text = ("none" if value is None else quoted(str(value)) for value in (one, other))
            return name, first_text, second_text
    return None


def _named(found: Sequence[tuple[Given, Path]]) -> list[Given]:
    """Give each slide a unique name: files of the same name get the names of their folders, too.

    A name from a table stays. A name that can't be in a report, or is that of a file of the results, is a slide's
    trouble.

    Raises:
        TableError: two slides can't be told apart.

    """
    named = [each for each, _ in found]
    longer = [_with_folders(each, above) for each, above in found]
    with_suffix = [f"{name}{Path(each.files[0]).suffix}" for each, name in zip(named, longer, strict=True)]
    for names in (longer, with_suffix):
        counts = Counter(each.slide_id.casefold() for each in named)
        named = [
            replace(each, slide_id=name) if counts[each.slide_id.casefold()] > 1 and not each.from_table else each
            for each, name in zip(named, names, strict=True)
        ]
    by_name = defaultdict(list)
    for each in named:
        by_name[each.slide_id.casefold()].append(each)
    for same in by_name.values():
        if len(same) > 1 and all(each.from_table for each in same):
            raise TableError(
                f"{same[0].paths[0]} and {same[1].paths[0]}: are called {quoted(same[0].slide_id)} and "
                f"{quoted(same[1].slide_id)}, which a disk may not tell apart; change a slide_id"
            )
        if len(same) > 1:
            raise TableError(
                f"{same[0].paths[0]} and {same[1].paths[0]}: both would have the name {quoted(same[0].slide_id)}; "
                "give a table with the columns slide_id and file_name"
            )
    return [_checked(each) for each in named]


def _checked(each: Given) -> Given:
    """Note why a slide can't have its name, or those of its files, in a report."""
    if each.slide_id.casefold() in RESERVED:
        return replace(each, trouble=f"a file of the results has the name {each.slide_id}; rename the slide")
    for name in (each.slide_id, *each.files):
        trouble = problem(name) if _is_utf8(name) else "is not UTF-8"
        if trouble is not None:
            trouble = f"the name {quoted(name)} {trouble}; rename the file"
            return replace(each, slide_id=quoted(each.slide_id), trouble=trouble)
    return each


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _with_folders(each: Given, above: Path) -> str:
    """Name a slide by its path from the folder above that was given."""
    path = each.folder if each.tiles and len(each.files) > 1 else each.paths[0].with_suffix("")
    try:
        parts = path.relative_to(above).parts
    except ValueError:
        parts = ()
    return "_".join((above.resolve().name, *parts) if len(parts) < 2 else parts)
