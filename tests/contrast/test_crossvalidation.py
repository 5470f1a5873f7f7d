"""Cross-validation of the pair on folds of cases, through the stage as a user runs it."""

import json

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from histocae.cohort import balance
from histocae.contrast import baselines, comparison, crossvalidation, verdicts
from histocae.errors import DataError
from support.cohorts import tissue_settings, write_index
from support.make_data import NORMAL, TUMOR

FOLDS = 3
MODELS = {name: {"cohort": name, "filters": [4], "latent_features": 8, "epochs": 1} for name in ("tumor", "normal")}
UP_TO_PATCHES = ("inventory", "metadata", "slides", "patches")


def write_params(project, **changes):
    project.params(
        data__source="demo",
        data__demo={"cases": 9, "side_microns": 128.0, "faults": False},
        patches__pixels=32,
        models=MODELS,
        **{"tissue.latents": None, "tissue.bootstrap": 100, "tissue.permutations": 100},
        **{"crossvalidation.folds": FOLDS, **changes},
    )


@pytest.fixture
def mlflow_client(monkeypatch, tmp_path):
    uri = f"sqlite:///{tmp_path / 'runs.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    yield mlflow.MlflowClient(uri)
    mlflow.set_tracking_uri(None)


def test_each_case_is_tested_once_by_models_that_were_not_trained_on_it(project, mlflow_client):
    write_params(project)
    project.make(*UP_TO_PATCHES, "crossvalidate")
    index = project.index
    scores = project.read("reports/crossvalidation/scores.csv")
    assert len(scores) == len(index)
    assert not scores.duplicated(["shard", "position"]).any()
    assert scores.groupby("case_id")["fold"].nunique().eq(1).all()
    for fold in range(1, FOLDS + 1):
        tables = {
            split: pd.read_csv(project.folder / f"models/folds/fold-{fold}/splits/{split}.csv", sep="|")
            for split in ("train", "validation", "test")
        }
        cases = {split: set(table["case_id"]) for split, table in tables.items()}
        assert not cases["test"] & (cases["train"] | cases["validation"])
        assert not cases["train"] & cases["validation"]
        assert set(scores.loc[scores["fold"] == fold, "case_id"]) == cases["test"]
        assert all(table["sample_type"].nunique() == 2 for table in tables.values())

    metrics = json.loads((project.folder / "reports/crossvalidation/metrics.json").read_text())
    labels = scores["sample_type"] == "Primary Tumor"
    assert metrics["folds"] == FOLDS and len(metrics["each"]) == FOLDS
    assert metrics["auroc_patch"]["value"] == pytest.approx(roc_auc_score(labels, scores["score"]))
    expected = np.log(scores["error_normal"]) - np.log(scores["error_tumor"])
    np.testing.assert_allclose(scores["log_ratio"], expected, rtol=1e-6, atol=1e-9)
    log_ratio = metrics["baselines"]["log_ratio"]
    assert log_ratio["auroc_patch"]["value"] == pytest.approx(roc_auc_score(labels, scores["log_ratio"]))
    assert "baseline_pair" in metrics["left_out"] and "errors_by_scale" not in metrics["baselines"]
    assert metrics["counts"]["case"]["cases"] == index["case_id"].nunique()
    assert {"error_tumor_model", "color_histogram", "pca_pair"} <= set(metrics["baselines"])
    assert "NaN" not in json.dumps(metrics)

    runs = mlflow_client.search_runs([mlflow_client.get_experiment_by_name("histocae").experiment_id])
    assert sorted(run.info.run_name for run in runs) == sorted(
        f"{name} fold {fold}" for name in MODELS for fold in range(1, FOLDS + 1)
    )
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["fold"] for run in runs} == {"1", "2", "3"}

    # a second run keeps the trained models and writes the same results
    outputs = project.outputs("models", "reports")
    project.make("crossvalidate")
    assert project.outputs("models", "reports") == outputs
    assert len(mlflow_client.search_runs([runs[0].info.experiment_id])) == len(runs)

    write_params(project, **{"crossvalidation.folds": None})
    project.make("crossvalidate")
    assert not list((project.folder / "models/folds").glob("fold-*"))
    assert json.loads((project.folder / "reports/crossvalidation/metrics.json").read_text()) == {"folds": None}


def test_baselines_with_a_different_scale_per_fold_are_pooled_in_comparable_units():
    settings = tissue_settings(bootstrap=100, permutations=100)
    sample_types = ["Primary Tumor", "Solid Tissue Normal"] * 4
    folds = []
    for number, (scale, shift) in enumerate(((1, 0), (50, 900)), 1):
        rows = pd.DataFrame(
            {
                "slide_id": [f"s{number}{i}" for i in range(8)],
                "case_id": [f"c{number}{i}" for i in range(8)],
                "sample_type": sample_types,
                "patch_label": sample_types,
                "label_share": np.nan,
                "shard": "s",
                "position": range(8),
            }
        )
        errors = rows[["shard", "position"]].assign(mse=0.1)
        table = comparison.join(rows, errors, errors)
        score = scale * (table["label"] + np.arange(8) / 20).to_numpy() + shift
        baseline = baselines.Baseline(
            "a classifier", score, 1, "training", {"components": number}, validation_scores=score
        )
        folds.append(crossvalidation.Fold(number, table, table, {"baseline": baseline}, {"pca_pair": "too few"}))
    metrics = crossvalidation.pool(folds, settings, 1).as_json()
    assert metrics["baselines"]["baseline"]["auroc_slide"]["value"] == 1
    assert [each["components"] for each in metrics["baselines"]["baseline"]["each"]] == [1, 2]
    assert metrics["left_out"] == {"pca_pair": "too few"} and metrics["auroc_slide"]["value"] == 0.5
    assert "NaN" not in json.dumps(metrics)


def test_a_baseline_that_lacks_patches_is_pooled_and_compared_on_the_others():
    folds, settings = [], tissue_settings(bootstrap=100, permutations=100, score="log_ratio")
    rng = np.random.default_rng(0)
    for number in (1, 2):
        rows = pd.DataFrame(
            {
                "slide_id": [f"s{number}{i}" for i in range(12)],
                "case_id": [f"c{number}{i}" for i in range(12)],
                "sample_type": [TUMOR, NORMAL] * 6,
                "patch_label": [TUMOR, NORMAL] * 6,
                "label_share": np.nan,
                "shard": "s",
                "position": range(12),
            }
        )
        errors = [rows[["shard", "position"]].assign(mse=rng.uniform(0.1, 0.2, 12)) for _ in range(2)]
        table = comparison.join(rows, *errors)
        covered = np.arange(12) >= (4 if number == 1 else 0)
        score = np.where(covered, table["label"] + rng.normal(0, 1, 12), np.nan)
        details = {f"{split}_{key}": 0 for split in verdicts.OUTSIDE_SPLITS for key in ("patches", "patches_without")}
        details |= {"test_patches": 12, "test_patches_without": int((~covered).sum()), "test_slides_without": 0}
        outside = baselines.Baseline(
            "outside features" + (" (4 of 12 test patches lack them)" if number == 1 else ""),
            score,
            1,
            "training",
            details,
            validation_scores=score[covered],
            covered=None if covered.all() else covered,
        )
        folds.append(crossvalidation.Fold(number, table, table, {"outside": outside}))
    pooled = crossvalidation.pool(folds, settings, 1)
    found = pooled.baselines["outside"]
    assert found.description == "outside features" and found.levels["slide"].counts.units == 20
    rows = pd.concat([fold.test for fold in folds])
    known = np.concatenate([np.isfinite(fold.baselines["outside"].scores) for fold in folds])
    of_pair = roc_auc_score(rows["label"][known], rows["score"][known])
    less = of_pair - found.levels["patch"].auroc.value
    assert found.differences["patch"].value == pytest.approx(less)
    assert pooled.levels["patch"].counts.units == 24
    text = " ".join(pooled.sentences)
    assert "Without outside features: 4 of 24 test patches. That baseline leaves them out" in text
    assert "NaN" not in json.dumps(pooled.as_json())


def test_folds_with_uneven_shares_of_the_patches_are_reported_before_anything_is_trained(project, monkeypatch):
    write_params(project)
    write_index(project, [(TUMOR,)] * 6 + [(NORMAL,)] * 6, patches=[5] * 11 + [500])

    def stop(*_: object) -> None:
        raise DataError("stopped")

    monkeypatch.setattr(balance, "sample", stop)
    lines = [line for line in project.run("crossvalidate").lines if "max_per_slide" in line]
    assert len(lines) == 1 and NORMAL in lines[0] and "of its patches (33.3% asked for)" in lines[0], lines


def test_too_many_folds_are_refused_before_anything_is_trained(project):
    write_params(project)
    project.make(*UP_TO_PATCHES)
    values = yaml.safe_load((project.folder / "params.yaml").read_text())
    values["crossvalidation"]["folds"] = 40
    (project.folder / "params.yaml").write_text(yaml.safe_dump(values))
    message = project.run("crossvalidate").error
    assert "fold" in message and "40" in message
    assert not list((project.folder / "models/folds").glob("fold-*"))
