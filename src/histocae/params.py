"""params.yaml, typed. Unknown, missing and ill-typed keys are told by name."""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from histocae.errors import ParamsError

Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Optimizer = Literal["adamax", "adam", "adamw", "nadam", "rmsprop", "sgd"]


class Section(BaseModel):
    """A part of params.yaml: no unknown keys, no silent conversion, no change after."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Demo(Section):
    """The embedded cohort."""

    cases: Annotated[int, Field(ge=6)]
    side_microns: Annotated[float, Field(ge=128, multiple_of=4, allow_inf_nan=False)]


class Data(Section):
    """Where the slides come from."""

    source: Literal["demo", "gdc", "slides", "tiles"]
    path: str
    table: str
    mpp: float | None  # out of range counts as missing, like a slide's own
    max_failed_share: Share
    demo: Demo


class Patches(Section):
    """What a patch is and which ones are kept."""

    pixels: Annotated[int, Field(ge=8)]
    mpp: Positive
    tissue_share: Share
    max_per_slide: Count | None
    tiles: Literal["reduce", "cut"]
    on_read_error: Literal["keep", "drop"]


class Split(Section):
    """Shares of the cases."""

    validation: Part
    test: Part


class Training(Section):
    """How every model is trained, unless its own entry says otherwise."""

    epochs: Count
    batch_size: Count
    patience: Count
    optimizer: Optimizer
    learning_rate: Positive
    picture_every: Count
    tensorboard: bool


class Model(Section):
    """One architecture, the patches it sees, and what it sets apart from `training`."""

    cohort: Literal["all", "tumor", "normal"] = "all"
    filters: Annotated[list[Count], Field(min_length=1)]
    latent_features: Count | None = None
    kernel: Count = 3
    stride: Count = 1
    pool: Annotated[int, Field(ge=1)] = 2
    loss: Literal["mse", "mae", "binary_crossentropy"] = "mse"
    init_from: str | None = None
    epochs: Count | None = None
    batch_size: Count | None = None
    patience: Count | None = None
    optimizer: Optimizer | None = None
    learning_rate: Positive | None = None

    def training(self, common: Training) -> Training:
        """The training settings of this model: its own where given, else the common ones."""
        own = {k: v for k in Training.model_fields if (v := getattr(self, k, None)) is not None}
        return common.model_copy(update=own)


# what decides the shapes of a model's weights
SHAPE = ("filters", "latent_features", "kernel", "stride", "pool")


class Executor(Section):
    """How slides are spread over workers."""

    kind: Literal["processes"]
    workers: Count | None


class Tracking(Section):
    """The MLflow experiment. Servers and credentials come from the environment."""

    experiment: Annotated[str, Field(min_length=1)]


class Params(Section):
    """The whole of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    data: Data
    patches: Patches
    split: Split
    training: Training
    models: Annotated[dict[str, Model], Field(min_length=1)]
    executor: Executor
    tracking: Tracking

    def model(self, name: str) -> Model:
        """One entry of `models`.

        Raises:
            ParamsError: there is no such entry.

        """
        if name not in self.models:
            raise ParamsError(f"models has no entry {name!r}; it has {', '.join(self.models)}")
        return self.models[name]


class _Loader(yaml.SafeLoader):
    """PyYAML reads 1e-3 as text (YAML 1.1); DVC reads it as a number (1.2), and so do we."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load(path: Path) -> Params:
    """Read and check params.yaml.

    Raises:
        ParamsError: the file is missing or not YAML, or a key is unknown, missing,
            ill-typed or at odds with another.

    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file here; run histocae where {path} lies") from None
    except OSError as error:
        raise ParamsError(f"{path}: can't be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        told = " ".join(str(error).split()).replace('"<unicode string>"', str(path))
        raise ParamsError(f"{path}: not YAML: {told}") from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{path}: expected sections of keys, got {raw!r}")
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        raise ParamsError("; ".join(f"{path}: {_told(one)}" for one in error.errors())) from None
    for told in _at_odds(params):
        raise ParamsError(f"{path}: {told}")
    return params


_EXPECTED = {
    "int_type": "an integer", "int_from_float": "an integer", "float_type": "a number",
    "string_type": "text", "bool_type": "true or false", "list_type": "a list",
    "dict_type": "keys with values", "model_type": "keys with values",
}  # fmt: skip


def _told(error: dict[str, Any]) -> str:
    """One pydantic error as `key: expected ..., got ...`."""
    key = ".".join(str(part) for part in error["loc"] if part != "[key]")
    kind, got, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        return f"{key}: missing"
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][-1]), _siblings(error["loc"][:-1]), 1)
        return f"{key}: unknown key" + (f"; did you mean {near[0]}?" if near else "")
    if kind == "literal_error":
        return f"{key}: expected one of {context['expected']}, got {got!r}"
    if kind in _EXPECTED:
        return f"{key}: expected {_EXPECTED[kind]}, got {got!r}"
    return f"{key}: {error['msg'][0].lower()}{error['msg'][1:]}, got {got!r}"


def _siblings(location: tuple) -> list[str]:
    section: Any = Params
    for part in location:
        if section is Model or not isinstance(part, str) or part not in section.model_fields:
            continue
        section = Model if part == "models" else section.model_fields[part].annotation
    return list(section.model_fields)


def _at_odds(params: Params) -> list[str]:
    """What each key allows by itself but not all of them together."""
    told = []
    if params.split.validation + params.split.test >= 1:
        told.append("split: validation and test take all cases; leave some to train on")
    names = list(params.models)
    for position, (name, model) in enumerate(params.models.items()):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            told.append(f"models.{name}: a model's name has letters, digits, _ and - only")
        if params.patches.pixels % (model.pool * model.stride) ** len(model.filters):
            told.append(
                f"models.{name}.filters: {len(model.filters)} layers each divide the side by "
                f"{model.pool * model.stride}, which {params.patches.pixels} pixels do not allow"
            )
        if model.init_from is None:
            continue
        if model.init_from not in names[:position]:
            told.append(
                f"models.{name}.init_from: expected a model that stands before it, got {model.init_from!r}"
            )
            continue
        first = params.models[model.init_from]
        if differing := [key for key in SHAPE if getattr(model, key) != getattr(first, key)]:
            told.append(
                f"models.{name}.init_from: {model.init_from} has other {' and '.join(differing)}; "
                "its weights do not fit"
            )
    return told
