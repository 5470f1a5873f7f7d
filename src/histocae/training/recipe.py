"""The description of all that a training depends on, and the autoencoder it starts with."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from histocae.cohort.split import SPLITS
from histocae.errors import TrainingError
from histocae.files import code_fingerprint, fingerprint, named_sha256, read_json_or_none, sha256_once
from histocae.networks import saved
from histocae.params import Fit, Network, Params
from histocae.patches.images import Images
from histocae.patches.store import PatchStore

if TYPE_CHECKING:  # keras takes seconds to load, and a refusal should not wait for it
    from histocae.networks.cae import CAE
    from histocae.networks.losses import Loss

FILE = saved.RECORD_FILE
CHANNELS = 3  # of patches
CODE = (
    "cohort/balance",
    "networks/architectures",
    "networks/backend",
    "networks/blocks",
    "networks/cae",
    "networks/fused",
    "networks/linear",
    "networks/linear_start",
    "networks/losses",
    "networks/perceptual",
    "patches/images",
    "patches/shard_file",
    "patches/store",
    "training/batches",
    "training/checkpoint",
    "training/loop",
    "training/mirrored",
    "training/recipe",
    "training/steps",
)


def describe(params: Params, name: str, store: PatchStore, splits: Path, trained: Path) -> dict[str, Any]:
    """Describe all that the training of a model depends on; equal input gives an equal description.

    This hashes the tables of the split: call it once per training and hand the description on.

    Args:
        params: of the pipeline.
        name: of the model.
        store: the patches.
        splits: folder of the tables of the split.
        trained: folder of the trained models, among them the one that this model starts from.

    Returns:
        JSON-able: cohort, model (with the hash of the network of a perceptual loss), params, hashes of the tables
        of the split, and `made_from`: a fingerprint of all of it with the patches, the code and, with `init_from`,
        the weights of the first model.

    Raises:
        HistocaeError: the model to start from is not trained, was trained with other params or data, or is damaged.
            Or the network of a perceptual loss is missing.

    """
    model = params.model(name)
    described = model.model_dump()
    if model.perceptual is not None:
        key = f"models.{name}.perceptual.network"
        described["perceptual"]["sha256"] = named_sha256(model.perceptual.network, key)
    # sections that are read only after a training: changing them must not retrain the model
    later = {"models", "executor", "tracking", "latent", "tissue", "baselines", "crossvalidation"}
    settings = params.model_dump(exclude=later)
    settings["training"] = model.training(params.training).model_dump()
    own = {key: value for key, value in described.items() if key not in settings["training"]}
    settings["model"] = own | {"name": name}
    hashes = {split: sha256_once(splits / f"{split}.csv") for split in SPLITS}
    # the tables of the split name the shards, whose names are hashes of their inputs
    made_from = fingerprint(
        [described, settings["training"], params.seed, store.pixels, hashes, code_fingerprint(*CODE)]
    )
    if model.init_from is not None:
        made_from = fingerprint([made_from, _first_weights(params, model.init_from, name, store, splits, trained)])
    return {
        "cohort": model.cohort,
        "model": described,
        "params": settings,
        "splits": hashes,
        "made_from": made_from,
    }


def _first_weights(params: Params, first: str, name: str, store: PatchStore, splits: Path, trained: Path) -> str:
    """Return the fingerprint of the weights that a model starts from, if they fit today's params and data."""
    message, remedy = f"models.{name}.init_from: {first}", f"run dvc repro train@{first} first"
    record = read_json_or_none(trained / first / FILE)
    if not isinstance(record, dict):
        raise TrainingError(f"{message} is not trained; {remedy}")
    if record.get("made_from") != describe(params, first, store, splits, trained)["made_from"]:
        raise TrainingError(f"{message} was trained with other params or data; {remedy}")
    saved.check(trained / first)
    return str(record["weights"])  # as the check has found them


def load_loss(params: Params, name: str, pixels: int) -> "Loss | None":
    """Load the loss of a model where it needs a file, and check that file.

    Args:
        params: of the pipeline.
        name: of the model.
        pixels: side of the patches.

    Returns:
        The loss per patch; None where the autoencoder's name of its loss is enough.

    Raises:
        TrainingError: the network of a perceptual loss is damaged, or does not fit the patches or the params.

    """
    perceptual = params.model(name).perceptual
    if perceptual is None:
        return None
    from histocae.networks.perceptual import load

    return load(
        Path(perceptual.network),
        perceptual.layers,
        perceptual.weight,
        shape=(pixels, pixels, CHANNELS),
        key=f"models.{name}.perceptual",
    )


def build(params: Params, name: str, patches: Images, trained: Path) -> "CAE":
    """Build the autoencoder of a model: untrained, or with the weights of the model it starts from.

    `describe` has checked that those weights fit.

    Args:
        params: of the pipeline.
        name: of the model.
        patches: the training patches, from which linear parts are computed.
        trained: folder of the trained models.

    Returns:
        The autoencoder as it is before its first epoch.

    """
    from histocae.networks.cae import CAE

    model = params.model(name)
    cae = start(model, model.training(params.training), patches, params.seed, linear_parts=model.init_from is None)
    if model.init_from is not None:
        cae.model.set_weights(CAE(path=trained / model.init_from, load=True).model.get_weights())
    return cae


def start(model: Network, fit: Fit, patches: Images, seed: int, *, linear_parts: bool = True) -> "CAE":
    """Build the autoencoder of a model as it is before its first epoch.

    Args:
        model: its architecture.
        fit: how it will be trained.
        patches: the training patches, from which linear parts are computed.
        seed: of the sample of patches.
        linear_parts: whether the linear layers of `residual` are computed from patches; False where other weights
            will replace them.

    Returns:
        The autoencoder.

    Raises:
        TrainingError: architecture pca has no latent_features, or there are fewer than two patches.

    """
    from histocae.networks.cae import CAE
    from histocae.networks.linear_start import fitted_pca, start_residual

    if model.architecture == "pca":
        if model.latent_features is None:
            raise TrainingError("architecture pca needs latent_features")
        return fitted_pca(patches, model.latent_features, seed)
    cae = CAE(
        patches.shape,
        model.latent_features,
        model.filters,
        kernel=model.kernel,
        stride=model.stride,
        pool=model.pool,
        optimizer=fit.optimizer,
        lossfn=model.loss,
        architecture=model.architecture,
    )
    if model.architecture == "residual" and linear_parts:
        start_residual(cae, patches, seed)
    return cae
