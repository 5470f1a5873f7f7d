"""params.yaml, typed. Unknown, missing and ill-typed keys are told by name."""

import os
import re
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from histocae.address import url_problems
from histocae.errors import ParamsError
from histocae.identifiers import COMPARED

Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Percent = Annotated[float, Field(ge=0, le=100)]
Schedule = Literal["constant", "cosine"]
Precision = Literal["float32", "bfloat16"]
Balance = Literal["patches", "cases", "none"]
Optimizer = Literal["adamax", "adam", "adamw", "nadam", "rmsprop", "sgd"]


class Section(BaseModel):
    """A part of params.yaml: no unknown keys, no silent conversion, no change after."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Demo(Section):
    """The embedded cohort."""

    cases: Annotated[int, Field(ge=6)]
    side_microns: Annotated[float, Field(ge=128, multiple_of=4, allow_inf_nan=False)]


class Gdc(Section):
    """Which slides of the Genomic Data Commons, and how they are fetched."""

    url: str
    project: Annotated[str, Field(min_length=1)]
    strategy: Literal["Tissue Slide", "Diagnostic Slide"]
    sample_types: Annotated[list[Literal[COMPARED]], Field(min_length=1)]
    per_class: Count | None
    per_case: Count | None
    slides: Annotated[list[str], Field(min_length=1)] | None
    without: list[str]
    table: str | None
    manifest: str | None
    token_file: str | None
    streams: Count
    tries: Count


class Data(Section):
    """Where the slides come from."""

    source: Literal["demo", "gdc", "slides", "tiles"]
    path: str
    table: str
    mpp: float | None  # out of range counts as missing, like a slide's own
    max_failed_share: Share
    keep_slides: bool
    demo: Demo
    gdc: Gdc


class Patches(Section):
    """What a patch is and which ones are kept."""

    pixels: Annotated[int, Field(ge=8)]
    mpp: Positive
    tissue_share: Share
    max_per_slide: Count | None
    tiles: Literal["reduce", "cut"]
    on_read_error: Literal["keep", "drop"]
    color: Literal["rgb", "grey", "macenko"]


class Split(Section):
    """Shares of the cases, and what is never torn apart."""

    validation: Part
    test: Part
    together: Literal["case", "site"]


class Denoise(Section):
    """Inputs that are shifted at random while the target stays where it is, at first all and then ever fewer."""

    shift: Count  # pixels, at most
    until: Annotated[float, Field(gt=0, le=1)]


class Fit(Section):
    """How an autoencoder is trained on given pictures."""

    epochs: Count
    batch_size: Count
    patience: Count
    optimizer: Optimizer
    learning_rate: Positive
    schedule: Schedule
    clip_norm: Positive | None
    augment: bool
    denoise: Denoise | None
    picture_every: Count
    precision: Precision
    tensorboard: bool


AnyFit = TypeVar("AnyFit", bound=Fit)


class Training(Fit):
    """How every model is trained, unless its own entry says otherwise."""

    balance: Balance
    min_percent_tumor_nuclei: Percent | None


class Network(Section):
    """One architecture, and what it sets apart from the common `Fit`."""

    architecture: Literal["plain", "residual", "compact", "pca"] = "plain"
    filters: Annotated[list[Count], Field(min_length=1)] | None = None
    latent_features: Count | None = None
    kernel: Count = 3
    stride: Count = 1
    pool: Annotated[int, Field(ge=1)] = 2
    loss: Literal["mse", "mae", "binary_crossentropy"] = "mse"
    epochs: Count | None = None
    batch_size: Count | None = None
    patience: Count | None = None
    optimizer: Optimizer | None = None
    learning_rate: Positive | None = None
    schedule: Schedule | None = None
    clip_norm: Positive | None = None
    augment: bool | None = None
    denoise: Denoise | None = None
    precision: Precision | None = None

    def training(self, common: AnyFit) -> AnyFit:
        """The training settings of this model: its own where given, else the common ones.

        A null that stands in the entry counts as given where null means something.
        """
        own = {
            key: value
            for key in type(common).model_fields
            if key in self.model_fields_set and ((value := getattr(self, key)) is not None or key in NULLABLE)
        }
        return common.model_copy(update=own)


AnyNetwork = TypeVar("AnyNetwork", bound=Network)


class Model(Network):
    """An architecture and the patches it sees."""

    cohort: Literal["all", "tumor", "normal"] = "all"
    init_from: str | None = None
    balance: Balance | None = None
    min_percent_tumor_nuclei: Percent | None = None


# settings of a training that null switches off
NULLABLE = ("clip_norm", "denoise", "min_percent_tumor_nuclei")
# what decides the shapes of a model's weights
SHAPE = ("architecture", "filters", "latent_features", "kernel", "stride", "pool")


class Latent(Section):
    """How the latents of a model are studied."""

    sample: Count
    clusters: Annotated[int, Field(ge=2)]
    perplexity: Positive
    umap: bool


class Tissue(Section):
    """The pair of models that is compared, and how sure one wants to be."""

    tumor: str
    normal: str
    latents: str | None
    bootstrap: Annotated[int, Field(ge=100)]
    permutations: Annotated[int, Field(ge=100)]
    confidence: Part


class Crossvalidation(Section):
    """Folds of cases, each tested on once and validated on once; null: one split only."""

    folds: Annotated[int, Field(ge=3)] | None


class SlurmWorkers(Section):
    """What a job of Slurm that works on slides is given."""

    cores: Count
    memory: Annotated[str, Field(pattern=r"^[1-9]\d*[MGT]$")]
    time: Annotated[str, Field(pattern=r"^(\d+-)?\d+:[0-5]\d:[0-5]\d$")]
    partition: str | None = None
    account: str | None = None
    setup: str = ""
    scratch: str | None = None
    options: list[str] = Field(default_factory=list)


class Executor(Section):
    """How slides are spread over workers, and a training over graphics cards."""

    kind: Literal["processes", "dask"]
    workers: Count | None
    devices: Count | None
    scheduler: Annotated[str, Field(pattern=r"^(tcp|tls)://\S+:\d+$")] | None
    slurm: SlurmWorkers | None


class Tracking(Section):
    """The MLflow experiment. Servers and credentials come from the environment."""

    experiment: Annotated[str, Field(min_length=1)]


class Whole(Generic[AnyNetwork]):
    """All params of a pipeline that trains named models."""

    models: dict[str, AnyNetwork]

    def model(self, name: str) -> AnyNetwork:
        """One entry of `models`.

        Raises:
            ParamsError: there is no such entry.

        """
        if name not in self.models:
            raise ParamsError(f"models has no entry {name!r}; it has {', '.join(self.models)}")
        return self.models[name]

    def conflicts(self) -> list[str]:
        """Tell what each key allows by itself but not all of them together."""
        return [
            f"models.{name}: a model's name has letters, digits, _ and - only"
            for name in self.models
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name)
        ]


class Params(Section, Whole[Model]):
    """The whole of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    data: Data
    patches: Patches
    split: Split
    training: Training
    models: Annotated[dict[str, Model], Field(min_length=1)]
    latent: Latent
    tissue: Tissue
    crossvalidation: Crossvalidation
    executor: Executor
    tracking: Tracking

    def conflicts(self) -> list[str]:
        """Tell what each key allows by itself but not all of them together."""
        return super().conflicts() + _conflicts(self)

    @property
    def pair(self) -> tuple[str, str] | None:
        """Names of the tumor and the normal model that are compared; None where `models` lacks one."""
        names = (self.tissue.tumor, self.tissue.normal)
        return names if all(name in self.models for name in names) else None


def _conflicts(params: Params) -> list[str]:
    told = [f"data.gdc.url: {one}, got {params.data.gdc.url!r}" for one in url_problems(params.data.gdc.url)]
    if params.split.validation + params.split.test >= 1:
        told.append("split: validation and test take all cases; leave some to train on")
    if params.crossvalidation.folds is not None and params.pair is None:
        told.append("crossvalidation.folds: needs the pair of models that tissue names")
    for key in ("table", "manifest"):
        file = getattr(params.data.gdc, key)
        if file is not None and Path(os.path.normpath(file)).is_relative_to("data/gdc"):
            told.append(f"data.gdc.{key}: {file} is made anew by what reads it; copy it elsewhere")
    if params.executor.scheduler is not None and params.executor.slurm is not None:
        told.append("executor: scheduler names a cluster that runs, slurm one to start; set one of them to null")
    names = list(params.models)
    for position, (name, model) in enumerate(params.models.items()):
        told += [f"models.{name}.{one}" for one in shape_problems(model, params.patches.pixels, 3)]
        told += [f"models.{name}.{one}" for one in precision_problems(model, params.training)]
        if model.init_from is None:
            continue
        if model.architecture == "pca":
            told.append(f"models.{name}.init_from: pca is computed anew")
        if model.init_from not in names[:position]:
            told.append(f"models.{name}.init_from: expected a model that stands before it, got {model.init_from!r}")
            continue
        first = params.models[model.init_from]
        if differing := [key for key in SHAPE if getattr(model, key) != getattr(first, key)]:
            told.append(
                f"models.{name}.init_from: {model.init_from} has other {' and '.join(differing)}; "
                "its weights do not fit"
            )
    return told + _pair_conflicts(params)


def shape_problems(model: Network, pixels: int, channels: int) -> list[str]:
    """What of a model its architecture does not allow, for square pictures of a side and channels."""
    told = [
        f"{key}: is plain's; {model.architecture} has none"
        for key in ("kernel", "stride", "pool")
        if model.architecture != "plain" and getattr(model, key) != Model.model_fields[key].default
    ]
    if model.architecture == "plain":
        if model.filters is None:
            told.append("filters: missing; plain needs them")
        elif pixels % (model.pool * model.stride) ** len(model.filters):
            told.append(
                f"filters: {len(model.filters)} layers each divide the side by "
                f"{model.pool * model.stride}, which {pixels} pixels do not allow"
            )
        return told
    if model.latent_features is None:
        told.append(f"latent_features: missing; {model.architecture} needs them")
    elif model.latent_features > channels * pixels**2:
        told.append(f"latent_features: more than the {channels * pixels**2} values of a patch")
    if model.loss != "mse" and model.architecture != "compact":
        told.append(f"loss: {model.architecture} starts from the least squares; its loss is mse")
    if model.architecture == "residual":
        if model.filters is not None and len(model.filters) != 2:
            told.append("filters: residual has two, at an eighth and a sixteenth of the side")
        if pixels % 16:
            told.append(f"architecture: residual needs a side (pixels) that is a multiple of 16, not {pixels}")
    elif model.architecture == "compact":
        if model.filters is not None and len(model.filters) != 2:
            told.append("filters: compact has two, at a half and a quarter of the side")
        if pixels % 4:
            told.append(f"architecture: compact needs a side that is a multiple of 4, not {pixels}")
        if model.loss == "binary_crossentropy":
            told.append("loss: compact has no sigmoid, which binary_crossentropy needs")
    elif model.filters is not None:
        told.append("filters: pca has none")
    return told


def precision_problems(model: Network, common: Fit) -> list[str]:
    """What of a model's precision its architecture does not allow."""
    precision = model.training(common).precision
    if precision == "float32" or model.architecture == "plain":
        return []
    return [f"precision: {precision} is plain's; set it to float32 in the entry of this {model.architecture} model"]


def _alike(model: Model, training: Training) -> dict[str, object]:
    """What the two models of a pair have in common."""
    common = model.training(training)
    return {
        **{key: getattr(model, key) for key in (*SHAPE, "loss")},
        **{key: getattr(common, key) for key in ("balance", "min_percent_tumor_nuclei", "precision")},
        "having init_from": model.init_from is not None,
    }


def _pair_conflicts(params: Params) -> list[str]:
    told, tissue = [], params.tissue
    if params.pair is None:  # models of one tissue, or of cohort all only, are fine by themselves
        return told
    if tissue.latents is not None and tissue.latents not in params.models:
        told.append(f"tissue.latents: models has no entry {tissue.latents!r}")
    pair = [params.models[name] for name in params.pair]
    for name, model in zip(params.pair, pair, strict=True):
        if params.crossvalidation.folds is not None and model.init_from is not None:
            told.append(
                f"models.{name}.init_from: with crossvalidation.folds a model starts from nothing, since "
                f"{model.init_from} has seen cases that a fold tests on"
            )
    for key, model in zip(("tumor", "normal"), pair, strict=True):
        if model.cohort != key:
            name = getattr(tissue, key)
            told.append(f"models.{name}.cohort: tissue.{key} names this model, so it is {key}, not {model.cohort}")
    alike = [_alike(model, params.training) for model in pair]
    if differing := [key for key in alike[0] if alike[0][key] != alike[1][key]]:
        told.append(
            f"models: {tissue.tumor} and {tissue.normal}, the pair of tissue, differ in {' and '.join(differing)}; "
            "they have to be alike, or a difference between them says nothing about tissue"
        )
    return told
