"""The recipe of a training on MNIST: everything on which it depends."""

from typing import Any

from histocae import paths
from histocae.cohort.split import SPLITS
from histocae.files import code_fingerprint, fingerprint, sha256_once
from histocae.mnist import paths as mnist_paths
from histocae.mnist.images import ALL
from histocae.mnist.params import Params
from histocae.params import Network
from histocae.training import recipe


def describe(params: Params, name: str, model: Network, seed: int, digit: int | str = ALL) -> dict[str, Any]:
    """Describe everything on which the training of a model depends.

    Args:
        params: of the pipeline.
        name: of the model.
        model: architecture and settings of the model.
        seed: of the weights and of the order of images.
        digit: the digit whose images the model is trained on, or `ALL`.

    Returns:
        The same keys as `histocae.training.recipe.describe`.

    """
    fit = model.training(params.training)
    shape = model.model_dump(exclude=set(type(fit).model_fields))
    images = {part: sha256_once(mnist_paths.IMAGES / f"{part}.npy") for part in ("train", "validation")}
    splits = {part: sha256_once(paths.SPLITS / f"{part}.csv") for part in SPLITS}
    code = code_fingerprint(*recipe.CODE, "mnist/images")
    return {
        "cohort": ALL if digit == ALL else f"digit {digit}",
        "model": shape,
        "params": {
            "seed": seed,
            "digit": digit,
            "data": params.data.model_dump(exclude={"path"}),
            "training": fit.model_dump(),
            "model": shape | {"name": name},
        },
        "splits": splits,
        "made_from": fingerprint([shape, fit.model_dump(), seed, digit, images, splits, code]),
    }
