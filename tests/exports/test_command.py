"""The command export, on outputs of the pipeline whose latents and scores are known."""

import json
import shutil
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from histocae import checksums
from histocae.networks import saved
from support import make_data
from support.make_data import NORMAL, TUMOR
from support.workspace import ALL_STAGES, Workspace

NETWORK = {"filters": [2], "latent_features": 3}
MODELS = {
    "map": {"cohort": "all", "filters": [2], "latent_features": None},
    "all": {"cohort": "all", **NETWORK},
    "tumor": {"cohort": "tumor", **NETWORK},
    "normal": {"cohort": "normal", **NETWORK},
}
SPLITS = {"train": None, "validation": "per_patch_validation", "test": "per_patch"}
THRESHOLD = 0.25
FORMS = {"latents.h5ad", "latents.parquet", "slides.csv", "h5_files", "h5_stamp"}


def evaluated(project: Workspace, name: str, features: int | None) -> None:
    """Write what the stages train and evaluate leave of a model: random latents and errors, no network."""
    trained, reports = Path("models/trained") / name, Path("reports/models") / name / "evaluation"
    latents = Path("models/latents") / name
    for folder in (trained, reports, latents):
        folder.mkdir(parents=True)
    for file in (saved.ENCODER_FILE, saved.DECODER_FILE):
        (trained / file).write_text(name)
    record = make_data.training_record(trained, name, latent_features=features, latent_size=3)
    rng = np.random.default_rng(len(name))
    for split, file in SPLITS.items():
        rows = project.read(f"data/splits/{split}.csv")
        if features:
            np.save(latents / f"{split}.npy", rng.normal(size=(len(rows), features)).astype(np.float32))
        if file:
            keys = rows[["slide_id", "case_id", "sample_type", "shard", "position"]]
            keys.assign(mse=rng.random(len(rows))).to_csv(reports / f"{file}.csv", index=False)
    results = {"weights": record["weights"], "metrics": make_data.METRICS}
    (reports / "metrics.json").write_text(json.dumps(results))
    (latents / "latents.json").write_text(
        json.dumps({"model": name, "weights": record["weights"], "features": features})
    )
    checksums.write(latents)


def compared(project: Workspace) -> None:
    """Write what the stage tissue leaves of the scores of test patches."""
    rows, rng, folder = project.read("data/splits/test.csv"), np.random.default_rng(9), Path("reports/tissue")
    folder.mkdir(parents=True)
    columns = ("error_tumor", "error_normal", "log_ratio", "score", "probability")
    scores = rows[["slide_id", "case_id", "sample_type", "shard", "position"]]
    scores.assign(**{name: rng.random(len(rows)) for name in columns}).to_csv(folder / "scores.csv", index=False)
    weights = {
        tissue: json.loads(Path(f"models/trained/{tissue}/training.json").read_text())["weights"]
        for tissue in ("tumor", "normal")
    }
    thresholds = dict.fromkeys(("patch", "slide", "case"), THRESHOLD)
    pair = {"tumor": "tumor", "normal": "normal"}
    (folder / "metrics.json").write_text(json.dumps({"pair": pair, "weights": weights, "threshold": thresholds}))


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Workspace:
    """A project of six slides, one of an odd name, with models that look evaluated."""
    project = Workspace(tmp_path_factory.mktemp("template"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.folder)
        names = ["0012", "b c", "c~d", "d", "e", "f"]
        project.slides(*names, mpp=0.25)
        project.params(models=MODELS, tissue__latents=None)
        project.make(*ALL_STAGES)
        for name, model in MODELS.items():
            evaluated(project, name, model["latent_features"])
        compared(project)
    return project


@pytest.fixture
def copied(template, tmp_path, monkeypatch) -> Workspace:
    """A copy of the project, as the working directory."""
    shutil.copytree(template.folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    project = Workspace.__new__(Workspace)
    project.folder, project.own = tmp_path / "copy", tmp_path / "copy" / "own"
    return project


def test_all_forms_have_the_latents_of_all_splits_with_positions_and_scores(copied):
    result = copied.run("export")
    assert result.code == 0, result.lines
    folder = copied.folder / "exports" / "all"  # the first model with latents
    assert {path.name for path in folder.iterdir()} == FORMS
    rows = pd.concat(
        [copied.read(f"data/splits/{split}.csv").assign(split=split) for split in SPLITS], ignore_index=True
    )
    rows["slide_id"] = [f"{int(name):04}" if str(name).isdigit() else name for name in rows["slide_id"]]
    latents = np.concatenate([np.load(f"models/latents/all/{split}.npy") for split in SPLITS])
    data = anndata.read_h5ad(folder / "latents.h5ad")
    np.testing.assert_array_equal(data.X, latents)
    for name, column in (
        ("slide_id", "slide_id"),
        ("case_id", "case_id"),
        ("label", "sample_type"),
        ("split", "split"),
    ):
        assert list(data.obs[name]) == list(rows[column])
    for name in ("x", "y", "mpp", "tissue_share"):
        np.testing.assert_array_equal(data.obs[name], rows[name])
    assert (data.obs["width"] == 64).all()  # 32 pixels of 0.5 um, of slides with 0.25 um a pixel
    np.testing.assert_array_equal(data.obsm["spatial"], rows[["x", "y"]] + 32)

    train, test = rows["split"] == "train", rows["split"] == "test"
    assert data.obs["error"][train.to_numpy()].isna().all()
    expected = copied.read("reports/models/all/evaluation/per_patch.csv")["mse"]
    np.testing.assert_array_equal(data.obs["error"][test.to_numpy()], expected)
    scores = copied.read("reports/tissue/scores.csv")
    for name in ("error_tumor", "error_normal", "log_ratio", "score", "probability"):
        np.testing.assert_array_equal(data.obs[name][test.to_numpy()], scores[name])
        assert data.obs[name][~test.to_numpy()].isna().all()
    called = [TUMOR if score >= THRESHOLD else NORMAL for score in scores["score"]]
    assert list(data.obs["class"][test.to_numpy()]) == called and len(set(called)) == 2

    parquet = pd.read_parquet(folder / "latents.parquet")
    np.testing.assert_array_equal(np.stack(parquet["latent"]), latents)
    assert list(parquet["slide_id"]) == list(rows["slide_id"])

    slides = pd.read_csv(folder / "slides.csv", dtype=str)
    assert sorted(slides["slide_id"]) == ["0012", "b c", "c~d", "d", "e", "f"]
    assert slides["case_id"].is_monotonic_increasing  # STAMP would lose slides of a case between those of others
    assert slides.set_index("slide_id").loc["0012", "file"] == "0012.h5"
    assert slides.set_index("slide_id").loc["c~d", "file"].startswith("c%7Ed~")
    for slide_id, file in zip(slides["slide_id"], slides["file"], strict=True):
        of_slide = (rows["slide_id"] == slide_id).to_numpy()
        with h5py.File(folder / "h5_files" / file) as clam, h5py.File(folder / "h5_stamp" / file) as stamp:
            np.testing.assert_array_equal(clam["features"][:], latents[of_slide])
            np.testing.assert_array_equal(stamp["feats"][:], latents[of_slide])
            np.testing.assert_array_equal(clam["coords"][:], rows[["x", "y"]][of_slide])
            np.testing.assert_allclose(stamp["coords"][:], rows[["x", "y"]][of_slide] * 0.25)
            assert clam["coords"].attrs["level0_width"] == 256 and clam["coords"].attrs["name"] == slide_id
    assert len(list((folder / "h5_files").iterdir())) == len(slides)
    assert not copied.leftovers()


def test_one_form_of_one_model_elsewhere_without_scores(copied):
    shutil.rmtree("reports/tissue")
    result = copied.run("export tumor --form parquet --form h5 --out elsewhere")
    assert result.code == 0 and any("the patches have no scores" in line for line in result.lines)
    folder = copied.folder / "elsewhere" / "tumor"
    assert {path.name for path in folder.iterdir()} == {"latents.parquet", "slides.csv", "h5_files"}
    assert "score" not in pd.read_parquet(folder / "latents.parquet").columns
    before = copied.outputs("elsewhere")
    assert copied.run("export tumor --form parquet --form h5 --out elsewhere").code == 0
    assert copied.outputs("elsewhere") == before


def test_tissue_latents_names_the_default_model(copied):
    copied.params(models=MODELS, tissue__latents="normal")
    assert copied.run("export --form parquet").code == 0
    assert [path.name for path in (copied.folder / "exports").iterdir()] == ["normal"]


def other_weights(path: str) -> None:
    content = json.loads(Path(path).read_text())
    Path(path).write_text(json.dumps(content | {"weights": "others"}))


def of_other_pair() -> None:
    path = Path("reports/tissue/metrics.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"weights": {"tumor": "others", "normal": "others"}}))


def latents_of_other_weights() -> None:
    other_weights("models/latents/all/latents.json")
    checksums.write(Path("models/latents/all"))


def reversed_scores() -> None:
    path = Path("reports/tissue/scores.csv")
    pd.read_csv(path)[::-1].to_csv(path, index=False)


def without_mpp() -> None:
    path = Path("reports/patching/counts.csv")
    pd.read_csv(path)[1:].to_csv(path, index=False)


@pytest.mark.parametrize(
    ("command", "change", "reason"),
    [
        ("export map", lambda: None, "map has no latent layer"),
        ("export nothing", lambda: None, "models has no entry 'nothing'"),
        ("export all", lambda: shutil.rmtree("models/latents/all"), "run dvc repro evaluate@all"),
        ("export all", lambda: shutil.rmtree("models/trained/all"), "run dvc repro"),
        ("export all", latents_of_other_weights, "of other weights; run dvc repro evaluate@all"),
        ("export all", lambda: other_weights("reports/models/all/evaluation/metrics.json"), "repro evaluate@all"),
        ("export all", of_other_pair, "of other weights of tumor; run dvc repro tissue"),
        ("export all", reversed_scores, "scores.csv: is of other patches; run dvc repro tissue"),
        ("export all", without_mpp, "no microns per pixel of slide"),
    ],
)
def test_what_does_not_belong_together_is_refused_in_one_line(copied, command, change, reason):
    change()
    assert reason in copied.run(command).error
    assert not (copied.folder / "exports").exists() and not copied.leftovers()


@pytest.mark.parametrize(
    "name", ["h5_files/mine.h5", "h5_stamp/notes.txt", "latents.h5ad", "latents.parquet", "slides.csv"]
)
def test_a_file_of_the_user_is_not_replaced(copied, name):
    path = Path("ex/all", name)
    path.parent.mkdir(parents=True)
    path.write_text("a user's own\n")
    assert copied.run("export all --out ex").error.endswith(
        f"{path}: exists, was not written by histocae, and would be replaced; choose another folder by --out, or "
        "move it"
    )
    assert [file for file in Path("ex").rglob("*") if file.is_file()] == [path]
    assert path.read_text() == "a user's own\n"


def test_forms_of_other_names_do_not_matter(copied):
    Path("ex/all/h5_files").mkdir(parents=True)
    Path("ex/all/h5_files/mine.h5").write_text("a user's own")
    assert copied.run("export all --out ex --form parquet").code == 0
    assert Path("ex/all/h5_files/mine.h5").exists() and Path("ex/all/latents.parquet").exists()


def test_without_any_latents_the_remedy_is_said(copied):
    copied.params(models={"map": MODELS["map"]}, tissue__latents=None)
    assert "no model of params.yaml has a latent layer" in copied.run("export").error


def test_tiles_have_no_files_of_features(copied):
    manifest = Path("data/patches/store.json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"mpp": None}))
    assert "tiles have no position on a slide" in copied.run("export --form h5").error
    assert copied.run("export").code == 0
    assert {path.name for path in Path("exports/all").iterdir()} == {"latents.h5ad", "latents.parquet"}
    data = anndata.read_h5ad("exports/all/latents.h5ad")
    assert "spatial" not in data.obsm and set(data.obs["file"]) >= {"d.tif"}
