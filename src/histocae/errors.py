"""The errors a user can do something about. Each is one line: what, where, remedy.

The command line prints them without a traceback and exits with 1; anything else that
is raised is a bug and keeps its traceback.
"""

from collections.abc import Sequence


def shortened(told: Sequence[str], most: int = 3) -> str:
    """Join the first of many reasons, and say how many more there are."""
    more = f"; and {len(told) - most} more" if len(told) > most else ""
    return "; ".join(told[:most]) + more


class HistocaeError(Exception):
    """Base of all errors that are told in one line."""


class ParamsError(HistocaeError):
    """params.yaml has an unknown, missing or ill-typed key."""


class TableError(HistocaeError):
    """The user's table of slides or tiles breaks a rule."""


class SlideError(HistocaeError):
    """A slide or tile can't be used; its slide is set aside with this reason."""


class DataError(HistocaeError):
    """The data as a whole do not allow what was asked for."""


class FetchError(HistocaeError):
    """Something could not be got from a server: what is missing is asked for again by the next run."""


class StuckError(FetchError):
    """The same, for a reason that may well keep all else too: the network, the server, the disk."""


class StoreError(HistocaeError):
    """A patch store is missing, of another version, or not what its index says."""


class TrainingError(HistocaeError):
    """A training can't start or can't go on."""


class TrackingError(HistocaeError):
    """The tracking server did not take what it was asked to take."""


class RemoteError(HistocaeError):
    """Another machine, or a job on it, did not do what it was asked to do."""
