"""A server of the GDC's API, and a file that it has."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Server:
    """What params.yaml says of the GDC.

    Attributes:
        url: of the API.
        streams: downloads at once, at most.
        tries: of each request or file, the first one counted.
        token_file: for controlled data; None where all data are open.

    """

    url: str
    streams: int
    tries: int
    token_file: Path | None = None


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
