"""Stage train: one model of all of MNIST, one MLflow run."""

from histocae.mnist import images
from histocae.mnist.params import Params
from histocae.networks import backend
from histocae.training import recipe


def run(params: Params, name: str) -> None:
    """Train a model, record it, and deliver its run.

    Args:
        params: of the pipeline.
        name: of the model.

    """
    backend.start()
    from histocae.mnist.recipe import describe
    from histocae.mnist.record import MnistRecord
    from histocae.tracking.trainings import fit_and_keep

    model = params.model(name)
    seed = params.seed if model.seed is None else model.seed
    parts = images.load()
    images_of = {part: parts[part].as_images for part in ("train", "validation")}
    fit = model.training(params.training)
    backend.repeatable(seed)
    cae = recipe.start(model, fit, images_of["train"], seed)
    description = describe(params, name, model, seed)
    fit_and_keep(
        cae,
        description,
        images_of,
        fit=fit,
        seed=seed,
        record=MnistRecord(name),
        experiment=params.tracking.experiment,
    )


def is_done(params: Params, name: str, since: float | None) -> bool:
    """Check whether this training is done already; see `finished.is_done`.

    Args:
        params: of the pipeline.
        name: of the model.
        since: when this process began to wait for another one, in seconds since 1970; None where there was none.

    Returns:
        Whether the outputs are those of this training.

    """
    from histocae.mnist.recipe import describe
    from histocae.mnist.record import MnistRecord
    from histocae.tracking import finished

    model = params.model(name)
    seed = params.seed if model.seed is None else model.seed
    return finished.is_done(MnistRecord(name), lambda: describe(params, name, model, seed), since)
