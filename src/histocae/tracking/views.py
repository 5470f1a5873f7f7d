"""A saved view of MLflow's UI: which charts and columns it shows of an experiment's runs, the same for everybody.

MLflow keeps a saved view in a tag of the experiment: `mlflow.sharedViewState.<key>` holds its name and the state of
the page. This is how the UI of MLflow 3.17 shares views; MLflow has no call for it.
"""

import json
from dataclasses import dataclass
from typing import Any

from histocae.tracking.server import MlflowClient

KEY = "histocae"
TAG = f"mlflow.sharedViewState.{KEY}"


@dataclass(frozen=True)
class View:
    """What the UI shows of the runs of an experiment.

    Attributes:
        compared: metrics on the chart of all models.
        columns: of the table of runs.
        error: metric that is drawn against time and number of latents.
        bars: metrics that are drawn as bars.

    """

    compared: tuple[str, ...]
    columns: tuple[str, ...]
    error: str
    bars: tuple[str, ...]


VIEWS = {
    "slides": View(
        # errors on all test patches, whatever the model's cohort: only these compare all models
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
    """Save a view with an experiment; nothing changes if it is there already.

    Args:
        api: client of the server.
        experiment_id: of the experiment.
        view: which charts and columns it has.

    """
    value = json.dumps({"name": "Comparison", "createdAt": 0, "updatedAt": 0, "state": json.dumps(_state(view))})
    if api.get_experiment(experiment_id).tags.get(TAG) != value:
        api.set_experiment_tag(experiment_id, TAG, value)


def _state(view: View) -> dict[str, Any]:
    wide, images, narrow = "histocae-parallel", "histocae-pictures", "histocae-charts"
    charts = [
        _chart("PARALLEL", wide, selectedParams=["model.architecture"], selectedMetrics=list(view.compared)),
        _chart("IMAGE", images, imageKeys=["test_reconstruction"], step=0, showRunParams=False),
        _chart("IMAGE", images, imageKeys=["reconstruction"], step=1, showRunParams=False),
        _line("validation_loss", narrow),
        _line("loss", narrow),
        _scatter("seconds", view.error, narrow),
        _scatter("latent_size", view.error, narrow),
        *(_chart("BAR", narrow, metricKey=key, displayName=key) for key in view.bars),
    ]
    sections = [
        {"uuid": wide, "name": "All models", "columns": 1, "cardHeight": 420},
        {"uuid": images, "name": "Reconstructions", "columns": 1, "cardHeight": 660},
        {"uuid": narrow, "name": "Errors", "columns": 2, "cardHeight": 360},
    ]
    return {
        "compareRunCharts": [{**chart, "uuid": f"histocae-{i}"} for i, chart in enumerate(charts)],
        "compareRunSections": [{"display": True, "isReordered": True, **section} for section in sections],
        "isAccordionReordered": True,
        "runsHiddenMode": "SHOW_ALL",
        "selectedColumns": list(view.columns),
        "orderByKey": "metrics.`validation_mse`",
        "orderByAsc": True,
    }


def _chart(kind: str, section: str, **settings: object) -> dict[str, Any]:
    return {"type": kind, "metricSectionId": section, "deleted": False, "isGenerated": False, **settings}


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
