"""What a training depends on, told so that equal input gives equal bytes; and the CAE it starts with."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histocae.cohort.split import SPLITS
from histocae.errors import TrainingError
from histocae.files import code_fingerprint, fingerprint, sha256
from histocae.params import Fit, Network, Params
from histocae.patches.images import Images
from histocae.patches.store import Patches, PatchStore

if TYPE_CHECKING:  # keras takes seconds to load, and a refusal should not wait for it
    from histocae.networks.cae import CAE

FILE = "training.json"
CODE = (
    "cohort/balance",
    "networks/architectures",
    "networks/backend",
    "networks/blocks",
    "networks/cae",
    "networks/fused",
    "networks/linear",
    "networks/linear_start",
    "patches/images",
    "patches/store",
    "training/batches",
    "training/checkpoint",
    "training/loop",
    "training/mirrored",
    "training/recipe",
    "training/steps",
)


def describe(params: Params, name: str, store: PatchStore, splits: Path) -> dict[str, Any]:
    """Tell all that the training of a model depends on.

    Args:
        params: of the pipeline.
        name: of the model.
        store: the patches.
        splits: folder of the tables of the split.

    Returns:
        JSON-able: cohort, model, params, hashes of the splits, and `made_from`, a
        fingerprint of all of it with the patches and the code.

    """
    model = params.model(name)
    # not of what is asked of a model later: that may change without a new training
    about = params.model_dump(exclude={"models", "executor", "tracking", "latent", "tissue", "crossvalidation"})
    about["training"] = model.training(params.training).model_dump()
    about["model"] = model.model_dump(exclude=set(about["training"])) | {"name": name}
    record = {
        "cohort": model.cohort,
        "model": model.model_dump(),
        "params": about,
        "splits": {split: sha256(splits / f"{split}.csv") for split in SPLITS},
    }
    # the splits name the shards, whose names tell what they were made from
    record["made_from"] = fingerprint(
        [record["model"], about["training"], params.seed, store.pixels, record["splits"], code_fingerprint(*CODE)]
    )
    return record


def build(
    params: Params, name: str, store: PatchStore, patches: Patches, splits: Path, trained: Path
) -> "tuple[CAE, dict[str, Any]]":
    """Build the autoencoder of a model: from scratch, or with the weights of the one it starts from.

    Args:
        params: of the pipeline.
        name: of the model.
        store: the patches.
        patches: those to train on, from which linear parts are computed.
        splits: folder of the tables of the split.
        trained: folder of the trained models.

    Returns:
        The autoencoder, and what `describe` tells; with `init_from`, `made_from` covers
        the first model's weights too.

    Raises:
        TrainingError: the model to start from is not trained, or was trained with other
            params or data.

    """
    from histocae.networks.cae import CAE

    model = params.model(name)
    record = describe(params, name, store, splits)
    cae = start(model, model.training(params.training), patches, params.seed, afresh=model.init_from is None)
    if model.init_from is not None:
        first = _first(params, model.init_from, name, store, splits, trained)
        cae.model.set_weights(CAE(path=trained / model.init_from, load=True).model.get_weights())
        record["made_from"] = fingerprint([record["made_from"], first["weights"]])
    return cae, record


def start(model: Network, fit: Fit, patches: Images, seed: int, afresh: bool = True) -> "CAE":
    """Build the autoencoder of a model as it is before its first epoch.

    Args:
        model: its architecture.
        fit: how it will be trained.
        patches: those to train on, from which linear parts are computed.
        seed: of what is drawn from them.
        afresh: False where other weights will take the place of all of its own.

    """
    from histocae.networks.cae import CAE
    from histocae.networks.linear_start import fitted_pca, start_residual

    if model.architecture == "pca":
        return fitted_pca(patches, model.latent_features, seed)
    cae = CAE(
        patches.shape,
        model.latent_features,
        model.filters,
        model.kernel,
        model.stride,
        model.pool,
        optimizer=fit.optimizer,
        lossfn=model.loss,
        architecture=model.architecture,
    )
    if model.architecture == "residual" and afresh:
        start_residual(cae, patches, seed)
    return cae


def _first(params: Params, first: str, name: str, store: PatchStore, splits: Path, trained: Path) -> dict[str, Any]:
    """Read the record of the model that another starts from, if it is of today's params and data."""
    told, remedy = f"models.{name}.init_from: {first}", f"run dvc repro train@{first} first"
    try:
        record = json.loads((trained / first / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrainingError(f"{told} is not trained; {remedy}") from None
    today = describe(params, first, store, splits)
    before = params.model(first).init_from
    if before is not None:
        earlier = _first(params, before, first, store, splits, trained)
        today["made_from"] = fingerprint([today["made_from"], earlier["weights"]])
    if record["made_from"] != today["made_from"]:
        raise TrainingError(f"{told} was trained with other params or data; {remedy}")
    return record
