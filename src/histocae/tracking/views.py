"""How the runs look when they are opened: a saved view of MLflow's UI, the same for everybody.

MLflow keeps saved views as tags of the experiment: `mlflow.sharedViewState.<key>` holds a
name and the state of the page (its source: sharing of views, in the UI of MLflow 3.17).
"""

import json
from typing import Any

from histocae.tracking.server import MlflowClient

KEY = "histocae"
TAG = f"mlflow.sharedViewState.{KEY}"
# of all test patches, whatever the model's cohort: only so are all models comparable
COMPARED = ("latent_size", "parameters", "seconds", "all_test_ssim", "validation_mse", "all_test_mse")
# what the table shows of each run
COLUMNS = (
    "params.`model.architecture`", "params.`model.cohort`", "metrics.`latent_size`", "metrics.`parameters`",
    "metrics.`seconds`", "metrics.`validation_mse`", "metrics.`test_mse`", "metrics.`test_psnr`",
    "metrics.`test_ssim`", "attributes.`Models`",
)  # fmt: skip


def save(api: MlflowClient, experiment_id: str) -> None:
    """Give the experiment the view; nothing changes if it has it already."""
    value = json.dumps({"name": "Comparison", "createdAt": 0, "updatedAt": 0, "state": json.dumps(_state())})
    if api.get_experiment(experiment_id).tags.get(TAG) != value:
        api.set_experiment_tag(experiment_id, TAG, value)


def _state() -> dict[str, Any]:
    wide, pictures, narrow = "histocae-parallel", "histocae-pictures", "histocae-charts"
    charts = [
        _chart("PARALLEL", wide, selectedParams=["model.architecture"], selectedMetrics=list(COMPARED)),
        _chart("IMAGE", pictures, imageKeys=["test_reconstruction"], step=0, showRunParams=False),
        _chart("IMAGE", pictures, imageKeys=["reconstruction"], step=1, showRunParams=False),
        _line("validation_loss", narrow),
        _line("loss", narrow),
        _scatter("seconds", "all_test_mse", narrow),
        _scatter("latent_size", "all_test_mse", narrow),
        # no bars of the MSE: MLflow labels them with two decimals
        *(_chart("BAR", narrow, metricKey=key, displayName=key) for key in ("test_psnr", "test_ssim")),
    ]
    sections = [
        {"uuid": wide, "name": "All models", "columns": 1, "cardHeight": 420},
        {"uuid": pictures, "name": "Reconstructions", "columns": 1, "cardHeight": 660},
        {"uuid": narrow, "name": "Errors", "columns": 2, "cardHeight": 360},
    ]
    return {
        "compareRunCharts": [{**one, "uuid": f"histocae-{i}"} for i, one in enumerate(charts)],
        "compareRunSections": [{"display": True, "isReordered": True, **one} for one in sections],
        "isAccordionReordered": True,
        "runsHiddenMode": "SHOW_ALL",
        "selectedColumns": list(COLUMNS),
        "orderByKey": "metrics.`validation_mse`",
        "orderByAsc": True,
    }


def _chart(kind: str, section: str, **more: object) -> dict[str, Any]:
    return {"type": kind, "metricSectionId": section, "deleted": False, "isGenerated": False, **more}


def _line(metric: str, section: str) -> dict[str, Any]:
    return _chart(
        "LINE", section, metricKey=metric, selectedMetricKeys=[metric], xAxisKey="step", lineSmoothness=0,
        scaleType="linear", xAxisScaleType="linear", range={}, yAxisKey="metric", yAxisExpressions=[],
        useGlobalXaxisKey=True, useGlobalLineSmoothing=True, displayName=metric,
    )  # fmt: skip


def _scatter(x: str, y: str, section: str) -> dict[str, Any]:
    return _chart(
        "SCATTER", section, xaxis={"key": x, "type": "METRIC"}, yaxis={"key": y, "type": "METRIC"},
        runsCountToCompare=100,
    )  # fmt: skip
