"""The contracts of trained models and of the pair, from their records."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histocae import paths
from histocae.contrast.contract import PAIR, SINGLE, VERSION, Contract
from histocae.contrast.distribution import Distribution
from histocae.errors import TrackingError
from histocae.files import read_json
from histocae.identifiers import COMPARED
from histocae.networks import saved
from histocae.tracking.record import PairRecord, TrainingRecord

DISTRIBUTION = "distribution.json"
FIRST_RULE = "chroma-1"  # of the tissue: there was no other one before evaluations stated it
# those of the report page, as far as they hold for other slides
LABELS = (
    "Labels are per slide. A tumor slide also has stroma, vessels and normal tissue, and each of its patches counted "
    "as tumor when the model was trained. Scores of single patches are uncertain."
)
REGIONS = (
    "Where a slide has regions that a pathologist drew, its patches were labeled by them when the model was trained. "
    "Elsewhere each patch of a tumor slide counted as tumor, also stroma, vessels and normal tissue."
)
UNLABELED = "The model was trained on patches of tumor and of normal slides alike, without their labels."
CONFOUNDED = (
    "A difference between tumor and normal slides may come from stain, scanner, site or fixation, and a model may "
    "have learned that."
)
NOT_FOR = (
    "Not for diagnosis. The model was evaluated on test slides of its own cohort only. Other scanners, stains, "
    "organs and magnifications are different data."
)
SYNTHETIC = "The model was trained on synthetic slides: its results say nothing about real tissue."
COLORS = {
    "grey": "The model converts patches to gray itself, as its training patches were.",
    "macenko": (
        "The stains of the training patches were normalized (Macenko). The model needs the stains of a slide beside "
        "its patches: `histocae.patches.color.estimate` computes them, and `histocae score` does so itself."
    ),
}
NO_MPP = "The training patches were tiles, each at a resolution of its own."
OUTSIDE = "outside"  # the baseline of outside features, as in contrast.verdicts


def of_training(record: TrainingRecord) -> Contract | None:
    """Make the contract of a model.

    Args:
        record: of its training.

    Returns:
        The contract; None where these weights are not evaluated (yet), or an earlier version evaluated them.

    Raises:
        HistocaeError: a file is damaged.

    """
    return _of_single(record, paths.evaluation(record.name))


def read_trained(folder: Path) -> Contract:
    """Make the contract of a trained model, of this project or of another one.

    Args:
        folder: <project>/models/trained/<model>.

    Returns:
        The contract.

    Raises:
        HistocaeError: the model is not trained or not evaluated, or a file is damaged.

    """
    above = folder.absolute().parents
    if len(above) <= len(paths.TRAINED.parts):
        raise TrackingError(f"{folder}: no folder of a project's models/trained")
    project = above[len(paths.TRAINED.parts)]
    layout = paths.MAIN._replace(splits=project / paths.SPLITS, trained=folder.parent, runs=project / paths.RUNS)
    contract = _of_single(TrainingRecord(folder.name, layout), project / paths.evaluation(folder.name))
    if contract is None:
        raise TrackingError(unmeasured(folder))
    return contract


def unmeasured(folder: Path) -> str:
    """Say what a model in models/trained lacks before it has a contract, and the remedy."""
    return (
        f"{folder}: not evaluated, so the contract's statistics of its training patches are missing; "
        f"run dvc repro evaluate@{folder.name}"
    )


def _of_single(record: TrainingRecord, evaluation: Path) -> Contract | None:
    file, remedy = evaluation / DISTRIBUTION, f"run dvc repro evaluate@{record.name}"
    weights = record.training["weights"]  # first: a model that is not trained is not evaluated either
    if not file.exists():
        return None
    content = read_json(file, remedy)
    training = Distribution.from_json(content, str(file), remedy)
    if content.get("weights") != weights:
        return None
    values = {
        **_shared((record,), SINGLE, content),
        "training": training.as_json(),
        **dict.fromkeys(("score", "score_text", "classes", "levels")),
        "findings": [],
        "caveats": _caveats(record),
    }
    return Contract.from_json(values, str(record.folder / saved.RECORD_FILE), record.remedy)


def of_pair(pair: PairRecord) -> Contract:
    """Make the contract of a pair.

    Args:
        pair: both models and the results of their comparison.

    Returns:
        The contract.

    Raises:
        HistocaeError: a file is damaged.

    """
    tissue = pair.tissue
    levels = {
        level: {"threshold": threshold, **{key: tissue["calibration"][level][key] for key in ("slope", "intercept")}}
        for level, threshold in tissue["threshold"].items()
    }
    values = {
        **_shared((pair.tumor, pair.normal), PAIR, pair.score),
        "training": pair.score["training"],
        "score": {key: pair.score[key] for key in ("kind", "linear")},
        "score_text": tissue["score"],
        "classes": list(COMPARED),
        "levels": levels,
        "findings": tissue["summary"],
        "caveats": [*_caveats(pair.tumor), *_simpler(tissue)],
    }
    return Contract.from_json(values, str(paths.TISSUE), "run dvc repro tissue")


def _shared(records: tuple[TrainingRecord, ...], kind: str, rules: Mapping[str, Any]) -> dict[str, Any]:
    """Give what contracts of both kinds have; a rule is None where an earlier version measured the patches."""
    params = records[0].training["params"]
    patches = {key: params["patches"][key] for key in ("pixels", "mpp", "tissue_share", "tiles", "color")}
    rule = rules.get("tissue_rule")
    patches["tissue_rule"] = FIRST_RULE if rule is None else rule
    patches["quality"] = rules.get("quality")
    if params["data"]["source"] == "tiles":
        patches["mpp"] = None
    return {
        "version": VERSION,
        "kind": kind,
        "models": [record.name for record in records],
        "latent_features": [record.training["latent_features"] for record in records],
        "weights": [record.training["weights"] for record in records],
        "source": params["data"]["source"],
        "patches": patches,
    }


def labels(record: TrainingRecord) -> str:
    """Say what the labels of a model's training patches mean.

    Args:
        record: of the training.

    Returns:
        Sentences.

    """
    # earlier versions had no regions
    return LABELS if record.training["params"]["data"].get("annotations") is None else REGIONS


def _caveats(record: TrainingRecord) -> list[str]:
    params = record.training["params"]
    return [
        UNLABELED if record.training["cohort"] == "all" else labels(record),
        CONFOUNDED,
        NOT_FOR,
        *([SYNTHETIC] if params["data"]["source"] == "demo" else []),
        *([COLORS[params["patches"]["color"]]] if params["patches"]["color"] in COLORS else []),
        *([NO_MPP] if params["data"]["source"] == "tiles" else []),
    ]


def _simpler(tissue: dict[str, Any]) -> list[str]:
    """Name the best baseline whose AUROC per slide is not shown to be lower than that of the pair."""
    as_good = {name: each for name, each in tissue["baselines"].items() if each["difference_slide"]["low"] <= 0}
    if not as_good:
        return []
    name, best = max(as_good.items(), key=lambda item: item[1]["auroc_slide"]["value"])
    area, of_pair = (each["auroc_slide"]["value"] for each in (best, tissue))
    way = "A simpler way"
    if name == OUTSIDE:  # no simpler one, and some patches may lack it: the pair on the others
        way, of_pair = "Another way", area + best["difference_slide"]["value"]
    verdict = "does better" if best["difference_slide"]["high"] < 0 else "is not shown to do worse"
    return [
        f"{way} {verdict}: {best['about']} has an AUROC per slide of {area:.2f} on the test slides, the pair "
        f"{of_pair:.2f}."
    ]
