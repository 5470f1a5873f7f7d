"""A server of the GDC's API, the time limits of requests to it, and a file on it."""

from dataclasses import dataclass, field
from pathlib import Path

from histocae.errors import StuckError

GIVE_UP = 3  # failures in a row, per stream


@dataclass(frozen=True)
class Patience:
    """Time limits of requests, in seconds.

    A connection that brings fewer than `slowest` bytes per second over `window` seconds is closed. The first pause
    between tries is at most `first`; each next one may be twice as long, up to `longest`, even if the server asks
    for a longer one.

    Attributes:
        connect: until a connection is made.
        silence: until the next bytes of an answer.
        window: over which the speed is measured.
        slowest: bytes per second.
        first: pause between tries.
        longest: pause between tries.

    """

    connect: float = 15.0
    silence: float = 30.0
    window: float = 15.0
    slowest: float = 4096.0
    first: float = 1.0
    longest: float = 60.0


PATIENCE = Patience()


@dataclass(frozen=True)
class Server:
    """A server, as the section `data.gdc` of params.yaml describes it.

    Attributes:
        url: of the API.
        streams: the most downloads at once.
        tries: of each request or file, including the first.
        token_file: for controlled data; None where all data are open.
        patience: time limits.

    """

    url: str
    streams: int
    tries: int
    token_file: Path | None = None
    patience: Patience = field(default_factory=lambda: PATIENCE)


@dataclass(frozen=True)
class File:
    """A file of the GDC.

    Attributes:
        name: of the file.
        file_id: its UUID in the API.
        md5: of its bytes, in hex.
        size: bytes.
        access: open or controlled; None where unknown.

    """

    name: str
    file_id: str
    md5: str
    size: int
    access: str | None


class FailureCount:
    """Counts failures in a row that are not the fault of a slide, to stop where all further downloads would fail."""

    def __init__(self, streams: int):
        """Start at 0; the limit grows with the number of parallel downloads."""
        self._limit, self._count = GIVE_UP * streams, 0

    def too_many(self, outcome: object) -> bool:
        """Count the next outcome of a download, an error or anything else, and return whether to stop."""
        self._count = self._count + 1 if isinstance(outcome, StuckError) else 0
        return self._count >= self._limit
