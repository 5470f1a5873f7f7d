"""Where this user's jobs live: what is needed to poll and to end them. It stays on this machine.

People read of a job on the tracking server. What this machine executes for a job never comes from there, because
others can write there.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from histocae.files import read_json_or_none, write_json


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a job lives: its machine, its folder there, and its id there.

    Attributes:
        backend: a name in `config.KINDS`.
        host: for ssh; None: this machine.
        ssh_config: for ssh -F.
        setup: shell lines that run first.
        folder: of the job.
        silence: seconds; see `config.JobConfig`.
        sender: id and start time of the process that sends the job from here; None once the job is sent.
        id: of the job on its machine (a process or a job of Slurm); None until the job is started.

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
        """Whether the process that sends it still runs."""
        if self.sender is None:
            return False
        try:
            return psutil.Process(self.sender[0]).create_time() == self.sender[1]
        except psutil.NoSuchProcess:
            return False


def this_process() -> tuple[int, float]:
    """Identify this process by its id and its start time: ids are used again."""
    return os.getpid(), psutil.Process().create_time()


def _file(run_id: str) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state) / "histocae/jobs" / f"{run_id}.json"


def write(run_id: str, place: Place) -> None:
    """Store where a job lives, readable by this user alone.

    Args:
        run_id: of the job.
        place: of the job.

    """
    path = _file(run_id)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_json(asdict(place), path)


def read(run_id: str) -> Place | None:
    """Return where a job lives; None unless this user sent it from this machine."""
    values = read_json_or_none(_file(run_id))
    if values is None:
        return None
    return Place(**{**values, "sender": tuple(values["sender"]) if values["sender"] else None})
