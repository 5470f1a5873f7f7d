"""A model that scores patches: a pair of a tumor and a normal autoencoder, or a single autoencoder.

It comes from a registered model (a TensorFlow SavedModel beside its contract), or from a folder under models/trained.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histocae import checksums
from histocae.contrast import contract as contracts
from histocae.contrast import pair
from histocae.contrast.contract import CONTRACT, NETWORKS, Contract
from histocae.errors import DataError
from histocae.evaluation import scales
from histocae.identifiers import COMPARED
from histocae.networks import backend, saved
from histocae.statistics.thresholds import Calibration

BATCH = 64
# of a batch of uint8 patches: residuals and mean squared errors of each model, and latents of those that have any
Compute = Callable[[NDArray[np.uint8]], tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]]


@dataclass(frozen=True)
class Source:
    """The folder, label and contract of a model, which can be sent to a worker.

    Attributes:
        folder: with `contract.json` and `networks`, or a folder under models/trained.
        label: for readers: `models:/histocae-pair@champion (version 3)`.
        contract: of the model.

    """

    folder: Path
    label: str
    contract: Contract

    @property
    def state(self) -> str:
        """A fingerprint of everything that scores depend on: the contract has those of the weights."""
        return self.contract.state

    @property
    def with_latents(self) -> list[str]:
        """The names of the models that have latents."""
        named = zip(self.contract.models, self.contract.latent_features, strict=True)
        return [name for name, features in named if features is not None]


def of_folder(folder: Path, label: str, remedy: str) -> Source:
    """Read the contract of a registered model that was downloaded.

    Args:
        folder: with contract.json, networks and SHA256SUMS.
        label: of the model, for readers.
        remedy: end of an error's line.

    Returns:
        The model's source.

    Raises:
        DataError: a file is missing or damaged.

    """
    for name in (checksums.FILE, CONTRACT, NETWORKS):
        if not (folder / name).exists():
            raise DataError(f"{folder / name}: is missing; {remedy}")
    problems = {path: problem for path, problem in checksums.compare(folder, remedy).items() if problem}
    for path, problem in problems.items():
        raise DataError(f"{path}: {problem}; {remedy}")
    contract = Contract.read(folder / CONTRACT, remedy)
    if contract.classes not in (None, list(COMPARED)):
        raise DataError(f"{folder / CONTRACT}: classes: expected {' and '.join(COMPARED)}; {remedy}")
    return Source(folder, label, contract)


class Model:
    """A model in memory.

    Attributes:
        source: of the model.
        contract: of the model.
        reconstruct: computes residuals, mean squared errors and latents of a batch of uint8 patches.

    """

    def __init__(self, source: Source, latents: bool = False):
        """Load the model.

        Args:
            source: of the model.
            latents: whether to compute latents, too.

        Raises:
            DataError: a file is damaged.

        """
        self.source, self.contract = source, source.contract
        backend.start()
        from_training = (source.folder / saved.PARAMS_FILE).exists()
        load = _of_training if from_training else _of_saved_model
        self.reconstruct = load(source, latents and bool(source.with_latents))
        score = self.contract.score
        self._linear = None
        if score is not None and score.linear is not None:
            self._linear = pair.Linear.from_json(score.linear.as_json())

    def measure(
        self, batches: Iterable[tuple[dict[str, Any], NDArray[np.uint8]]]
    ) -> Iterator[tuple[dict[str, Any], NDArray[np.float32] | None]]:
        """Measure patches by batches. The next batch is read and reconstructed while one is measured.

        Args:
            batches: columns (arrays of shape (n,)) and patches (uint8, shape (n, pixels, pixels, 3)) in the color of
                the model's patches.

        Yields:
            The columns, with `color_distance` (distance of the mean color from that of training
            patches) and the errors and scores added, and the latents (float32, shape (n, features)) or None.

        """
        from histocae.training.steps import ahead  # Keras, which has been started by now

        for columns, color, (residuals, errors, latents) in ahead(self._passed(batches)):
            measured = columns | {"color_distance": color} | self._errors(residuals, errors)
            yield measured, np.concatenate(latents, axis=1) if latents else None

    def _passed(self, batches: Iterable[tuple[dict[str, Any], NDArray[np.uint8]]]) -> Iterator[Any]:
        count = len(self.contract.models)
        for columns, patches in batches:
            differences, latents = self.reconstruct(patches)
            color = self.contract.training.color_distances(patches)
            yield columns, color, (differences[:count], differences[count:], latents)

    def _errors(self, residuals: list[NDArray[np.float32]], errors: list[NDArray[np.float32]]) -> dict[str, Any]:
        squares = [each.astype(np.float64) for each in errors]
        if self.contract.kind == contracts.SINGLE:
            return {"error": squares[0]}
        tumor, normal = squares
        if self._linear is None:
            scores = pair.score(tumor, normal)
        else:
            scores = self._linear.score(np.hstack([scales.errors(each) for each in residuals]))
        return {"error_tumor": tumor, "error_normal": normal, "score": scores} | self.decide("patch", scores)

    def decide(self, level: str, scores: NDArray[np.float64]) -> dict[str, Any]:
        """Compute the probability of tumor and the class of patches, slides or cases.

        Args:
            level: patch, slide or case.
            scores: shape (n,).

        Returns:
            probability and class, both of shape (n,); empty for a single model.

        """
        if self.contract.levels is None or self.contract.classes is None:
            return {}
        decision = getattr(self.contract.levels, level)
        tumor, normal = self.contract.classes
        chances = Calibration(decision.slope, decision.intercept).probability(scores)
        return {"probability": chances, "class": np.where(scores >= decision.threshold, tumor, normal)}


def _of_saved_model(source: Source, with_latents: bool) -> Compute:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(source.folder / NETWORKS))
    (graph,) = loaded.differences.concrete_functions
    side, count = source.contract.patches.pixels, len(source.contract.models)
    if graph.inputs[0].shape[1:] != (side, side, 3) or len(graph.outputs) != 2 * count:
        raise DataError(
            f"{source.folder}: the networks are not those of {CONTRACT}, {count} of {side} x {side} pixels; register "
            "the model again"
        )

    def compute(patches: NDArray[np.uint8]) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
        latents = loaded.latents(patches) if with_latents else []
        return [each.numpy() for each in loaded.differences(patches)], [each.numpy() for each in latents]

    return compute


def _of_training(source: Source, with_latents: bool) -> Compute:
    import tensorflow as tf

    from histocae.networks import fused
    from histocae.networks.cae import CAE

    cae = CAE(path=source.folder, load=True)
    model, encoder = fused.fused_on_bytes(cae), fused.encoder_on_bytes(cae) if with_latents else None
    shape = tf.TensorSpec((None, *cae.params["input_shape"]), tf.uint8)

    def differences(patches: tf.Tensor) -> list[tf.Tensor]:
        residual = tf.cast(patches, tf.float32) / 255 - model(patches, training=False)
        latents = [] if encoder is None else [encoder(patches)]
        return [residual, tf.reduce_mean(tf.square(residual), axis=(1, 2, 3)), *latents]

    compiled = tf.function(differences, input_signature=[shape])

    def compute(patches: NDArray[np.uint8]) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
        residual, error, *latents = (each.numpy() for each in compiled(patches))
        return [residual, error], latents

    return compute
