"""The command plan: tells what a run will take, and changes and writes nothing."""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from histocae.params import Params
from histocae.planning import cohort, figures, options, plan
from histocae.planning.stage import HOUR, Machine, Plan

UNITS = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
LEAST_HOURS = 0.001  # that are told as a number
WORDS = 2  # columns that stand to the left
ASKED = ("slides", "patches_per_slide", "slide_mb")


def run(params: Params, given: argparse.Namespace) -> None:
    """Print the plan for params and options.

    Raises:
        ParamsError: an option is no number, or out of its range.
        DataError: nothing tells the number of slides, or an output of a stage is damaged.

    """
    chosen = options.numbers(given)
    assumed = {name: chosen.get(name, one["value"]) for name, one in figures.assumed().items()}
    told = figures.measured()
    measured = {name: one["value"] for name, one in told["coefficients"].items()}
    known = cohort.known(params, {name: chosen[name] for name in ASKED if name in chosen}, assumed)
    machine = Machine(chosen.get("cores", _cores()), chosen.get("jobs", 1), chosen.get("gpu_patches_per_s"))
    made = plan.make(params, known, measured, assumed, machine)
    if given.json:
        print(json.dumps(_as_json(made, known, machine, assumed, told), indent=2, sort_keys=True))
    else:
        print("\n".join(_as_text(made, known, machine, assumed, chosen, told)))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _as_json(made: Plan, known: cohort.Known, machine: Machine, assumed: dict[str, float], told: dict) -> dict:
    stages = [
        {
            "stage": one.name,
            "things": one.things,
            "disk_bytes": round(one.disk),
            "hours": one.hours(machine),
            "jobs": min(machine.jobs, one.units),
            "hours_a_job": one.hours(machine, machine.jobs),
            "gpu_hours": one.gpu,
            "money": one.money(machine, assumed, machine.jobs),
        }
        for one in made.stages
    ]
    return {
        "cohort": asdict(known),
        "machine": asdict(machine),
        "stages": stages,
        "store": made.store,
        "memory_bytes": made.memory,
        "disk_bytes": made.disk,
        "cache_bytes": made.cache,
        "hours": made.hours(machine),
        "hours_spread": made.hours_spread(machine),
        "money": {"machines": sum(one["money"] for one in stages), "disk": _disk_money(made, assumed)},
        "assumed": assumed,
        "measured": {key: told[key] for key in ("date", "machine")},
    }


def _disk_money(made: Plan, assumed: dict[str, float]) -> float:
    return (made.disk + made.cache) / 1e9 * assumed["gb_month"] * assumed["months"]


def _as_text(
    made: Plan, known: cohort.Known, machine: Machine, assumed: dict[str, float], chosen: dict, told: dict
) -> Iterator[str]:
    origins = known.origins
    yield (
        f"{known.slides:,} slide{'s' * (known.slides != 1)} ({origins['slides']}), {amount(known.slide_bytes)} "
        f"({origins['bytes']}), {known.patches:,} patches ({origins['patches']})"
    )
    yield (
        f"{machine.jobs} machine{'s' * (machine.jobs > 1)} of {machine.cores} core{'s' * (machine.cores > 1)}, as "
        f"fast as those that were measured ({told['machine']}, {told['date']})\n"
    )
    head = ("stage", "things", "disk", "hours", "jobs", "hours a job", "USD")
    rows = [
        (
            one.name,
            one.things,
            amount(one.disk),
            hours(one.hours(machine)),
            str(min(machine.jobs, one.units)),
            hours(one.hours(machine, machine.jobs)),
            f"{one.money(machine, assumed, machine.jobs):,.2f}",
        )
        for one in made.stages
    ]
    paid = sum(one.money(machine, assumed, machine.jobs) for one in made.stages)
    rows.append(
        (
            "all",
            "",
            amount(made.disk),
            hours(made.hours(machine)),
            str(machine.jobs),
            hours(made.hours_spread(machine)),
            f"{paid:,.2f}",
        )
    )
    yield from _aligned([head, *rows])
    yield (
        f"\nDVC's cache has {amount(made.cache)} of it again, unless the file system shares blocks; to keep both for "
        f"{assumed['months']:g} month{'s' * (assumed['months'] != 1)}: {_disk_money(made, assumed):,.2f} USD"
    )
    yield from _of_store(made)
    yield "\nnot counted: inventory, compare and register (seconds to minutes), and machines that wait for each other"
    yield from _of_assumptions(assumed, chosen)


def _of_store(made: Plan) -> Iterator[str]:
    store = made.store
    yield "\nthe patch store"
    yield from _aligned(
        [
            ("  shards", f"{store['shards']:,.0f}", f"{amount(store['array_bytes'])} of patches"),
            (
                "  index",
                f"{store['index_rows']:,.0f} rows",
                f"{amount(store['index_bytes'])}, and as much as "
                f"{amount(store['shard_table_bytes'])} in the shards' own tables",
            ),
            ("  split", f"{store['index_rows']:,.0f} rows", amount(store["split_bytes"])),
            (
                "  a job",
                f"{store['job_slides']:,.0f} slides",
                f"{store['job_patches']:,.0f} patches and rows, "
                f"{amount(store['job_bytes'])} (of {store['jobs']:,.0f})",
            ),
            (
                "  DVC hashes and copies it in",
                f"{hours(store['hash_seconds'] / HOUR)} h",
                f"and looks at its {store['files']:,.0f} files in {store['look_seconds']:,.1f} s",
            ),
        ]
    )
    yield "\nmemory, beside about 0.5 GB of libraries"
    yield from _aligned([(f"  {name}", amount(size)) for name, size in made.memory.items()])


def _of_assumptions(assumed: dict[str, float], chosen: dict) -> Iterator[str]:
    yield "\nassumed (an option changes each: histocae plan --help)"
    for name, one in figures.assumed().items():
        if name not in chosen:
            yield f"  {name} {assumed[name]:g} {one['unit']}: {one['origin']}"


def amount(size: float) -> str:
    """Tell bytes in decimal units."""
    for unit, name in UNITS:
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:.0f} B"


def hours(value: float) -> str:
    """Tell hours, of little ones no more digits than they are worth."""
    if value >= 1:
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
    return f"{value:.3f}" if value >= LEAST_HOURS or value == 0 else f"<{LEAST_HOURS}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lay rows out in columns, the first two to the left and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if at < WORDS else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        if len(row) <= WORDS + 1:  # words stand last as well
            cells[-1] = row[-1]
        yield "  ".join(cells).rstrip()
