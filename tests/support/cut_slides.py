"""One slide of a test's making, and what extracting its patches reported."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from histocae.patches import shards
from support.make_data import write_slide
from support.workspace import Workspace, slide_row

CUT = ("inventory", "metadata", "slides", "patches")
REASONS = ["kept", "background", "border", "capped", "unread", "dropped"]


def only(project: Workspace, picture: np.ndarray, mpp: float | None, **how: object) -> Path:
    """Give the project one slide, a."""
    path = write_slide(project.own / "a.tif", picture, mpp, **how)
    project.table([slide_row("a")])
    return path


def counts(project: Workspace) -> pd.DataFrame:
    return project.read("reports/patching/counts.csv").set_index("slide_id")


def cut_or_die(task: shards.ShardTask) -> shards.ShardRecord:
    """Cut a slide, but die like a decoder that crashes on the slide `bad`."""
    if task.slide_id == "bad":
        os._exit(11)
    return shards.make_shard(task)
