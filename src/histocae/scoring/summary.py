"""The tables of scores: a row per slide in slides.csv, and a row per patch in patches.parquet."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from histocae.contrast.contract import PAIR, SINGLE
from histocae.patches.store import MEASURES
from histocae.scoring.flagging import FLAGS
from histocae.scoring.model import Model
from histocae.scoring.remarks import remarks
from histocae.scoring.scored import Scored

# then what the model adds
KEPT = ("slide_id", "file", "x", "y", "width", "mpp", "tissue_share", *MEASURES, FLAGS)
# columns of slides.csv in their order; each where a slide has it, and of the last ones always
DESCRIBED = ("slide_id", "case_id", "sample_type")
COUNTS = ("patches", "left_out", "flagged")
MEASURED = {PAIR: ("score", "probability", "class", *COUNTS, "tumor_share"), SINGLE: ("error", *COUNTS)}


def columns(scored: Scored) -> pd.DataFrame:
    """Return the table of a slide's patches, with the columns in the order of patches.parquet.

    Args:
        scored: the slide.

    Returns:
        A row per patch.

    """
    table = scored.patches.drop(columns=["row", "column"])
    first = [name for name in KEPT if name in table]
    return table[first + [name for name in table if name not in KEPT]]


def summarize(scored: Scored, model: Model) -> dict[str, Any]:
    """Return the row of a slide in slides.csv.

    Args:
        scored: the slide.
        model: that scored it.

    Returns:
        The row, in the order of the columns, with its warnings as a list.

    """
    table = scored.patches
    row: dict[str, Any] = {"slide_id": scored.given.slide_id, **dict(scored.given.metadata)}
    counts = {
        "patches": len(table),
        "left_out": sum(scored.patches_left_out.values()),
        "flagged": int((table[FLAGS] != "").sum()),
    }
    if "score" in table:
        mean = float(table["score"].mean())  # as `comparison.by_level`
        decided = {name: values[0] for name, values in model.decide("slide", np.array([mean])).items()}
        called = float((table["class"] == model.contract.classes[0]).mean()) if model.contract.classes else None
        row |= {
            "score": mean,
            "probability": float(decided["probability"]),
            "class": str(decided["class"]),
            **counts,
            "tumor_share": called,
        }
    else:
        row |= {"error": float(table["error"].mean()), **counts}
    return {**row, "warnings": remarks(scored, model.contract)}


def in_order(summary: dict[str, Any]) -> dict[str, Any]:
    """Put a row of slides.csv into the order of its columns."""
    columns = (*DESCRIBED, *MEASURED[PAIR if "score" in summary else SINGLE], "warnings")
    return {name: summary[name] for name in columns if name in summary}


def table_of(summaries: Iterable[dict[str, Any]], kind: str) -> pd.DataFrame:
    """Give slides.csv: a row per slide, with its warnings in one cell.

    Args:
        summaries: of the slides, see `summarize`; there may be none.
        kind: of the model.

    Returns:
        The table; a column that describes slides is there if one of them has it.

    """
    rows = [{**summary, "warnings": "; ".join(summary["warnings"])} for summary in summaries]
    described = [name for name in DESCRIBED[1:] if any(name in row for row in rows)]
    return pd.DataFrame(rows, columns=[DESCRIBED[0], *described, *MEASURED[kind], "warnings"])
