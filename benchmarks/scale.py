"""Measure small versions of each stage at several sizes, and fit the coefficients of `histocae plan`.

    python benchmarks/scale.py            # under eight minutes on two idle cores: scale.json, its copy, docs/scale.md
    python benchmarks/scale.py --quote    # only docs/scale.md, from scale.json and cohort_scale.json

The time of each kind of work is a sum of amounts times coefficients (`histocae.planning.model`). Non-negative least
squares of relative errors over the medians of the rounds give the coefficients; fits to single rounds give their
spread. One configuration of each kind is held out, and the error of the fit there is reported.
"""

import argparse
import datetime
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import FOLDER, machine
from scale_fit import ABOUT, Fit

from histocae.files import read_json, write_json, write_text
from histocae.planning import figures, model

OUT = FOLDER / "scale.json"
SIMULATED = FOLDER / "cohort_scale.json"
DOCS = FOLDER.parent / "docs" / "scale.md"


def quote() -> None:
    """Write the measurements, and the plans based on them, into the docs."""
    told = read_json(OUT)
    parts = {"coefficients": _coefficients(told), "held out": _held_out(told)}
    if SIMULATED.is_file():
        parts["simulated"] = _simulated(read_json(SIMULATED))
    script = Path(sys.executable).with_name("histocae")
    text = DOCS.read_text(encoding="utf-8")
    for command in re.findall(r"<!-- plan (.*?) -->", text):
        asked = [script, "plan", *command.split()]
        done = subprocess.run(asked, cwd=FOLDER.parent, check=True, capture_output=True, text=True)
        parts[f"plan {command}"] = f"```\n$ histocae plan {command}\n{done.stdout}```\n"
    for name, part in parts.items():
        block = re.compile(rf"(?<=<!-- {re.escape(name)} -->\n).*?(?=<!-- end -->)", re.DOTALL)
        text = block.sub(lambda _, part=part: part, text, count=1)  # an empty block would match twice
    write_text(text, DOCS)


def _coefficients(told: dict) -> str:
    rows = ["| coefficient | value | single rounds | |", "|---|---|---|---|"]
    for name in ABOUT:
        one = told["coefficients"][name]
        spread = f"{one['low']:.3g} to {one['high']:.3g}" if one["low"] != one["high"] else ""
        rows.append(f"| {name} | {one['value']:.3g} | {spread} | {one['of']} |")
    return "\n".join(rows) + f"\n\nMeasured {told['date']} on {told['machine']}, in {told['minutes']:.0f} minutes.\n"


def _held_out(told: dict) -> str:
    rows = ["| held out | measured | predicted | ratio |", "|---|---|---|---|"]
    for one in told["held_out"]:
        ratio = one["predicted"] / one["measured"]
        rows.append(f"| {one['what']} | {one['measured']:.3g} | {one['predicted']:.3g} | {ratio:.2f} |")
    return "\n".join(rows) + "\n"


def _simulated(told: dict) -> str:
    """Describe the steps of the drawn cohort, as measured and as planned."""
    slides, rows = told["slides"], told["patches"]
    learnt = 0.8  # share of the patches in train and validation; the rest is test
    terms = {
        "metadata": {"metadata_slide": slides},
        "patches": model.indexing(slides, rows),
        "split": model.splitting(slides, rows),
        "read": model.reading(slides * learnt, rows * learnt),
    }
    values = {name: one["value"] for name, one in read_json(OUT)["coefficients"].items()}
    said = {step: f"{model.total(values, one):.0f}" for step, one in terms.items()}
    limit = f"each process held to {told['limit_bytes'] / 2**30:g} GiB" if told["limit_bytes"] else "without a limit"
    lines = ["| step | seconds | predicted | most anonymous memory, MiB | outcome |", "|---|---|---|---|---|"]
    form = "| {step} | {seconds} | {said} | {anonymous_mib} | {outcome} |"
    lines += [form.format(said=said.get(one["step"], ""), **one) for one in told["steps"]]
    return "\n".join(lines) + (
        f"\n\n{told['slides']:,} slides of {told['cases']:,} cases, {told['patches']:,} patches; the index has "
        f"{told['index_bytes'] / 1e9:.1f} GB, the split {told['split_bytes'] / 1e9:.1f} GB; {limit}; "
        f"{told['machine']}.\n"
    )


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--quote", action="store_true", help="make the docs anew, and measure nothing")
    if not asked.parse_args().quote:
        import scale_parts  # imports Keras and the slide reader, which the docs do not need

        fit, start = Fit(), time.perf_counter()
        for part in scale_parts.ALL:
            with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
                begun = time.perf_counter()
                part(fit, Path(folder))
                print(f"{part.__name__}: {time.perf_counter() - begun:.0f} s", flush=True)
        told = {
            "coefficients": {name: fit.coefficients[name] for name in ABOUT if name in fit.coefficients},
            "held_out": fit.held_out,
            "fitted": fit.samples,
            "machine": machine(),
            "cores": scale_parts.cores(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "minutes": round((time.perf_counter() - start) / 60, 1),
        }
        write_json(told, OUT)
        shutil.copyfile(OUT, figures.MEASURED)
    quote()


if __name__ == "__main__":
    main()
