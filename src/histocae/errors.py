"""The errors that a user can remedy. Each is one line: the problem, where it is, the remedy.

The command line prints them without a traceback and exits with 1. Any other exception
is a bug and keeps its traceback.
"""

from collections.abc import Sequence


def shortened(reasons: Sequence[str], most: int = 3) -> str:
    """Join the first reasons and count the rest.

    Args:
        reasons: any number of them.
        most: of them that are spelled out.

    Returns:
        The first reasons, and where there are more, their number.

    """
    rest = f"; and {len(reasons) - most} more" if len(reasons) > most else ""
    return "; ".join(reasons[:most]) + rest


def one_line(text: object, most: int = 300) -> str:
    """Make one line of a library's error or of another text, cut where it is long.

    Args:
        text: anything with a text.
        most: of its characters that are kept.

    Returns:
        The text without line ends.

    """
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[:most]} ..."


class HistocaeError(Exception):
    """Base of all errors that are reported in one line."""


class ParamsError(HistocaeError):
    """params.yaml has an unknown, missing or ill-typed key."""


class TableError(HistocaeError):
    """The user's table of slides or tiles breaks a rule."""


class SlideError(HistocaeError):
    """A slide or tile can't be used; its slide is set aside with this reason."""


class DataError(HistocaeError):
    """The data as a whole do not allow the command."""


class YamlError(DataError):
    """A file does not hold YAML."""


class FetchError(HistocaeError):
    """Something could not be fetched from a server; the next run tries again."""


class StuckError(FetchError):
    """Fetching failed for a reason that likely holds for all files: the network, the server or the disk."""


class StoreError(HistocaeError):
    """A patch store is missing, of another version, or not what its index says."""


class TrainingError(HistocaeError):
    """A training can't start or continue."""


class TrackingError(HistocaeError):
    """The tracking server is unreachable or refused a request."""


class RemoteError(HistocaeError):
    """Another machine is unreachable, or a command or job on it failed."""
