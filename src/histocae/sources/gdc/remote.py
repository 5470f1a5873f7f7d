"""A server of the GDC's API, how patiently it is asked, and a file that it has."""

from dataclasses import dataclass, field
from pathlib import Path

from histocae.errors import StuckError

GIVE_UP = 3  # failures in a row, for each stream


@dataclass(frozen=True)
class Patience:
    """How long one waits, in seconds.

    Attributes:
        connect: for a connection.
        silence: for the next bytes of an answer.
        window: over so many seconds ...
        slowest: ... so many bytes per second have to come, or the connection is given up.
        first: the first pause between tries is up to so long, and each next up to twice as long, ...
        longest: ... but no longer than this; nor is a server that names a longer one obeyed.

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
    """What params.yaml says of the GDC.

    Attributes:
        url: of the API.
        streams: downloads at once, at most.
        tries: of each request or file, the first one counted.
        token_file: for controlled data; None where all data are open.
        patience: how long to wait.

    """

    url: str
    streams: int
    tries: int
    token_file: Path | None = None
    patience: Patience = field(default_factory=lambda: PATIENCE)


@dataclass(frozen=True)
class File:
    """A file as the GDC names it.

    Attributes:
        name: of the file.
        file_id: UUID that it is asked for by.
        md5: of its bytes, in hex.
        size: bytes.
        access: open or controlled; None where that is not known.

    """

    name: str
    file_id: str
    md5: str
    size: int
    access: str | None


class InARow:
    """Counts failures that follow each other and are no fault of a slide: sooner or later all is in vain."""

    def __init__(self, streams: int):
        self._limit, self._count = GIVE_UP * streams, 0

    def too_many(self, error: Exception | None) -> bool:
        """Take the next one, None where it went well, and say whether to give up."""
        self._count = self._count + 1 if isinstance(error, StuckError) else 0
        return self._count >= self._limit
