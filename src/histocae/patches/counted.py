"""The report on the extraction of patches: counts of cells per slide, failures, and totals."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from histocae.files import write_json, write_table
from histocae.params import Quality
from histocae.patches import choice, quality
from histocae.patches.choice import Choice
from histocae.patches.shard_record import ShardRecord
from histocae.patches.tissue import RULE

REASONS = ("kept", *choice.REASONS, "background", "border", "capped", "unread", "dropped")


def write(
    folder: Path,
    records: Mapping[str, ShardRecord],
    choices: Mapping[str, Choice],
    sample_types: Mapping[str, str],
    settings: Quality,
    more: Mapping[str, Any],
) -> None:
    """Write counts.csv (a row per slide), failures.csv and summary.json.

    Args:
        folder: of the report.
        records: of all slides, by slide_id; their counts are those of the index.
        choices: of their patches, by slide_id.
        sample_types: by slide_id.
        settings: the section `quality` of params.yaml.
        more: further entries of the summary.

    """
    rows = [_row(record, sample_types[slide_id], choices[slide_id]) for slide_id, record in records.items()]
    counts = ("width", "height", "level", *choice.LABELS)
    write_table(pd.DataFrame(rows).astype(dict.fromkeys(counts, "Int64")), folder / "counts.csv", separator=",")
    failures = [(record.slide_id, reason) for record in records.values() for reason in record.failures]
    write_table(pd.DataFrame(failures, columns=["slide_id", "reason"]), folder / "failures.csv", separator=",")
    totals: Counter[str] = Counter()
    flagged: Counter[str] = Counter()
    for slide_id, record in records.items():
        totals.update(record.counts)
        flagged.update(choices[slide_id].flagged)
    by_reason = {name: totals.get(name, 0) for name in REASONS}
    # the code of both rules is among the inputs of each shard: shards of earlier runs are of these rules, too
    of_quality = {
        "rule": quality.RULE,
        "thresholds": quality.thresholds(settings),
        "left_out": quality.left_out(settings),
    }
    rules = {"tissue_rule": RULE, "quality": of_quality}
    summary = {"slides": len(records), "cells": sum(by_reason.values()), **by_reason, "flagged": flagged, **rules}
    write_json({**summary, **more}, folder / "summary.json")


def _row(record: ShardRecord, sample_type: str, chosen: Choice) -> dict[str, Any]:
    labeling = chosen.labeling
    return {
        "slide_id": record.slide_id,
        "sample_type": sample_type,
        "width": record.width,
        "height": record.height,
        "level": record.level,
        "mpp": record.mpp,
        "mpp_from": record.mpp_from,
        "patch_mpp": record.patch_mpp,
        **{name: record.counts.get(name, 0) for name in REASONS},
        "labels_from": "regions" if labeling.by_regions else "slide",
        **{name: chosen.labels.get(name) for name in choice.LABELS},
        **{f"flagged_{fault}": count for fault, count in chosen.flagged.items()},
    }


def regions(records: Mapping[str, ShardRecord], choices: Mapping[str, Choice]) -> dict[str, int]:
    """Count the slides whose patches regions label, those that keep their label, and the patches by label.

    Args:
        records: of all slides, by slide_id, as the index has them.
        choices: of their patches, by slide_id.

    Returns:
        slides, slides_without, tumor, normal, unlabeled.

    """
    kept = [choices[slide_id] for slide_id, record in records.items() if record.kept]
    labels = [chosen.labels for chosen in kept if chosen.labels]
    patches = {name: sum(each[name] for each in labels) for name in choice.LABELS}
    return {"slides": len(labels), "slides_without": len(kept) - len(labels), **patches}
