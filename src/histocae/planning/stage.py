"""Disk, hours and money of one stage, and of all stages together."""

from dataclasses import dataclass, field

HOUR = 3600


@dataclass(frozen=True)
class Machine:
    """The machines that the work is distributed over.

    Attributes:
        cores: of each machine.
        jobs: machines that work at once.
        gpu_patches: patches per second that one GPU learns from; None: trainings run on cores.

    """

    cores: int
    jobs: int
    gpu_patches: float | None = None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The cost of one stage.

    Attributes:
        name: as in dvc.yaml.
        inputs: its inputs in words, with their number.
        disk: bytes of its outputs.
        alone: core-seconds of a single process.
        shared: core-seconds that are divided among cores.
        units: the most jobs that `shared` can be divided among.
        gpu: hours of a GPU.
        kept: DVC keeps a copy of the outputs in its cache.

    """

    name: str
    inputs: str
    disk: float = 0.0
    alone: float = 0.0
    shared: float = 0.0
    units: int = 1
    gpu: float = 0.0
    kept: bool = True

    def hours(self, machine: Machine, jobs: int = 1) -> float:
        """Return the hours until the stage has ended.

        Args:
            machine: that does the work.
            jobs: number of such machines that share the work.

        Returns:
            Hours.

        """
        return (self.alone + self.shared / machine.cores / min(jobs, self.units)) / HOUR + self.gpu

    def money(self, machine: Machine, prices: dict[str, float], jobs: int) -> float:
        """Return the price of the stage's hours.

        Whole machines are paid while they work; a training on a GPU pays for the GPU alone.

        Args:
            machine: that does the work.
            prices: `core_hour` and `gpu_hour`.
            jobs: number of such machines that share the work.

        Returns:
            Money in the currency of `prices`.

        """
        spread = min(jobs, self.units)
        alone, shared = self.alone / HOUR, self.shared / machine.cores / spread / HOUR
        return (alone + shared * spread) * machine.cores * prices["core_hour"] + self.gpu * prices["gpu_hour"]


@dataclass(frozen=True)
class Plan:
    """The cost of all stages.

    Attributes:
        stages: in the order of the pipeline.
        models: by model the names of its stages, which run one after another.
        store: sizes of the patch store and of its tables, and of a job's share of them.
        memory: by stage the bytes that a process holds for all patches.

    """

    stages: list[Stage] = field(default_factory=list)
    models: dict[str, list[str]] = field(default_factory=dict)
    store: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)

    @property
    def disk(self) -> float:
        """Bytes in the working folder."""
        return sum(stage.disk for stage in self.stages)

    @property
    def cache(self) -> float:
        """Bytes of DVC's cache, where the file system can't share blocks between copies."""
        return sum(stage.disk for stage in self.stages if stage.kept)

    def hours(self, machine: Machine) -> float:
        """Return the hours until all stages have ended on one machine, one after another."""
        return sum(stage.hours(machine) for stage in self.stages)

    def hours_spread(self, machine: Machine) -> float:
        """Return the hours until all stages have ended where slides and models are shared by all machines.

        Each model goes to the machine that is free first, models that take long before the others.
        """
        each = {stage.name: stage.hours(machine, machine.jobs) for stage in self.stages}
        busy = [0.0] * machine.jobs
        chains = [sum(each.pop(name) for name in names) for names in self.models.values()]
        for hours in sorted(chains, reverse=True):
            busy[busy.index(min(busy))] += hours
        return sum(each.values()) + max(busy)
