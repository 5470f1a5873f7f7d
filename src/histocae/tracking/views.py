"""How the runs look when they are opened: a saved view of MLflow's UI, the same for everybody.

MLflow keeps saved views as tags of the experiment: `mlflow.sharedViewState.<key>` holds a
name and the state of the page (its source: sharing of views, in the UI of MLflow 3.17).
"""

import json
from dataclasses import dataclass
from typing import Any

from histocae.tracking.server import MlflowClient

KEY = "histocae"
TAG = f"mlflow.sharedViewState.{KEY}"


@dataclass(frozen=True)
class View:
    """What is shown of the runs of an experiment.

    Attributes:
        compared: metrics on the chart of all models.
        columns: of the table of runs.
        error: the metric that is drawn against time and latents.
        bars: metrics that are drawn as bars.

    """

    compared: tuple[str, ...]
    columns: tuple[str, ...]
    error: str
    bars: tuple[str, ...]


VIEWS = {
    "slides": View(
        # of all test patches, whatever the model's cohort: only so are all models comparable
        compared=("latent_size", "parameters", "seconds", "all_test_ssim", "validation_mse", "all_test_mse"),
        columns=(
            "params.`model.architecture`",
            "params.`model.cohort`",
            "metrics.`latent_size`",
            "metrics.`parameters`",
            "metrics.`seconds`",
            "metrics.`validation_mse`",
            "metrics.`test_mse`",
            "metrics.`test_psnr`",
            "metrics.`test_ssim`",
            "attributes.`Models`",
        ),
        error="all_test_mse",
        # no bars of the MSE: MLflow labels them with two decimals
        bars=("test_psnr", "test_ssim"),
    ),
    "mnist": View(
        compared=("latent_size", "parameters", "seconds", "validation_mse", "test_mse", "test_accuracy"),
        columns=(
            "params.`model.architecture`",
            "params.`digit`",
            "metrics.`latent_size`",
            "metrics.`parameters`",
            "metrics.`seconds`",
            "metrics.`validation_mse`",
            "metrics.`test_mse`",
            "metrics.`dead_latents`",
            "metrics.`test_accuracy`",
            "attributes.`Models`",
        ),
        error="test_mse",
        bars=("test_psnr", "test_ssim"),
    ),
}


def save(api: MlflowClient, experiment_id: str, view: View) -> None:
    """Give the experiment the view; nothing changes if it has it already."""
    value = json.dumps({"name": "Comparison", "createdAt": 0, "updatedAt": 0, "state": json.dumps(_state(view))})
    if api.get_experiment(experiment_id).tags.get(TAG) != value:
        api.set_experiment_tag(experiment_id, TAG, value)


def _state(view: View) -> dict[str, Any]:
    wide, pictures, narrow = "histocae-parallel", "histocae-pictures", "histocae-charts"
    charts = [
        _chart("PARALLEL", wide, selectedParams=["model.architecture"], selectedMetrics=list(view.compared)),
        _chart("IMAGE", pictures, imageKeys=["test_reconstruction"], step=0, showRunParams=False),
        _chart("IMAGE", pictures, imageKeys=["reconstruction"], step=1, showRunParams=False),
        _line("validation_loss", narrow),
        _line("loss", narrow),
        _scatter("seconds", view.error, narrow),
        _scatter("latent_size", view.error, narrow),
        *(_chart("BAR", narrow, metricKey=key, displayName=key) for key in view.bars),
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
        "selectedColumns": list(view.columns),
        "orderByKey": "metrics.`validation_mse`",
        "orderByAsc": True,
    }


def _chart(kind: str, section: str, **more: object) -> dict[str, Any]:
    return {"type": kind, "metricSectionId": section, "deleted": False, "isGenerated": False, **more}


def _line(metric: str, section: str) -> dict[str, Any]:
    return _chart(
        "LINE",
        section,
        metricKey=metric,
        selectedMetricKeys=[metric],
        xAxisKey="step",
        lineSmoothness=0,
        scaleType="linear",
        xAxisScaleType="linear",
        range={},
        yAxisKey="metric",
        yAxisExpressions=[],
        useGlobalXaxisKey=True,
        useGlobalLineSmoothing=True,
        displayName=metric,
    )


def _scatter(x: str, y: str, section: str) -> dict[str, Any]:
    return _chart(
        "SCATTER",
        section,
        xaxis={"key": x, "type": "METRIC"},
        yaxis={"key": y, "type": "METRIC"},
        runsCountToCompare=100,
    )
