"""The report on the extraction of patches: counts of cells per slide, failures, and totals."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from histocae.files import write_json, write_table
from histocae.patches.labeling import Labeling
from histocae.patches.shard_record import ShardRecord
from histocae.patches.tissue import RULE

REASONS = ("kept", "excluded", "background", "border", "capped", "unread", "dropped")
LABELS = ("tumor", "normal", "unlabeled")


def write(
    folder: Path,
    records: Mapping[str, ShardRecord],
    labelings: Mapping[str, Labeling] | None,
    sample_types: Mapping[str, str],
    more: Mapping[str, Any],
) -> None:
    """Write counts.csv (a row per slide), failures.csv and summary.json.

    Args:
        folder: of the report.
        records: of all slides, by slide_id; their counts are those of the index.
        labelings: of the slides that have regions, by slide_id; None where no regions are given.
        sample_types: by slide_id.
        more: further entries of the summary.

    """
    rows = [_row(record, (labelings or {}).get(slide_id, Labeling())) for slide_id, record in records.items()]
    for row in rows:
        row["sample_type"] = sample_types[row["slide_id"]]
    counts = ("width", "height", "level", *LABELS)
    write_table(pd.DataFrame(rows).astype(dict.fromkeys(counts, "Int64")), folder / "counts.csv", separator=",")
    failures = [(record.slide_id, reason) for record in records.values() for reason in record.failures]
    write_table(pd.DataFrame(failures, columns=["slide_id", "reason"]), folder / "failures.csv", separator=",")
    totals: Counter[str] = Counter()
    for record in records.values():
        totals.update(record.counts)
    by_reason = {name: totals.get(name, 0) for name in REASONS}
    # the code of the rule is among the inputs of each shard: shards of earlier runs are of this rule, too
    summary = {"slides": len(records), "cells": sum(by_reason.values()), **by_reason, "tissue_rule": RULE, **more}
    if labelings is not None:
        summary["regions"] = _regions(records, labelings)
    write_json(summary, folder / "summary.json")


def _row(record: ShardRecord, labeling: Labeling) -> dict[str, Any]:
    return {
        "slide_id": record.slide_id,
        "sample_type": "",
        "width": record.width,
        "height": record.height,
        "level": record.level,
        "mpp": record.mpp,
        "mpp_from": record.mpp_from,
        "patch_mpp": record.patch_mpp,
        **{name: record.counts.get(name, 0) for name in REASONS},
        "labels_from": "regions" if labeling.by_regions else "slide",
        **{name: labeling.counts[name] if labeling.by_regions else None for name in LABELS},
    }


def _regions(records: Mapping[str, ShardRecord], labelings: Mapping[str, Labeling]) -> dict[str, int]:
    """Count the slides whose patches regions label, those that keep their label, and the patches by label."""
    by_regions = {slide_id for slide_id, labeling in labelings.items() if labeling.by_regions}
    kept = {slide_id for slide_id, record in records.items() if record.kept}
    patches = {name: sum(labelings[slide_id].counts[name] for slide_id in by_regions & kept) for name in LABELS}
    return {"slides": len(by_regions & kept), "slides_without": len(kept - by_regions), **patches}
