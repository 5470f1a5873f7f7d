"""The JSON files in a job's folder, which sending, the supervisor and polling exchange."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from histocae.files import read_json, write_json
from histocae.remote import dvc_locks

DESCRIPTION, END, PAYLOAD, LOG = "job.json", "end.json", "payload.json", "job.log"


@dataclass(frozen=True, kw_only=True)
class JobDescription:
    """What the supervisor needs to run a job: job.json. It may hold credentials.

    Attributes:
        run_id: of MLflow.
        project: the project's folder on the job's machine.
        command: shell command of the entry point.
        variables: environment of the command.
        dvc: DVC's settings on the job's machine, by their dotted names.
        needed: stages whose outputs are pulled before the command runs.
        models: entries of `models` that the command may train.
        gpus: how many graphics cards the job takes; None: no limit.
        devices: numbers of the cards that jobs may take; None: all cards of the machine.
        scheduler: whether a scheduler keeps the job within its limits.
        seconds: the longest time that the command may take; None: no limit.
        time: the same as the backend config has it.
        bytes: the largest memory of the command; None: no limit.
        memory: the same as the backend config has it.

    """

    run_id: str
    project: str
    command: str
    variables: dict[str, str]
    dvc: dict[str, str]
    needed: list[str]
    models: list[str]
    gpus: int | None
    devices: list[int] | None
    scheduler: bool
    seconds: int | None
    time: str | None
    bytes: int | None
    memory: str | None

    @classmethod
    def read(cls, path: Path) -> "JobDescription":
        """Read job.json."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def to_json(self) -> str:
        """Write the text of job.json."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Payload:
    """The running command: payload.json.

    Attributes:
        session: of the operating system, in which all processes of the command run.
        node: name of the machine.

    """

    session: int
    node: str

    @classmethod
    def read(cls, folder: Path) -> "Payload":
        """Read payload.json of a job's folder; raise HistocaeError where there is none."""
        return cls(**read_json(folder / PAYLOAD))

    def write(self, folder: Path) -> None:
        """Write payload.json into a job's folder."""
        write_json(asdict(self), folder / PAYLOAD)


@dataclass(frozen=True)
class JobEnd:
    """How a job ended: end.json, from which polling takes it where the tracking server was unreachable.

    Attributes:
        status: of MLflow: FINISHED, FAILED or KILLED.
        reason: why the job did not finish; None where it did.
        changed: what the job changed in DVC's lock files.

    """

    status: str
    reason: str | None
    changed: dvc_locks.Changes

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "JobEnd":
        """Take over the values of end.json."""
        return cls(values["status"], values["reason"], values["changed"])

    @classmethod
    def read(cls, folder: Path) -> "JobEnd":
        """Read end.json of a job's folder; raise HistocaeError where there is none."""
        return cls.from_json(read_json(folder / END))

    def write(self, folder: Path) -> None:
        """Write end.json into a job's folder."""
        write_json(asdict(self), folder / END)
