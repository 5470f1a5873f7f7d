"""The command plan: prints what a run will cost, and changes and writes nothing."""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from histocae.params import Params
from histocae.planning import cohort, figures, options, plan
from histocae.planning.stage import HOUR, Machine, Plan
from histocae.progress import format_bytes
from histocae.workers.processes import count_cores

LEAST_HOURS = 0.001  # shorter times are printed as "less than"
SIZES = ("slides", "patches_per_slide", "slide_mb")  # options that replace what is known of the cohort


@dataclass(frozen=True)
class PlanEstimate:
    """A plan and all that it was computed from.

    Attributes:
        plan: the cost of each stage.
        cohort: its size.
        machine: that the work is distributed over.
        assumed: prices and assumptions by name.
        chosen: numbers among the options, by name.
        measurement: date and machine of the measurement of coefficients.

    """

    plan: Plan
    cohort: cohort.CohortSize
    machine: Machine
    assumed: dict[str, float]
    chosen: dict[str, float]
    measurement: dict[str, str]

    @property
    def disk_money(self) -> float:
        """Price of the disk for the outputs and DVC's copies of them."""
        return (self.plan.disk + self.plan.cache) / 1e9 * self.assumed["gb_month"] * self.assumed["months"]


def run(params: Params, arguments: argparse.Namespace) -> None:
    """Print the plan for params and options.

    Args:
        params: of the pipeline.
        arguments: options of the command line.

    Raises:
        ParamsError: an option is no number, or out of its range.
        DataError: the number of slides is unknown, or an output of a stage is damaged.

    """
    chosen = options.numbers(arguments)
    assumed = {name: chosen.get(name, entry["value"]) for name, entry in figures.assumed().items()}
    measurement = figures.measured()
    measured = {name: entry["value"] for name, entry in measurement["coefficients"].items()}
    known = cohort.measure(params, {name: chosen[name] for name in SIZES if name in chosen}, assumed)
    cores, jobs = int(chosen.get("cores", count_cores())), int(chosen.get("jobs", 1))
    machine = Machine(cores, jobs, chosen.get("gpu_patches_per_s"))
    estimate = PlanEstimate(
        plan.make(params, known, measured, assumed, machine),
        known,
        machine,
        assumed,
        chosen,
        {key: measurement[key] for key in ("date", "machine")},
    )
    if arguments.json:
        print(json.dumps(_as_json(estimate), indent=2, sort_keys=True))
    else:
        print("\n".join(_as_text(estimate)))


def _as_json(estimate: PlanEstimate) -> dict[str, Any]:
    made, machine = estimate.plan, estimate.machine
    stages = [
        {
            "stage": stage.name,
            "inputs": stage.inputs,
            "disk_bytes": round(stage.disk),
            "hours": stage.hours(machine),
            "jobs": min(machine.jobs, stage.units),
            "hours_a_job": stage.hours(machine, machine.jobs),
            "gpu_hours": stage.gpu,
            "money": stage.money(machine, estimate.assumed, machine.jobs),
        }
        for stage in made.stages
    ]
    return {
        "cohort": asdict(estimate.cohort),
        "machine": asdict(machine),
        "stages": stages,
        "store": made.store,
        "memory_bytes": made.memory,
        "disk_bytes": made.disk,
        "cache_bytes": made.cache,
        "hours": made.hours(machine),
        "hours_spread": made.hours_spread(machine),
        "money": {"machines": _machine_money(estimate), "disk": estimate.disk_money},
        "assumed": estimate.assumed,
        "measured": estimate.measurement,
    }


def _machine_money(estimate: PlanEstimate) -> float:
    machine = estimate.machine
    return sum(stage.money(machine, estimate.assumed, machine.jobs) for stage in estimate.plan.stages)


def _as_text(estimate: PlanEstimate) -> Iterator[str]:
    made, known, machine, assumed = estimate.plan, estimate.cohort, estimate.machine, estimate.assumed
    origins = known.origins
    yield (
        f"{known.slides:,} slide{'s' * (known.slides != 1)} ({origins['slides']}), {format_bytes(known.slide_bytes)} "
        f"({origins['bytes']}), {known.patches:,} patches ({origins['patches']})"
    )
    yield (
        f"{machine.jobs} machine{'s' * (machine.jobs > 1)} of {machine.cores} core{'s' * (machine.cores > 1)}, as "
        f"fast as the measured machine ({estimate.measurement['machine']}, {estimate.measurement['date']})\n"
    )
    head = ("stage", "inputs", "disk", "hours", "jobs", "hours a job", "USD")
    rows = [
        (
            stage.name,
            stage.inputs,
            format_bytes(stage.disk),
            format_hours(stage.hours(machine)),
            str(min(machine.jobs, stage.units)),
            format_hours(stage.hours(machine, machine.jobs)),
            f"{stage.money(machine, assumed, machine.jobs):,.2f}",
        )
        for stage in made.stages
    ]
    rows.append(
        (
            "all",
            "",
            format_bytes(made.disk),
            format_hours(made.hours(machine)),
            str(machine.jobs),
            format_hours(made.hours_spread(machine)),
            f"{_machine_money(estimate):,.2f}",
        )
    )
    yield _table([head, *rows], "llrrrrr")
    yield (
        f"\nDVC's cache holds {format_bytes(made.cache)} of it a second time, unless the file system shares blocks; "
        f"both for {assumed['months']:g} month{'s' * (assumed['months'] != 1)}: {estimate.disk_money:,.2f} USD"
    )
    yield "\nthe patch store"
    yield _table(_store_rows(made.store), "lll")
    yield "\nmemory, beside about 0.5 GB of libraries"
    yield _table([(f"  {name}", format_bytes(size)) for name, size in made.memory.items()], "ll")
    yield "\nnot counted: inventory, codecs, compare, register (seconds to minutes); machines waiting for each other"
    yield "\nassumed (an option changes each: histocae plan --help)"
    for name, entry in figures.assumed().items():
        if name not in estimate.chosen:
            yield f"  {name} {assumed[name]:g} {entry['unit']}: {entry['origin']}"


def _store_rows(store: dict[str, float]) -> list[tuple[str, str, str]]:
    return [
        ("  shards", f"{store['shards']:,.0f}", f"{format_bytes(store['array_bytes'])} of patches"),
        (
            "  index",
            f"{store['index_rows']:,.0f} rows",
            f"{format_bytes(store['index_bytes'])}, and as much as "
            f"{format_bytes(store['shard_table_bytes'])} in the shards' own tables",
        ),
        ("  split", f"{store['index_rows']:,.0f} rows", format_bytes(store["split_bytes"])),
        (
            "  a job",
            f"{store['job_slides']:,.0f} slides",
            f"{store['job_patches']:,.0f} patches and rows, "
            f"{format_bytes(store['job_bytes'])} (of {store['jobs']:,.0f})",
        ),
        (
            "  DVC hashes and caches it",
            f"{format_hours(store['hash_seconds'] / HOUR)} h",
            f"and checks its {store['files']:,.0f} files in {store['look_seconds']:,.1f} s",
        ),
    ]


def format_hours(value: float) -> str:
    """Return hours with as many digits as an estimate is worth."""
    if value >= 1:
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
    return f"{value:.3f}" if value >= LEAST_HOURS or value == 0 else f"<{LEAST_HOURS}"


def _table(rows: Sequence[Sequence[str]], sides: str) -> str:
    """Lay rows out in columns; `sides` has l (left) or r (right) for each column."""
    from tabulate import tabulate

    align = [{"l": "left", "r": "right"}[side] for side in sides]
    text = tabulate(rows, tablefmt="plain", colalign=align, disable_numparse=True, preserve_whitespace=True)
    return "\n".join(line.rstrip() for line in text.splitlines())
