"""The page of scored slides: one HTML file with the table of slides, their heatmaps and the caveats."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from histocae.contrast.contract import PAIR
from histocae.report.page import render
from histocae.scoring.model import Source
from histocae.scoring.results import HEATMAP, THUMBNAIL, Result

MOST_FIGURES = 60  # a page with more becomes too large to send; the folders have all
MOST_ROWS = 2000


def page(results: Sequence[Result], aside: pd.DataFrame, source: Source) -> str:
    """Render the page.

    Args:
        results: of the slides.
        aside: slide_id, file and reason of the slides that were set aside.
        source: of the model.

    Returns:
        HTML that needs no other file.

    """
    contract = source.contract
    measure = "score" if contract.kind == PAIR else "error"
    ordered = sorted(results, key=lambda result: -result.summary[measure])
    shown = ordered[:MOST_FIGURES]
    return render(
        "scores.html",
        source=source,
        contract=contract,
        is_pair=contract.kind == PAIR,
        slides=[_row(result, in_figures=result in shown) for result in ordered[:MOST_ROWS]],
        count=len(ordered),
        warned=sum(bool(result.summary["warnings"]) for result in ordered),
        figures=[(result.summary["slide_id"], result.folder / HEATMAP) for result in shown],
        aside=aside.to_dict("records"),
        threshold=None if contract.levels is None else contract.levels.slide.threshold,
    )


def _row(result: Result, in_figures: bool) -> dict[str, Any]:
    image = result.folder / THUMBNAIL if in_figures else None
    return {**result.summary, "image": image, "number": result.summary["slide_id"] if in_figures else None}
