"""Which pair of autoencoders distinguishes tumor from normal best, and by which score?

    python benchmarks/decide.py ../shared/data

Cases are divided into five folds, three times. Every pair is trained on three folds of the first deal of each data
set, and the best ones on all folds of all deals. Everything is chosen on the validation cases of a fold, and measured
on its test cases. The scores are kept in
.histocae/decide, so that a study that was interrupted goes on.

Writes benchmarks/decide.json, and the tables and the figure of docs/studies/pair.md.
"""

import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import decide_measures
import decide_pairs
import decide_tables

from histocae.files import write_json

RESULTS = Path(__file__).with_name("decide.json")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value


def measure_all(chosen: dict[str, list[decide_pairs.Configuration]]) -> dict[str, dict[str, Any]]:
    """Measure each data set, with the pairs that were trained on all deals, a process for each core."""
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0))) as pool:
        return dict(zip(chosen, pool.starmap(decide_measures.measure, chosen.items(), chunksize=1), strict=True))


def main(source: Path, data: list[str]) -> None:
    """Train, measure, and write the results, the tables and the figure."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    # TensorFlow uses oneDNN by itself only on newer processors; on others, it saves a third for plain and compact
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    for each in data:
        decide_pairs.prepare(each, source)
    first = [
        *decide_pairs.tasks(data, 1, decide_pairs.COARSE, decide_pairs.GRID),
        *decide_pairs.tasks(data[:1], 1, decide_pairs.COARSE, decide_pairs.LOSSES),
    ]
    decide_pairs.run(first, "all pairs")
    chosen = {each: decide_measures.finalists(each) for each in data}
    more = [
        task
        for each, pairs in chosen.items()
        for task in decide_pairs.tasks(
            [each], decide_measures.DEALS, decide_pairs.FOLDS, decide_measures.with_always(pairs)
        )
    ]
    decide_pairs.run(more, "finalists")
    results = _rounded(measure_all(chosen))
    results[data[0]]["losses"] = _rounded(decide_measures.measure_losses(data[0]))
    write_json(results, RESULTS)
    decide_tables.quote(results)
    decide_tables.plot(results, decide_tables.DOCUMENT.with_suffix(".png"))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), list(decide_pairs.DATA))
