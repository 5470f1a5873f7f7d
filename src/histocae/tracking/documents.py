"""The JSON files of trained and evaluated models, checked key by key when they are read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import numpy as np
import pandas as pd
from pydantic import ConfigDict, Field, ValidationError

from histocae import params_file
from histocae.contrast import json_parts
from histocae.contrast.json_parts import Text
from histocae.errors import DataError, TrackingError, one_line, raise_if_machine
from histocae.files import read_json, read_table
from histocae.params import Count, Quality, Section

Number = json_parts.Number
Time = Annotated[int, Field(ge=0)]  # milliseconds since 1970
Value = TypeVar("Value")


class Document(Section):
    """A JSON file. Keys beyond these are allowed: reports and cards show them where they are."""

    model_config = ConfigDict(extra="allow")


class TrainedModel(Document):
    """`model` of training.json: the entry of params.yaml."""

    architecture: Literal["plain", "residual", "compact", "pca"]


class NamedModel(Document):
    """`params.model` of training.json."""

    name: Text


class Source(Document):
    """`params.data` of training.json."""

    source: Text


class Fitted(Document):
    """`params.training` of training.json; the last two keys are of models of slides."""

    epochs: Count
    balance: Literal["patches", "cases", "none"] = "patches"
    min_percent_tumor_nuclei: Annotated[float, Field(ge=0, le=100)] | None = None


class TrainedWith(Document):
    """`params` of training.json."""

    seed: Annotated[int, Field(ge=0)]
    data: Source
    model: NamedModel
    training: Fitted
    quality: Quality | None = None  # trainings of earlier versions have none


class Splits(Document):
    """`splits` of training.json: SHA-256 of the tables."""

    train: Text
    validation: Text
    test: Text


class Learned(Document):
    """`patches` of training.json: their numbers."""

    train: Count
    validation: Count


class Training(Document):
    """models/trained/<model>/training.json."""

    cohort: Text
    made_from: Text
    weights: Text
    model: TrainedModel
    params: TrainedWith
    splits: Splits
    patches: Learned
    epochs: Count
    best_epoch: Annotated[int, Field(ge=0)]
    parameters: Annotated[int, Field(ge=0)]
    latent_features: Count | None
    latent_size: Count


class TrainingRun(Document):
    """models/runs/<model>.json."""

    run_id: Text | None
    training_id: Text
    weights: Text
    start: Time
    end: Time
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    stamps: list[Time]
    tags: dict[str, str]


class Metrics(Document):
    """metrics.json with nothing but numbers below `metrics`."""

    metrics: dict[str, Number]


class Study(Metrics):
    """metrics.json of a study of latents."""

    weights: Text


class Measured(Document):
    """`metrics` of an evaluation; images smaller than a window have no SSIM."""

    __pydantic_extra__: dict[str, Number]

    train_mse: Number
    validation_mse: Number
    test_mse: Number
    test_psnr: Number
    test_mean_color_mse: Number
    test_patches: Count


class Evaluation(Document):
    """metrics.json of an evaluation."""

    weights: Text
    metrics: Measured


class Codecs(Document):
    """reports/codecs/metrics.json."""

    patches: Count
    of: Count
    sentences: list[str]


class Estimate(Document):
    """A number with its confidence interval."""

    value: Number
    low: Number
    high: Number


class Pair(Document):
    """`pair` of the comparison of tumor and normal: names of models."""

    tumor: Text
    normal: Text


class OneClass(Document):
    """`one_class` of the comparison: the name of the normal model, or None where it was not measured alone."""

    model: Text | None


class AnyComparison(Document):
    """reports/tissue/metrics.json, with a pair or without."""

    pair: Pair | None
    one_class: OneClass


class NoComparison(Document):
    """reports/tissue/metrics.json without a pair."""

    pair: None
    reason: str


class Counts(Document):
    """`counts` of a level: test units."""

    positive: Annotated[int, Field(ge=0)]
    negative: Annotated[int, Field(ge=0)]


class Rates(Document):
    """`at_threshold` of a level."""

    accuracy: Estimate
    balanced_accuracy: Estimate
    sensitivity: Estimate
    specificity: Estimate


class Levels(Document, Generic[Value]):
    """A value per level."""

    patch: Value
    slide: Value
    case: Value


class Errors(Document):
    """`mse` of the patches of a tissue."""

    tumor_model: Number
    normal_model: Number


class ErrorMatrix(Document):
    """`mse` of both tissues."""

    tumor_data: Errors
    normal_data: Errors


class Areas(Document):
    """AUROC per level, of the pair or of a baseline."""

    auroc_patch: Estimate
    auroc_slide: Estimate
    auroc_case: Estimate


class BaselineAreas(Areas):
    """`baselines` of the comparison, by name."""

    about: Text
    difference_slide: Estimate


class Comparison(Areas):
    """reports/tissue/metrics.json with a pair."""

    pair: Pair
    weights: Pair  # fingerprints
    auprc_patch: Estimate
    auprc_slide: Estimate
    auprc_case: Estimate
    p_value_patch: Number
    p_value_slide: Number
    p_value_case: Number
    threshold: Levels[Number]
    calibration: Levels[json_parts.Curve]
    at_threshold: Levels[Rates]
    counts: Levels[Counts]
    baselines: dict[str, BaselineAreas]
    mse: ErrorMatrix
    settings: dict[str, Any]
    score: Text
    summary: list[str]
    example: Text
    sentences: list[str]


class Score(json_parts.Score):
    """reports/tissue/score.json; `contracts.of_pair` checks `training`."""

    training: dict[str, Any]


class _Content(dict[str, Any]):
    """Keys and values of a JSON file; a key that is missing is an error of the file."""

    def __init__(self, values: dict[str, Any], place: tuple[Path, str], remedy: str):
        """Take values, and the file and the key whose values they are."""
        super().__init__(values)
        self._place, self._remedy = place, remedy

    def __missing__(self, key: str) -> Any:
        path, prefix = self._place
        raise TrackingError(f"{path}: {prefix}{key}: missing; {self._remedy}")


def _content(value: Any, path: Path, prefix: str, remedy: str) -> Any:
    """Return a value of a JSON file whose dicts report missing keys."""
    if isinstance(value, dict):
        inner = {key: _content(item, path, f"{prefix}{key}.", remedy) for key, item in value.items()}
        return _Content(inner, (path, prefix), remedy)
    if isinstance(value, list):
        return [_content(item, path, f"{prefix}{number}.", remedy) for number, item in enumerate(value)]
    return value


def read(path: Path, kind: type[Section], remedy: str) -> dict[str, Any]:
    """Read a JSON file.

    Args:
        path: of the file.
        kind: its keys and their types.
        remedy: end of the error's line.

    Returns:
        The whole content, whose keys of `kind` have the right types; to ask for another key that is missing raises
        a TrackingError, too.

    Raises:
        TrackingError: the file is missing or damaged, or a key is missing or has another type.

    """
    try:
        content = read_json(path, remedy)
    except DataError as error:
        raise TrackingError(str(error)) from None
    check(path, content, kind, remedy)
    checked: dict[str, Any] = _content(content, path, "", remedy)
    return checked


def check(path: Path, content: object, kind: type[Section], remedy: str) -> None:
    """Check the keys of a JSON file that is read.

    Args:
        path: of the file.
        content: of it.
        kind: its keys and their types.
        remedy: end of the error's line.

    Raises:
        TrackingError: a key is missing or has another type.

    """
    try:
        kind.model_validate(content)
    except ValidationError as error:
        raise TrackingError(f"{path}: {params_file.explain_all(error, kind)}; {remedy}") from None


def read_numbers(path: Path, columns: Sequence[str], separator: str, remedy: str) -> pd.DataFrame:
    """Read a table with columns of numbers.

    Args:
        path: of the table.
        columns: that it must have, of finite numbers.
        separator: of columns.
        remedy: end of the error's line.

    Returns:
        The whole table; the column `shard`, where there is one, is text.

    Raises:
        TrackingError: the table is missing or damaged, lacks a column, or has something else than a number.

    """
    try:
        table = read_table(path, ("shard",), separator=separator, remedy=remedy)
    except DataError as error:
        raise TrackingError(str(error)) from None
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise_if_machine(error)
        raise TrackingError(f"{path}: can't be read: {one_line(error)}; {remedy}") from None
    if table.empty:
        raise TrackingError(f"{path}: has no rows; {remedy}")
    for name in columns:
        if name not in table:
            raise TrackingError(f"{path}: no column {name!r}; {remedy}")
        numbers = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)
        if table[name].dtype.kind not in "iuf" or not np.isfinite(numbers).all():
            row = int(np.argmin(np.isfinite(numbers)))
            raise TrackingError(f"{path}: row {row + 1} of {name} is not a finite number; {remedy}")
    return table
