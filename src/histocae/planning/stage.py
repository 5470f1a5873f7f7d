"""What one stage takes, and all of them together, on machines and at prices."""

from dataclasses import dataclass, field

HOUR = 3600


@dataclass(frozen=True)
class Machine:
    """What the work is spread over.

    Attributes:
        cores: of each machine.
        jobs: machines that work at once.
        gpu_patches: that one graphics card learns from in a second; None: trainings run on cores.

    """

    cores: int
    jobs: int
    gpu_patches: float | None = None


@dataclass
class Stage:
    """What one stage takes.

    Attributes:
        name: as `dvc repro` has it.
        things: what it goes through, and how many there are.
        disk: bytes that it leaves.
        alone: core-seconds that nothing shortens: one process.
        shared: core-seconds that cores share.
        units: jobs that `shared` can be divided among, at most.
        gpu: hours of a graphics card.
        kept: DVC has it, and with it a copy in its cache.

    """

    name: str
    things: str
    disk: float = 0.0
    alone: float = 0.0
    shared: float = 0.0
    units: int = 1
    gpu: float = 0.0
    kept: bool = True

    def hours(self, machine: Machine, jobs: int = 1) -> float:
        """Hours on so many of the machines at once."""
        return (self.alone + self.shared / machine.cores / min(jobs, self.units)) / HOUR + self.gpu

    def money(self, machine: Machine, prices: dict[str, float], jobs: int) -> float:
        """Price of its hours: whole machines are paid for as long as they work, the card alone where there is one."""
        spread = min(jobs, self.units)
        alone, shared = self.alone / HOUR, self.shared / machine.cores / spread / HOUR
        return (alone + shared * spread) * machine.cores * prices["core_hour"] + self.gpu * prices["gpu_hour"]


@dataclass
class Plan:
    """All stages, and what a store and a job are like.

    Attributes:
        stages: in the order of the pipeline.
        models: names of the stages of each model, which wait for each other.
        store: sizes of the patch store and of its tables.
        memory: bytes that a process holds which goes through all patches, by stage.

    """

    stages: list[Stage] = field(default_factory=list)
    models: dict[str, list[str]] = field(default_factory=dict)
    store: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)

    @property
    def disk(self) -> float:
        """Bytes in the working folder."""
        return sum(one.disk for one in self.stages)

    @property
    def cache(self) -> float:
        """Bytes of DVC's cache, where the file system can't share them."""
        return sum(one.disk for one in self.stages if one.kept)

    def hours(self, machine: Machine) -> float:
        """Hours until all is done where each stage has one machine and waits for the one before."""
        return sum(one.hours(machine) for one in self.stages)

    def hours_spread(self, machine: Machine) -> float:
        """Hours until all is done where slides and models are spread over the machines, long models first."""
        each = {one.name: one.hours(machine, machine.jobs) for one in self.stages}
        busy = [0.0] * machine.jobs
        chains = [sum(each.pop(name) for name in names) for names in self.models.values()]
        for hours in sorted(chains, reverse=True):
            busy[busy.index(min(busy))] += hours
        return sum(each.values()) + max(busy)
