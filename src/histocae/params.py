"""params.yaml, typed. Unknown, missing and ill-typed keys are reported by name."""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from histocae.address import url_problems
from histocae.errors import ParamsError
from histocae.scanners import MPP_EXPECTED, MPP_RANGE


def _scanned(mpp: float) -> float:
    if not MPP_RANGE[0] <= mpp <= MPP_RANGE[1]:  # NaN too
        raise ValueError(f"expected {MPP_EXPECTED}, or null")
    return mpp


Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
TOO_LARGE = 2**31  # for any count
Count = Annotated[int, Field(ge=1, lt=TOO_LARGE)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Percent = Annotated[float, Field(ge=0, le=100)]
Schedule = Literal["constant", "cosine"]
Precision = Literal["float32", "bfloat16"]
Balance = Literal["patches", "cases", "none"]
Optimizer = Literal["adamax", "adam", "adamw", "nadam", "rmsprop", "sgd"]
Compared = Literal["Primary Tumor", "Solid Tissue Normal"]  # as identifiers.COMPARED


class Section(BaseModel):
    """A section of params.yaml: no unknown keys, no silent conversion of types, no change once read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    def conflicts(self) -> list[str]:
        """List the values that are allowed each, but not together; each text begins with the key."""
        return []


class Demo(Section):
    """The demo cohort."""

    cases: Annotated[int, Field(ge=6, lt=TOO_LARGE)]
    side_microns: Annotated[float, Field(ge=128, multiple_of=4, allow_inf_nan=False)]
    faults: bool


class Gdc(Section):
    """Which slides of the Genomic Data Commons, and how they are fetched."""

    url: str
    project: Annotated[str, Field(min_length=1)]
    strategy: Literal["Tissue Slide", "Diagnostic Slide"]
    sample_types: Annotated[list[Compared], Field(min_length=1)]
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
    mpp: Annotated[float, AfterValidator(_scanned)] | None  # microns per pixel
    max_failed_share: Share
    keep_slides: bool
    annotations: Annotated[str, Field(min_length=1)] | None
    demo: Demo
    gdc: Gdc


class Bounds(Section):
    """What one slide may take; a slide that takes more is set aside."""

    seconds: Annotated[float, Field(gt=0, lt=TOO_LARGE)]  # a timer takes no more
    gigabytes: Positive
    patches: Count
    expansion: Annotated[float, Field(ge=1, allow_inf_nan=False)]


class Patches(Section):
    """How patches are extracted, and which of them are kept."""

    pixels: Annotated[int, Field(ge=8, lt=TOO_LARGE)]
    mpp: Positive
    tissue_share: Share
    max_per_slide: Count | None
    tiles: Literal["reduce", "cut"]
    on_read_error: Literal["keep", "drop"]
    color: Literal["rgb", "grey", "macenko"]
    bounds: Bounds


def _flag(value: object) -> object:
    if value is None or isinstance(value, bool) or (isinstance(value, int | float) and 0 < value < math.inf):
        return value
    raise ValueError("expected true, false, null or a number above 0")


def _flag_of_share(value: object) -> object:
    if value is None or isinstance(value, bool) or (isinstance(value, int | float) and 0 < value < 1):
        return value
    raise ValueError("expected true, false, null or a share between 0 and 1")


Flag = Annotated[bool | float | None, BeforeValidator(_flag)]
ShareFlag = Annotated[bool | float | None, BeforeValidator(_flag_of_share)]


class Quality(Section):
    """Which faults leave patches out: true by the default threshold, a number by that threshold, null for none."""

    pen: ShareFlag
    blur: Flag
    fold: Flag
    debris: ShareFlag
    pale: Flag


def _class_name(name: str) -> str:
    if not name.strip() or name != name.strip() or "*" in name[:-1] or not name.isprintable():
        raise ValueError(
            "expected the name of a class without spaces at its ends; `*` at the end stands for any ending"
        )
    return name


Classes = list[Annotated[str, AfterValidator(_class_name)]]


class Annotations(Section):
    """What the classes of regions stand for that a pathologist drew in QuPath."""

    tumor: Classes
    normal: Classes
    exclude: Classes
    share: Annotated[float, Field(gt=0, le=1)]

    def conflicts(self) -> list[str]:
        """List the classes that are in two lists; each text begins with the key."""
        lists = {"tumor": self.tumor, "normal": self.normal, "exclude": self.exclude}
        seen: dict[str, str] = {}
        return [
            f"annotations.{key}: {name} is in annotations.{first} too"
            for key, names in lists.items()
            for name in names
            if (first := seen.setdefault(name, key)) != key
        ]


class Split(Section):
    """Shares of the cases in validation and test; cases or whole sites stay together."""

    validation: Fraction
    test: Fraction
    together: Literal["case", "site"]


class Denoise(Section):
    """Inputs are shifted at random while their targets stay; the share of shifted inputs falls to 0 by `until`."""

    shift: Count  # pixels, at most
    until: Annotated[float, Field(gt=0, le=1)]  # share of the epochs


class Fit(Section):
    """How an autoencoder is trained."""

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


class Perceptual(Section):
    """A perceptual loss: the user's network, the layers whose features are compared, and how much they count."""

    network: str  # a file; relative to the folder of params.yaml, or absolute
    layers: Annotated[list[str], Field(min_length=1)]
    weight: Positive = 0.1


AnyFit = TypeVar("AnyFit", bound=Fit)


class Training(Fit):
    """How every model is trained, unless its own entry says otherwise."""

    balance: Balance
    min_percent_tumor_nuclei: Percent | None


class Network(Section):
    """One architecture, and the settings of its training that differ from the common `Fit`."""

    architecture: Literal["plain", "residual", "compact", "pca"] = "plain"
    filters: Annotated[list[Count], Field(min_length=1)] | None = None
    latent_features: Count | None = None
    kernel: Count = 3
    stride: Count = 1
    pool: Annotated[int, Field(ge=1, lt=TOO_LARGE)] = 2
    loss: Literal["mse", "l1", "ssim", "mse+ssim", "binary_crossentropy", "perceptual"] = "mse"
    perceptual: Perceptual | None = None
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
        """Return the training settings of this model: its own where set, else the common ones.

        A null in the entry counts as set where null switches something off.
        """
        own = {
            key: value
            for key in type(common).model_fields
            if key in self.model_fields_set and ((value := getattr(self, key)) is not None or key in NULLABLE)
        }
        return common.model_copy(update=own)


AnyNetwork = TypeVar("AnyNetwork", bound=Network)


class Model(Network):
    """An architecture and the patches that it is trained on."""

    cohort: Literal["all", "tumor", "normal"] = "all"
    init_from: str | None = None
    balance: Balance | None = None
    min_percent_tumor_nuclei: Percent | None = None


# settings of a training that a null switches off
NULLABLE = ("clip_norm", "denoise", "min_percent_tumor_nuclei")
SSIM_SIDE = 11  # of the window of SSIM; networks.losses has it too, but loads Keras
# keys that decide the shapes of a model's weights
SHAPE = ("architecture", "filters", "latent_features", "kernel", "stride", "pool")


class Latent(Section):
    """How the latents of a model are studied."""

    sample: Count
    clusters: Annotated[int, Field(ge=2, lt=TOO_LARGE)]
    perplexity: Positive
    umap: bool


class BaselinePair(Section):
    """Names of another pair of models, which is a baseline of the one that is compared."""

    tumor: str
    normal: str

    def missing(self, models: Mapping[str, Model]) -> str | None:
        """Name the models that are not among `models`, as a reason to leave the pair out; None where both are."""
        names = [name for name in (self.tumor, self.normal) if name not in models]
        return f"models has no {' and no '.join(names)}" if names else None


class Tissue(Section):
    """The pair of models that is compared, its score and baselines, and the precision of the comparison."""

    tumor: str
    normal: str
    score: Literal["errors_by_scale", "log_ratio"]
    baseline_pair: BaselinePair | None
    latents: str | None
    bootstrap: Annotated[int, Field(ge=100, lt=TOO_LARGE)]
    permutations: Annotated[int, Field(ge=100, lt=TOO_LARGE)]
    confidence: Fraction


class Baselines(Section):
    """What the pair and the latents are compared with, beyond what is computed from the patches."""

    features: Annotated[str, Field(min_length=1)] | None  # a folder; relative to that of params.yaml, or absolute


class Crossvalidation(Section):
    """Number of folds of cases: each fold is the test set once and the validation set once; null: one split only."""

    folds: Annotated[int, Field(ge=3, lt=TOO_LARGE)] | None


class SlurmWorkers(Section):
    """Resources of a Slurm job that works on slides."""

    cores: Count
    memory: Annotated[str, Field(pattern=r"^[1-9]\d*[MGT]$")]
    time: Annotated[str, Field(pattern=r"^(\d+-)?\d+:[0-5]\d:[0-5]\d$")]
    partition: str | None = None
    account: str | None = None
    setup: str = ""
    scratch: str | None = None
    options: list[str] = Field(default_factory=list)


class Executor(Section):
    """How slides are distributed over workers, and a training over GPUs."""

    kind: Literal["processes", "dask"]
    workers: Count | None
    devices: Count | None
    scheduler: Annotated[str, Field(pattern=r"^(tcp|tls)://\S+:\d+$")] | None
    slurm: SlurmWorkers | None


class Tracking(Section):
    """The MLflow experiment. Servers and credentials come from the environment."""

    experiment: Annotated[str, Field(min_length=1)]


class NamedModels(Generic[AnyNetwork]):
    """The `models` of a pipeline's params: architectures by name."""

    models: dict[str, AnyNetwork]

    def model(self, name: str) -> AnyNetwork:
        """Return one entry of `models`.

        Raises:
            ParamsError: there is no such entry.

        """
        if name not in self.models:
            raise ParamsError(f"models has no entry {name!r}; it has {', '.join(self.models)}")
        return self.models[name]

    def name_conflicts(self) -> list[str]:
        """List the names of models that can't be names of files and runs."""
        return [
            f"models.{name}: a model's name has letters, digits, _ and - only"
            for name in self.models
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name)
        ]


class Params(Section, NamedModels[Model]):
    """The whole of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    data: Data
    patches: Patches
    quality: Quality
    annotations: Annotations
    split: Split
    training: Training
    models: Annotated[dict[str, Model], Field(min_length=1)]
    latent: Latent
    tissue: Tissue
    baselines: Baselines
    crossvalidation: Crossvalidation
    executor: Executor
    tracking: Tracking

    def conflicts(self) -> list[str]:
        """List the values that are allowed each, but not together; each text begins with the key."""
        return self.name_conflicts() + _conflicts(self)

    @property
    def pair(self) -> tuple[str, str] | None:
        """Names of the tumor and the normal model that are compared; None where `models` lacks either."""
        names = (self.tissue.tumor, self.tissue.normal)
        return names if all(name in self.models for name in names) else None


def _conflicts(params: Params) -> list[str]:
    conflicts = [
        f"data.gdc.url: {problem}, got {params.data.gdc.url!r}" for problem in url_problems(params.data.gdc.url)
    ]
    if params.split.validation + params.split.test >= 1:
        conflicts.append("split: validation and test take all cases; leave some to train on")
    if params.crossvalidation.folds is not None and params.pair is None:
        conflicts.append("crossvalidation.folds: needs the pair of models that tissue names")
    if params.baselines.features is not None and params.data.source == "tiles":
        conflicts.append("baselines.features: are joined by position, and tiles have none on a slide; set null")
    # the p-value of random permutations is at least 1 / (1 + their number)
    least, confidence = math.ceil(1 / (1 - params.tissue.confidence) - 1e-6) - 1, params.tissue.confidence
    if params.tissue.permutations < least:
        conflicts.append(f"tissue.permutations: at a confidence of {confidence:g} set at least {least:,}")
    for key in ("table", "manifest"):
        file = getattr(params.data.gdc, key)
        if file is not None and Path(os.path.normpath(file)).is_relative_to("data/gdc"):
            conflicts.append(f"data.gdc.{key}: {file} is rewritten by the stage that reads it; copy it elsewhere")
    if params.executor.scheduler is not None and params.executor.slurm is not None:
        conflicts.append("executor: scheduler names a running cluster, slurm starts one; set either to null")
    conflicts += params.annotations.conflicts()
    if params.data.annotations is not None and params.data.source == "tiles":
        conflicts.append(
            "data.annotations: regions are of slides; tiles have no position on a slide, so set it to null"
        )
    names = list(params.models)
    for position, (name, model) in enumerate(params.models.items()):
        problems = shape_problems(model, params.patches.pixels, 3) + precision_problems(model, params.training)
        conflicts += [f"models.{name}.{problem}" for problem in problems]
        if model.init_from is None:
            continue
        if model.architecture == "pca":
            conflicts.append(f"models.{name}.init_from: pca is computed from the patches, not from other weights")
        if model.init_from not in names[:position]:
            conflicts.append(f"models.{name}.init_from: expected a model above this entry, got {model.init_from!r}")
            continue
        first = params.models[model.init_from]
        if differing := [key for key in SHAPE if getattr(model, key) != getattr(first, key)]:
            conflicts.append(
                f"models.{name}.init_from: {model.init_from} differs in {' and '.join(differing)}; "
                "its weights do not fit"
            )
    return conflicts + _pair_conflicts(params)


def loss_problems(model: Network, pixels: int) -> list[str]:
    """List what is wrong with the loss of a model.

    Args:
        model: the architecture.
        pixels: side of its square images.

    Returns:
        At most one text of the form `loss: problem`.

    """
    if model.architecture == "pca" and model.loss != "mse":
        return ["loss: pca is a least-squares fit; its loss is mse"]
    if model.architecture in ("residual", "compact") and model.loss == "binary_crossentropy":
        return [f"loss: {model.architecture} has no sigmoid, which binary_crossentropy needs"]
    if model.loss in ("ssim", "mse+ssim") and pixels < SSIM_SIDE:
        return [f"loss: {model.loss} needs a side of {SSIM_SIDE} pixels or more, not {pixels}"]
    return _perceptual_problems(model)


def _perceptual_problems(model: Network) -> list[str]:
    """List what is wrong with `perceptual` of a model: at most one text of the form `key: problem`."""
    if model.perceptual is None:
        missing = "perceptual: missing; loss perceptual needs {network: FILE.keras, layers: [NAME]}"
        return [missing] if model.loss == "perceptual" else []
    network, layers = model.perceptual.network, model.perceptual.layers
    if model.loss != "perceptual":
        return [f"perceptual: only loss perceptual uses it, not {model.loss}; remove it, or set loss: perceptual"]
    if not network.endswith(".keras"):  # Keras reads other formats only in part, or runs code from them
        return [f"perceptual.network: expected a file of Keras, NAME.keras (model.save writes it), got {network!r}"]
    if twice := sorted({name for name in layers if layers.count(name) > 1}):
        return [f"perceptual.layers: {', '.join(twice)} more than once"]
    return []


def shape_problems(model: Network, pixels: int, channels: int) -> list[str]:
    """List the values of a model that its architecture does not allow.

    Args:
        model: the architecture.
        pixels: side of its square images.
        channels: of its images.

    Returns:
        Texts of the form `key: problem`.

    """
    problems = [
        f"{key}: only plain has this key; {model.architecture} has not"
        for key in ("kernel", "stride", "pool")
        if model.architecture != "plain" and getattr(model, key) != Model.model_fields[key].default
    ] + loss_problems(model, pixels)
    if model.architecture == "plain":
        if model.filters is None:
            problems.append("filters: missing; plain needs them")
        elif pixels % (model.pool * model.stride) ** len(model.filters):
            problems.append(
                f"filters: {len(model.filters)} layers each divide the side by "
                f"{model.pool * model.stride}, which {pixels} pixels do not allow"
            )
        return problems
    if model.latent_features is None:
        problems.append(f"latent_features: missing; {model.architecture} needs them")
    elif model.latent_features > channels * pixels**2:
        problems.append(f"latent_features: more than the {channels * pixels**2} values of a patch")
    if model.architecture == "residual":
        if model.filters is not None and len(model.filters) != 2:
            problems.append("filters: residual has two, at an eighth and a sixteenth of the side")
        if pixels % 16:
            problems.append(f"architecture: residual needs a side (pixels) that is a multiple of 16, not {pixels}")
    elif model.architecture == "compact":
        if model.filters is not None and len(model.filters) != 2:
            problems.append("filters: compact has two, at a half and a quarter of the side")
        if pixels % 4:
            problems.append(f"architecture: compact needs a side that is a multiple of 4, not {pixels}")
    elif model.filters is not None:
        problems.append("filters: pca has none")
    return problems


def precision_problems(model: Network, common: Fit) -> list[str]:
    """List what is wrong with the precision that a model is trained in.

    Args:
        model: the architecture.
        common: the training settings of all models.

    Returns:
        At most one text of the form `key: problem`.

    """
    precision = model.training(common).precision
    if precision == "float32" or model.architecture == "plain":
        return []
    return [f"precision: only plain has {precision}; set float32 in the entry of this {model.architecture} model"]


def _alike(model: Model, training: Training) -> dict[str, object]:
    """Return the settings in which the two models of a pair have to agree."""
    common = model.training(training)
    return {
        **{key: getattr(model, key) for key in (*SHAPE, "loss", "perceptual")},
        **{key: getattr(common, key) for key in ("balance", "min_percent_tumor_nuclei", "precision")},
        "having init_from": model.init_from is not None,
    }


def _pair_conflicts(params: Params) -> list[str]:
    tissue = params.tissue
    if params.pair is None:  # models without a counterpart are allowed; nothing is compared then
        return []
    conflicts = []
    if tissue.latents is not None and tissue.latents not in params.models:
        conflicts.append(f"tissue.latents: models has no entry {tissue.latents!r}")
    for name in params.pair:
        init_from = params.models[name].init_from
        if params.crossvalidation.folds is not None and init_from is not None:
            conflicts.append(
                f"models.{name}.init_from: not with crossvalidation.folds: {init_from} was "
                "trained on cases that a fold tests on"
            )
    conflicts += _differences(params, "tissue", {"tumor": tissue.tumor, "normal": tissue.normal})
    if tissue.baseline_pair is not None and not tissue.baseline_pair.missing(params.models):
        conflicts += _differences(params, "tissue.baseline_pair", tissue.baseline_pair.model_dump())
    return conflicts


def _differences(params: Params, section: str, names: dict[str, str]) -> list[str]:
    """List what keeps two models from being a pair: tumor and normal, which `section` names."""
    conflicts = [
        f"models.{name}.cohort: {section}.{key} names this model; expected {key}, got {params.models[name].cohort}"
        for key, name in names.items()
        if params.models[name].cohort != key
    ]
    alike = [_alike(params.models[name], params.training) for name in names.values()]
    if differing := [key for key in alike[0] if alike[0][key] != alike[1][key]]:
        conflicts.append(
            f"models: {names['tumor']} and {names['normal']}, the pair of {section}, differ in "
            f"{' and '.join(differing)}; they must not, or a difference of their errors says nothing about tissue"
        )
    return conflicts
