"""What a backend config (gpu.json) says of a job: where, with what, for how long."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from histocae.errors import RemoteError
from histocae.params import Count, Section
from histocae.params_file import explain

# what MLflow adds to every backend config
_OF_MLFLOW = {"ENV_MANAGER", "SYNCHRONOUS", "DOCKER_ARGS", "STORAGE_DIR", "build_image", "docker_auth"}
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# a host is an argument of ssh and a folder one of a shell: neither may look like something else
Word = Annotated[str, Field(pattern=r"^[^\s-]\S*$")]
# make and sbatch take folders apart at some characters
PLAIN = r"^(/|~/|~$)[\w./@+=,-]*$"
Folder = Annotated[str, Field(pattern=PLAIN)]


class Job(Section):
    """What both backends know.

    Attributes:
        host: an address or an alias of ssh's own config.
        ssh_config: another file than ssh's own.
        folder: there, absolute or below `~`: a copy of the repository, environments, DVC's cache, one folder a job.
        python: that makes the environment.
        lock: the file of the repository that names the environment's packages.
        setup: shell lines before anything else (`module load cuda`).
        dirty: whether uncommitted changes are refused, or sent along.
        wait: whether `mlflow run` stays, shows the log and fetches the result.
        tracking_uri: the tracking server as the machine reaches it, where that is by another address than from here.
        environment: names of variables that are handed on from here (AWS_ACCESS_KEY_ID).
        dvc: settings of DVC there, as `dvc config --local` takes them ("remote.lab.url": "/data/dvc").
        gpus: how many; 0 hides all.
        cpus: how many cores.
        memory: 32G; of the whole job.
        time: H:MM:SS or D-HH:MM:SS.
        silence: seconds without a word from a job on a machine that can't be reached, after which it counts as dead.

    """

    host: Word | None = None
    ssh_config: str | None = None
    folder: Folder
    python: Word = "python3"
    lock: Literal["requirements.lock", "requirements-gpu.lock"] = "requirements.lock"
    setup: str = ""
    dirty: Literal["refuse", "send"] = "refuse"
    wait: bool = True
    tracking_uri: str | None = None
    environment: list[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]] = Field(default_factory=list)
    dvc: dict[Word, str] = Field(default_factory=dict)
    gpus: Annotated[int, Field(ge=0)] | None = None
    cpus: Count | None = None
    memory: str | None = None
    time: str | None = None
    silence: Count = 600

    @field_validator("memory")
    @classmethod
    def _memory(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[1-9]\d*[KMGT]", value):
            raise ValueError("expected a number with K, M, G or T, as in 32G")
        return value

    @field_validator("time")
    @classmethod
    def _time(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"(\d+-)?\d+:[0-5]\d:[0-5]\d", value):
            raise ValueError("expected H:MM:SS or D-HH:MM:SS")
        if value is not None and not re.search("[1-9]", value):
            raise ValueError("expected some time")
        return value

    @field_validator("ssh_config")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        return None if value is None else str(Path(value).expanduser().absolute())

    @property
    def bytes(self) -> int | None:
        """The memory in bytes."""
        return int(self.memory[:-1]) * _UNITS[self.memory[-1]] if self.memory else None

    @property
    def seconds(self) -> int | None:
        """The time in seconds."""
        if self.time is None:
            return None
        days, _, rest = self.time.rpartition("-")
        hours, minutes, seconds = map(int, rest.split(":"))
        return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


class Ssh(Job):
    """A machine without a scheduler.

    Attributes:
        devices: numbers of the graphics cards that jobs may take; null: all that nvidia-smi lists.

    """

    host: Word
    devices: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None

    @field_validator("devices")
    @classmethod
    def _once(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError("expected each card once")
        return value


class Slurm(Job):
    """A cluster; without `host` this machine is one that sends jobs to it.

    Attributes:
        partition: where, as account and qos.
        options: more options of sbatch, each as one text (`--constraint=a100`).

    """

    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    options: list[Annotated[str, Field(pattern=r"^--\S+$")]] = Field(default_factory=list)


KINDS: dict[str, type[Job]] = {"histocae-ssh": Ssh, "histocae-slurm": Slurm}


def read(backend: str, raw: dict[str, Any]) -> Job:
    """Check a backend config.

    Args:
        backend: a name in `KINDS`.
        raw: as MLflow hands it on.

    Raises:
        RemoteError: a key is unknown, missing or ill-typed.

    """
    kind = KINDS[backend]
    if not isinstance(raw, dict):
        raise RemoteError(f"backend config: expected keys with values, got {raw!r}")
    try:
        return kind.model_validate({key: value for key, value in raw.items() if key not in _OF_MLFLOW})
    except ValidationError as error:
        told = "; ".join(explain(one, kind) for one in error.errors())
        raise RemoteError(f"backend config: {told}") from None
