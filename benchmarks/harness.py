"""Time several ways of doing the same work in turn, and write the figures to results.json and the README.

Absolute times depend on the machine and on its other work. The figures are therefore ratios of medians of ways that
ran in turn (A B C A B C ...) in one process tree.
"""

import contextlib
import datetime
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from histocae.files import write_json, write_text

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.json"
README = FOLDER / "README.md"
TABLE = re.compile(r"(?<=<!-- figures -->\n).*?(?=<!-- end of figures -->)", re.DOTALL)


def in_turn(
    ways: dict[str, Callable[[], Any]], rounds: int, work: float = 1.0, unit: str = "runs", warm: int = 1
) -> dict[str, float]:
    """Time every way once per round, in the order of `ways`, and print the work per second of each.

    Args:
        ways: functions by name. A function that returns a float is taken to have measured its own seconds,
            for example without its preparation or in a child process.
        rounds: number of rounds that count.
        work: amount of work of one call.
        unit: of the work.
        warm: number of rounds before these, which do not count.

    Returns:
        The median seconds of each way.

    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-warm, rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            result = way()
            elapsed = result if isinstance(result, float) else time.perf_counter() - start
            if number >= 0:
                seconds[name].append(elapsed)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"\n{rounds} rounds in turn, medians (least to most)")
    for name, values in seconds.items():
        low, high = work / max(values), work / min(values)
        print(f"  {name:34s} {work / medians[name]:12,.4g} {unit}/s  ({low:,.4g} to {high:,.4g})")
    return medians


def record(
    name: str, value: float, goal: float, better: str, compared: str, unit: str = "ratio", reason: str | None = None
) -> None:
    """Write a figure to results.json.

    Args:
        name: of the figure.
        value: of the figure.
        goal: value to reach.
        better: higher | lower.
        compared: description of the comparison.
        unit: of value and goal.
        reason: why the goal is missed, with measurements as evidence; written only where the goal is missed.

    """
    met = value >= goal if better == "higher" else value <= goal
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"figures": {}}
    results["figures"][name] = {
        "value": float(f"{value:.4g}"),
        "goal": goal,
        "better": better,
        "unit": unit,
        "compared": compared,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        **({} if met else {"reason": reason}),
    }
    results["figures"] = dict(sorted(results["figures"].items()))
    write_json(results, RESULTS)
    sign = ">=" if better == "higher" else "<="
    print(f"{name}: {value:.4g} {unit} (goal {sign} {goal:g}: {'met' if met else 'MISSED'})")
    if not met:
        print(f"  {reason or 'no reason is known'}")


def machine() -> str:
    """Describe the machine and the version of Python."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, TypeError):
        cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))[1]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cpu}, {cores} cores, Python {platform.python_version()}"


def quote() -> None:
    """Write the figures into the table of the README."""
    text = README.read_text(encoding="utf-8")
    write_text(TABLE.sub(lambda _: table(), text), README)


def table() -> str:
    """Format the figures as the README's table."""
    figures = json.loads(RESULTS.read_text(encoding="utf-8"))["figures"]
    rows = ["| figure | value | goal | compared | measured |", "|---|---|---|---|---|"]
    reasons, footnotes = [], 0
    for name, figure in figures.items():
        sign = ">=" if figure["better"] == "higher" else "<="
        mark = ""
        if "reason" in figure:
            footnotes += 1
            mark = f" (missed: {footnotes})"
            reasons.append(f"{footnotes}. {name}: {figure['reason']}")
        rows.append(
            f"| {name} | {figure['value']:g}{'' if figure['unit'] == 'ratio' else ' ' + figure['unit']}{mark} "
            f"| {sign} {figure['goal']:g} | {figure['compared']} | {figure['date']}, {figure['machine']} |"
        )
    return "\n".join(rows) + "\n" + ("\n" + "\n".join(reasons) + "\n" if reasons else "")


if __name__ == "__main__":
    quote()
