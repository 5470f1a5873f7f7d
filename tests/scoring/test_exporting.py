"""`histocae score --export`: files of the user, slides without latents, and what is in memory."""

import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from histocae.scoring import command, exporting
from support import registered
from support.registered import Registered
from support.workspace import Result
from support.workspace import command as run


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Registered:
    """A project with registered models, which tests only read."""
    with pytest.MonkeyPatch.context() as patch:
        return registered.make(tmp_path_factory.mktemp("registered") / "project", patch)


@pytest.fixture(autouse=True)
def empty(project, tmp_path, monkeypatch, in_process) -> None:
    """An empty working directory; the environment names the project's tracking server."""
    registered.enter(project, monkeypatch)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setattr(command, "_MODELS", {})


def score(project: Registered, *words: str) -> Result:
    slides = [str(project.own / f"{word}.tif") if word in ("s0", "s1", "s2") else word for word in words]
    return run(" ".join(["score", *slides, "--model histocae-all"]))


@pytest.mark.parametrize("name", ["h5_stamp/mine/notes.txt", "h5_stamp/mine.h5"])
def test_a_file_of_the_user_in_the_folder_of_a_form_is_refused_before_anything_is_scored(project, name):
    assert score(project, "s0", "--export stamp").code == 0
    path = Path("scores", name)
    path.parent.mkdir(exist_ok=True)
    path.write_text("a user's own")
    message = score(project, "s1", "--export stamp").error
    assert f"h5_stamp/{name.split('/')[1]}: exists, was not written by histocae" in message and "by --out" in message
    assert path.read_text() == "a user's own" and not Path("scores/s1").exists()
    assert Path("scores/h5_stamp/s0.h5").exists()


@pytest.mark.parametrize("form", ["h5ad", "parquet"])
def test_a_file_of_the_user_with_the_name_of_a_form_is_refused(project, form):
    path = Path(f"scores/latents.{form}")
    assert score(project, "s0").code == 0
    path.write_text("a user's own")
    assert f"{path}: exists, was not written by histocae" in score(project, "s1", "--export all").error
    assert path.read_text() == "a user's own"


def test_exports_are_replaced_by_those_of_more_slides(project):
    for name in ("s0", "s1"):
        assert score(project, name, "--export all").code == 0
    assert sorted(path.name for path in Path("scores/h5_files").iterdir()) == ["s0.h5", "s1.h5"]
    file = pq.ParquetFile("scores/latents.parquet")
    assert file.num_row_groups == 2 and set(pd.read_parquet("scores/latents.parquet")["slide_id"]) == {"s0", "s1"}


def test_slides_without_latents_are_named(project):
    assert score(project, "s0").code == 0
    result = score(project, "s1", "--export parquet")
    assert result.code == 0
    expected = "latents.parquet lacks 1 slide, scored without latents: s0; give it again"
    assert [line for line in result.lines if line.endswith(expected)]
    assert set(pd.read_parquet("scores/latents.parquet")["slide_id"]) == {"s1"}
    assert not [line for line in score(project, "s0", "--export parquet").lines if "lack" in line]
    assert set(pd.read_parquet("scores/latents.parquet")["slide_id"]) == {"s0", "s1"}


def test_several_slides_without_latents_are_named_once_for_all_forms(project):
    assert score(project, "s0", "s1").code == 0
    lines = score(project, "s2", "--export h5 --export parquet").lines
    expected = "latents.parquet, h5_files lack 2 slides, scored without latents: s0; s1; give them again"
    assert [line for line in lines if "lack" in line and line.endswith(expected)]


def test_latents_of_one_slide_at_a_time_are_in_memory(project, monkeypatch):
    alive, counts, read = [], [], exporting._latents

    def watched(result: object) -> np.ndarray:
        latents = read(result)
        alive[:] = [reference for reference in alive if reference() is not None] + [weakref.ref(latents)]
        counts.append(len(alive))
        return latents

    monkeypatch.setattr(exporting, "_latents", watched)
    assert score(project, "s0", "s1", "s2", "--export all").code == 0
    assert counts == [1] * 12  # three slides in four forms
