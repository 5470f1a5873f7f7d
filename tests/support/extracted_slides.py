"""A slide that a test writes, and the report on the extraction of its patches."""

import os
import time
from pathlib import Path

import numpy as np
import openslide
import pandas as pd

from histocae.params import Bounds
from histocae.patches import shards
from histocae.patches.shard_record import ShardRecord, ShardTask
from histocae.slides.budget import Budget
from histocae.stages.slides import SlideToCheck
from histocae.stages.slides import _check as check
from support.make_data import write_slide
from support.workspace import Workspace, slide_row

EXTRACTION = ("inventory", "metadata", "slides", "patches")
REASONS = [
    "kept",
    "excluded",
    "pen",
    "blur",
    "fold",
    "debris",
    "pale",
    "background",
    "border",
    "capped",
    "unread",
    "dropped",
]


def only_slide(project: Workspace, image: np.ndarray, mpp: float | None, **options: object) -> Path:
    """Write the only slide of the project, a.tif."""
    path = write_slide(project.own / "a.tif", image, mpp, **options)
    project.table([slide_row("a")])
    return path


def counts(project: Workspace) -> pd.DataFrame:
    return project.read("reports/patching/counts.csv").set_index("slide_id")


def hang(seconds: float) -> None:
    """Hang as a decoder may, within a slide's time of so many seconds."""
    with Budget(Bounds(seconds=seconds, gigabytes=1, patches=1, expansion=1)):
        time.sleep(600)


def open_and_hang(task: SlideToCheck | ShardTask) -> object:
    """Do a task on a slide whose opening hangs."""
    openslide.OpenSlide = lambda path: time.sleep(600)
    return check(task) if isinstance(task, SlideToCheck) else task.settled()


def extract_or_die(task: ShardTask) -> ShardRecord:
    """Extract the patches of a slide; at the slide `bad` the process dies, as if a decoder crashed."""
    if task.slide_id == "bad":
        os._exit(11)
    return shards.make_shard(task)
