"""The backend config of a job (gpu.json): where it runs, with which resources, for how long."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from histocae.errors import RemoteError
from histocae.params import Count, Section
from histocae.params_file import explain

# keys that MLflow adds to every backend config
_OF_MLFLOW = {"ENV_MANAGER", "SYNCHRONOUS", "DOCKER_ARGS", "STORAGE_DIR", "build_image", "docker_auth"}
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# a host becomes an argument of ssh and a folder one of a shell: neither may look like an option or a command
Word = Annotated[str, Field(pattern=r"^[^\s-]\S*$")]
# make and sbatch split paths at some characters
PLAIN = r"^(/|~/|~$)[\w./@+=,-]*$"
Folder = Annotated[str, Field(pattern=PLAIN)]


class JobConfig(Section):
    """The keys of both backends.

    Attributes:
        host: address of the job's machine, or an alias of ssh's own config.
        ssh_config: a file to use in place of ssh's own config.
        folder: on the job's machine, absolute or below `~`. It holds a copy of the repository, environments, DVC's
            cache, and one folder per job.
        python: the interpreter that makes the environment.
        lock: the file of the repository that names the environment's packages.
        setup: shell lines that run first (`module load cuda`).
        dirty: whether uncommitted changes are refused or sent too.
        wait: whether `mlflow run` shows the log until the job is over, and then fetches its changes.
        tracking_uri: the tracking server's address on the job's machine; None: the same as here.
        environment: names of variables that the job gets from here (AWS_ACCESS_KEY_ID).
        dvc: DVC's settings on the job's machine, as `dvc config --local` takes them
            ("remote.lab.url": "/data/dvc").
        gpus: number of graphics cards; 0 hides all cards from the job.
        cpus: number of cores.
        memory: of the whole job, as in 32G.
        time: H:MM:SS or D-HH:MM:SS.
        silence: seconds. A job on an unreachable machine counts as dead after that time without a sign of life.

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


class SshConfig(JobConfig):
    """A machine without a scheduler.

    Attributes:
        devices: numbers of the graphics cards that jobs may use; None: all cards of the machine.

    """

    host: Word
    devices: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None

    @field_validator("devices")
    @classmethod
    def _once(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError("expected each card once")
        return value


class SlurmConfig(JobConfig):
    """A cluster; without `host`, sbatch runs on this machine.

    Attributes:
        partition: as sbatch takes it.
        account: as sbatch takes it.
        qos: as sbatch takes it.
        options: further options of sbatch, each as one string (`--constraint=a100`).

    """

    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    options: list[Annotated[str, Field(pattern=r"^--\S+$")]] = Field(default_factory=list)


KINDS: dict[str, type[JobConfig]] = {"histocae-ssh": SshConfig, "histocae-slurm": SlurmConfig}


def read(backend: str, raw: dict[str, Any]) -> JobConfig:
    """Check a backend config.

    Args:
        backend: a name in `KINDS`.
        raw: the config as MLflow passes it on.

    Returns:
        The checked config.

    Raises:
        RemoteError: a key is unknown or missing, or its value has the wrong type.

    """
    kind = KINDS[backend]
    if not isinstance(raw, dict):
        raise RemoteError(f"backend config: expected keys with values, got {raw!r}")
    try:
        return kind.model_validate({key: value for key, value in raw.items() if key not in _OF_MLFLOW})
    except ValidationError as error:
        reasons = "; ".join(explain(detail, kind) for detail in error.errors())
        raise RemoteError(f"backend config: {reasons}") from None
