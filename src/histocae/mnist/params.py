"""examples/mnist/params.yaml, typed."""

from typing import Annotated, Literal

from pydantic import Field

from histocae.latent.maps import LEAST_POINTS
from histocae.mnist.images import SIDES
from histocae.params import (
    Count,
    Fit,
    Fraction,
    NamedModels,
    Network,
    Positive,
    Section,
    Tracking,
    precision_problems,
    shape_problems,
)


class Data(Section):
    """Which digits."""

    source: Literal["mnist", "digits"]
    path: str | None
    train: Count
    validation: Fraction


class Model(Network):
    """An autoencoder of all digits; `seed` in place of the common one."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None


class Study(Section):
    """Which models' latents are mapped and clustered, and how."""

    models: list[str]
    sample: Annotated[int, Field(ge=LEAST_POINTS)]
    clusters: Annotated[int, Field(ge=2)]
    perplexity: Positive


class Classes(Section):
    """One autoencoder per digit, and numbers of principal components to do the same with."""

    model: Network
    components: Annotated[list[Count], Field(min_length=1)]


class Compare(Section):
    """Which models stand for what in the report."""

    notebook: Annotated[list[str], Field(min_length=1)]
    own: str
    pca: str


class Params(Section, NamedModels[Model]):
    """The whole of it."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    data: Data
    training: Fit
    models: Annotated[dict[str, Model], Field(min_length=1)]
    study: Study
    classes: Classes
    compare: Compare
    tracking: Tracking

    def conflicts(self) -> list[str]:
        """Tell what each key allows by itself but not all of them together."""
        return self.name_conflicts() + _conflicts(self)


def _conflicts(params: Params) -> list[str]:
    told, pixels = [], SIDES[params.data.source]
    if params.data.source == "digits" and params.data.path is not None:
        told.append("data.path: the digits of scikit-learn come with it; leave path null, or set source to mnist")
    for name, model in params.models.items():
        told += [f"models.{name}.{one}" for one in shape_problems(model, pixels, 1)]
        told += [f"models.{name}.{one}" for one in precision_problems(model, params.training)]
        if name in ("classes", "comparison", "one-per-digit", "pixels") or name.startswith("digit-"):
            told.append(f"models.{name}: a run of its own has this name; choose another")
    told += [f"classes.model.{one}" for one in shape_problems(params.classes.model, pixels, 1)]
    told += [f"classes.model.{one}" for one in precision_problems(params.classes.model, params.training)]
    every = {f"models.{name}": one for name, one in params.models.items()} | {"classes.model": params.classes.model}
    told += [
        f"{key}.latent_features: missing; it is asked what they hold"
        for key, one in every.items()
        if one.architecture == "plain" and one.latent_features is None
    ]
    told += [
        f"study.models: {name} has one latent, and a map needs two"
        for name in params.study.models
        if name in params.models and params.models[name].latent_features == 1
    ]
    compare = params.compare
    named = {"compare.own": [compare.own], "compare.pca": [compare.pca], "compare.notebook": compare.notebook}
    for key, names in (named | {"study.models": params.study.models}).items():
        told += [f"{key}: models has no entry {one!r}" for one in names if one not in params.models]
    if compare.pca in params.models and params.models[compare.pca].architecture != "pca":
        told.append(f"compare.pca: {compare.pca} has another architecture")
    return told
