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


class MnistData(Section):
    """The images, and how they are divided."""

    source: Literal["mnist", "digits"]
    path: str | None
    train: Count
    validation: Fraction


class MnistModel(Network):
    """An autoencoder of all digits. Its `seed`, where given, replaces the common one."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None


class Study(Section):
    """The models whose latents are mapped and clustered, and the settings of maps and clusters."""

    models: list[str]
    sample: Annotated[int, Field(ge=LEAST_POINTS)]
    clusters: Annotated[int, Field(ge=2)]
    perplexity: Positive


class Classes(Section):
    """One autoencoder per digit, and the numbers of principal components of the linear baseline."""

    model: Network
    components: Annotated[list[Count], Field(min_length=1)]


class Compare(Section):
    """The roles of models in the report: the notebook's (with several seeds), this project's, the linear one."""

    notebook: Annotated[list[str], Field(min_length=1)]
    own: str
    pca: str


class Params(Section, NamedModels[MnistModel]):
    """All sections of the file. The command line reads the class of this name in each package."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    data: MnistData
    training: Fit
    models: Annotated[dict[str, MnistModel], Field(min_length=1)]
    study: Study
    classes: Classes
    compare: Compare
    tracking: Tracking

    def conflicts(self) -> list[str]:
        """List the problems of keys that are valid alone but not together."""
        return self.name_conflicts() + _conflicts(self)


def _conflicts(params: Params) -> list[str]:
    problems, pixels = [], SIDES[params.data.source]
    if params.data.source == "digits" and params.data.path is not None:
        problems.append("data.path: scikit-learn brings the images of source digits; leave path null")
    for name, model in params.models.items():
        problems += [f"models.{name}.{problem}" for problem in shape_problems(model, pixels, 1)]
        problems += [f"models.{name}.{problem}" for problem in precision_problems(model, params.training)]
        if name in ("classes", "comparison", "one-per-digit", "pixels") or name.startswith("digit-"):
            problems.append(f"models.{name}: this name is that of another run; choose a different one")
    problems += [f"classes.model.{problem}" for problem in shape_problems(params.classes.model, pixels, 1)]
    problems += [f"classes.model.{problem}" for problem in precision_problems(params.classes.model, params.training)]
    models = {f"models.{name}": model for name, model in params.models.items()}
    problems += [
        f"{key}.loss: perceptual is for patches of slides, not for MNIST; choose another"
        for key, model in (models | {"classes.model": params.classes.model}).items()
        if model.loss == "perceptual"
    ]
    problems += [
        f"{key}.latent_features: missing; the latents are classified"
        for key, model in (models | {"classes.model": params.classes.model}).items()
        if model.architecture == "plain" and model.latent_features is None
    ]
    problems += [
        f"study.models: {name} has one latent, but a map needs two"
        for name in params.study.models
        if name in params.models and params.models[name].latent_features == 1
    ]
    compare = params.compare
    named = {"compare.own": [compare.own], "compare.pca": [compare.pca], "compare.notebook": compare.notebook}
    for key, names in (named | {"study.models": params.study.models}).items():
        problems += [f"{key}: models has no entry {name!r}" for name in names if name not in params.models]
    if compare.pca in params.models and params.models[compare.pca].architecture != "pca":
        problems.append(f"compare.pca: {compare.pca} has a different architecture than pca")
    return problems
