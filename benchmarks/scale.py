"""Measure small versions of each stage at several sizes, and fit the coefficients of `histocae plan`.

    python benchmarks/scale.py            # under eight minutes on two idle cores: scale.json, its copy, docs/scale.md
    python benchmarks/scale.py --quote    # only docs/scale.md, from scale.json and cohort_scale.json

The time of each kind of work is a sum of amounts times coefficients (`histocae.planning.model`). Coefficients are
fitted to the medians of the rounds by non-negative least squares of relative errors. Fits to single rounds give their
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
from scale_fit import DESCRIPTIONS, Fit

from histocae.files import read_json, write_json, write_text
from histocae.planning import figures, model

OUT = FOLDER / "scale.json"
SIMULATED = FOLDER / "cohort_scale.json"
DOCS = FOLDER.parent / "docs" / "scale.md"


def quote() -> None:
    """Write the measurements, and the plans based on them, into the docs."""
    measured = read_json(OUT)
    blocks = {"coefficients": _coefficients(measured), "held out": _held_out(measured)}
    if SIMULATED.is_file():
        blocks["simulated"] = _simulated(read_json(SIMULATED))
    script = Path(sys.executable).with_name("histocae")
    text = DOCS.read_text(encoding="utf-8")
    for options in re.findall(r"<!-- plan (.*?) -->", text):
        command = [script, "plan", *options.split()]
        done = subprocess.run(command, cwd=FOLDER.parent, check=True, capture_output=True, text=True)
        blocks[f"plan {options}"] = f"```\n$ histocae plan {options}\n{done.stdout}```\n"
    for name, block in blocks.items():
        pattern = re.compile(rf"(?<=<!-- {re.escape(name)} -->\n).*?(?=<!-- end -->)", re.DOTALL)
        text = pattern.sub(lambda _, block=block: block, text, count=1)  # an empty block would match twice
    write_text(text, DOCS)


def _coefficients(measured: dict) -> str:
    rows = ["| coefficient | value | single rounds | |", "|---|---|---|---|"]
    for name in DESCRIPTIONS:
        estimate = measured["coefficients"][name]
        low, high = estimate["low"], estimate["high"]
        spread = f"{low:.3g} to {high:.3g}" if low != high else ""
        rows.append(f"| {name} | {estimate['value']:.3g} | {spread} | {estimate['of']} |")
    origin = f"Measured {measured['date']} on {measured['machine']}, in {measured['minutes']:.0f} minutes."
    return "\n".join(rows) + f"\n\n{origin}\n"


def _held_out(measured: dict) -> str:
    rows = ["| held out | measured | predicted | ratio |", "|---|---|---|---|"]
    for sample in measured["held_out"]:
        ratio = sample["predicted"] / sample["measured"]
        rows.append(f"| {sample['what']} | {sample['measured']:.3g} | {sample['predicted']:.3g} | {ratio:.2f} |")
    return "\n".join(rows) + "\n"


def _simulated(cohort: dict) -> str:
    """Describe the steps of a simulated cohort, as measured and as predicted."""
    slides, rows = cohort["slides"], cohort["patches"]
    read_share = 0.8  # of the patches: those of train and validation
    terms = {
        "metadata": {"metadata_slide": slides},
        "patches": model.indexing(slides, rows),
        "split": model.splitting(slides, rows),
        "read": model.reading(slides * read_share, rows * read_share),
    }
    values = {name: estimate["value"] for name, estimate in read_json(OUT)["coefficients"].items()}
    predicted = {step: f"{model.total(values, amounts):.0f}" for step, amounts in terms.items()}
    limit_bytes = cohort["limit_bytes"]
    limit = f"each process held to {limit_bytes / 2**30:g} GiB" if limit_bytes else "without a limit"
    lines = ["| step | seconds | predicted | most anonymous memory, MiB | outcome |", "|---|---|---|---|---|"]
    form = "| {step} | {seconds} | {predicted} | {anonymous_mib} | {outcome} |"
    lines += [form.format(predicted=predicted.get(step["step"], ""), **step) for step in cohort["steps"]]
    return "\n".join(lines) + (
        f"\n\n{slides:,} slides of {cohort['cases']:,} cases, {rows:,} patches; the index has "
        f"{cohort['index_bytes'] / 1e9:.1f} GB, the split {cohort['split_bytes'] / 1e9:.1f} GB; {limit}; "
        f"{cohort['machine']}.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quote", action="store_true", help="write docs/scale.md again, and measure nothing")
    if not parser.parse_args().quote:
        import scale_parts  # imports Keras and the slide reader, which --quote does not need

        fit, start = Fit(), time.perf_counter()
        for part in scale_parts.ALL:
            with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
                part_start = time.perf_counter()
                part(fit, Path(folder))
                print(f"{part.__name__}: {time.perf_counter() - part_start:.0f} s", flush=True)
        measured = {
            "coefficients": {name: fit.coefficients[name] for name in DESCRIPTIONS if name in fit.coefficients},
            "held_out": fit.held_out,
            "fitted": fit.samples,
            "machine": machine(),
            "cores": scale_parts.cores(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "minutes": round((time.perf_counter() - start) / 60, 1),
        }
        write_json(measured, OUT)
        shutil.copyfile(OUT, figures.MEASURED)
    quote()


if __name__ == "__main__":
    main()
