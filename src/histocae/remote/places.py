"""Where this user's jobs are: what is run to ask after them and to end them. It stays on this machine.

The tracking server tells people of a job; what is executed for it is never taken from there, where others can write.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from histocae.files import read_json_or_none, write_json


@dataclass(frozen=True)
class Place:
    """A job's machine, and what it is there.

    Attributes:
        backend: a name in `config.KINDS`.
        host: for ssh; None: this machine.
        ssh_config: for ssh -F.
        setup: shell lines before anything else.
        folder: of the job.
        silence: seconds; see `config.Job`.
        sender: process and its start here, while the job is being sent.
        id: what the machine calls it; None until it is started.

    """

    backend: str
    host: str | None
    ssh_config: str | None
    setup: str
    folder: str
    silence: int
    sender: tuple[int, float] | None = None
    id: str | None = None

    @property
    def is_being_sent(self) -> bool:
        """Whether the command that sends it goes on."""
        if self.sender is None:
            return False
        try:
            return psutil.Process(self.sender[0]).create_time() == self.sender[1]
        except psutil.NoSuchProcess:
            return False


def this_process() -> tuple[int, float]:
    """Name this process, and no later one of its number."""
    return os.getpid(), psutil.Process().create_time()


def _file(run_id: str) -> Path:
    above = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(above) / "histocae/jobs" / f"{run_id}.json"


def write(run_id: str, place: Place) -> None:
    """Keep a job's place, for this user alone."""
    path = _file(run_id)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_json(asdict(place), path)


def read(run_id: str) -> Place | None:
    """Give a job's place; None for one that this user did not send from this machine."""
    found = read_json_or_none(_file(run_id))
    if found is None:
        return None
    return Place(**{**found, "sender": tuple(found["sender"]) if found["sender"] else None})
