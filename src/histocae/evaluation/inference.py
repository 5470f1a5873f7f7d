"""Passes of a model over many patches: measured or encoded here, or in parts by the workers of a cluster."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histocae.errors import DataError
from histocae.evaluation import reconstruction, samples
from histocae.networks import backend
from histocae.networks.cae import CAE
from histocae.params import Params
from histocae.patches.store import PatchStore
from histocae.workers.processes import WorkerDiedError, spread

# patches of a part; a multiple of the batches, which are so the same wherever a pass is made
PART = 64 * reconstruction.BATCH


@dataclass(frozen=True)
class _Part:
    what: str
    model: Path
    weights: str
    store: Path
    seed: int
    rows: pd.DataFrame
    out: Path | None
    start: int


class Passes:
    """Passes of one model. The workers of `executor.kind: dask` load it and read patches by themselves."""

    def __init__(self, params: Params, cae: CAE, model: Path, weights: str, store: PatchStore):
        """Prepare.

        Args:
            params: with the executor and the seed.
            cae: the model, loaded.
            model: its folder.
            weights: their fingerprint.
            store: of the patches.

        """
        self._params, self._cae, self._model, self._weights, self._store = params, cae, model, weights, store

    def mse(self, rows: pd.DataFrame, label: str) -> np.ndarray:
        """Give the MSE of the patches of some rows of the index, as `reconstruction.measure_mse`."""
        return self._over("mse", rows, label)

    def measures(self, rows: pd.DataFrame, label: str) -> pd.DataFrame:
        """Give all measures, as `reconstruction.measure`."""
        return pd.DataFrame(self._over("measures", rows, label), columns=list(reconstruction.MEASURES))

    def write_latents(self, rows: pd.DataFrame, label: str, out: Path) -> None:
        """Write the latents as a numpy array, in the order of the rows."""
        shape = (len(rows), *self._cae.encoder.output_shape[1:])
        # written batch by batch, and by many at once: latents of all patches may be more than fits into memory
        np.lib.format.open_memmap(out, "w+", np.float32, shape).flush()
        self._over("latents", rows, label, out)

    def _over(self, what: str, rows: pd.DataFrame, label: str, out: Path | None = None) -> Any:
        if self._params.executor.kind == "processes" or rows.empty:
            # one process, whose backend uses all cores
            pictures = self._store.select(rows)
            return _DO[what](self._cae, pictures, label) if out is None else _encode(self._cae, pictures, label, out)
        parts = [
            _Part(
                what,
                self._model,
                self._weights,
                self._store.folder,
                self._params.seed,
                rows[["shard", "position"]].iloc[start : start + PART],
                out,
                start,
            )
            for start in range(0, len(rows), PART)
        ]
        found = dict(spread(_make, parts, self._params.executor, label, "parts"))
        died = sum(isinstance(one, WorkerDiedError) for one in found.values())
        if died:
            raise DataError(f"{label}: {died} of {len(parts)} parts killed their workers; give these more memory")
        return np.concatenate([found[i] for i in range(len(parts))]) if out is None else None


def _make(part: _Part) -> np.ndarray | None:
    """Do a part, on a worker."""
    backend.start()
    backend.repeatable(part.seed)
    pictures = PatchStore(part.store).select(part.rows)
    cae = _loaded(part.model, part.weights)
    if part.out is not None:
        return _encode_part(cae, pictures, part.out, part.start)
    return _DO[part.what](cae, pictures, None)


@lru_cache(maxsize=1)
def _loaded(model: Path, weights: str) -> CAE:
    """Load a model once; `weights` tells one of that name from the next."""
    return CAE(path=model, load=True)


def _encode(cae: CAE, pictures: Any, label: str, out: Path) -> None:
    latents = np.lib.format.open_memmap(out, "r+")
    samples.encode(cae, pictures, label, latents)
    latents.flush()


def _encode_part(cae: CAE, pictures: Any, out: Path, start: int) -> None:
    latents = samples.encode(cae, pictures, None)
    # written, not mapped: where machines share files a map brings back whole pages, others' rows among them
    with open(out, "r+b") as handle:
        handle.seek(np.load(out, mmap_mode="r").offset + start * latents.strides[0])
        handle.write(latents.tobytes())


_DO: dict[str, Callable] = {
    "mse": reconstruction.measure_mse,
    "measures": lambda cae, pictures, label: reconstruction.measure(cae, pictures, label).to_numpy(),
}
