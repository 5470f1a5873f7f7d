"""Passes of a model over many patches: in this process, or in parts on the workers of a cluster."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.errors import DataError
from histocae.evaluation import reconstruction, samples
from histocae.files import reserve
from histocae.networks import backend
from histocae.networks.cae import CAE
from histocae.params import Params
from histocae.patches.images import Images
from histocae.patches.store import PatchStore
from histocae.workers.processes import WorkerDiedError, spread

# patches of a task: a multiple of the batch size, so that the batches are the same on one machine and on many
PART = 64 * reconstruction.BATCH
Measure = Literal["mse", "measures", "scales"]


@dataclass(frozen=True, kw_only=True)
class _Task:
    """Work for a worker: measure or encode some patches.

    Attributes:
        measure: what to measure; ignored where latents are written.
        model: folder of the model.
        weights: fingerprint of its weights.
        store: folder of the patches.
        seed: of the backend.
        rows: shards and positions of the patches.
        out: file to write latents into, or None.
        start: number of the task's first patch in `out`.

    """

    measure: Measure
    model: Path
    weights: str
    store: Path
    seed: int
    rows: pd.DataFrame
    out: Path | None
    start: int


class Passes:
    """Passes of one model over patches.

    With `executor.kind: dask`, each worker loads the model and reads the patches from the files.
    """

    def __init__(self, params: Params, cae: CAE, model: Path, weights: str, store: PatchStore):
        """Remember the model and the patches.

        Args:
            params: with the executor and the seed.
            cae: the model, loaded.
            model: folder of the model.
            weights: fingerprint of its weights.
            store: of the patches.

        """
        self._params, self._cae, self._model, self._weights, self._store = params, cae, model, weights, store

    def mse(self, rows: pd.DataFrame, label: str) -> NDArray[np.float64]:
        """Measure the MSE of patches, as `reconstruction.measure_mse` does.

        Args:
            rows: of the index of patches.
            label: of the progress bar.

        Returns:
            float64, shape (len(rows),).

        """
        return self._measured("mse", rows, label)

    def measures(self, rows: pd.DataFrame, label: str) -> pd.DataFrame:
        """Compute all measures of patches, as `reconstruction.measure` does.

        Args:
            rows: of the index of patches.
            label: of the progress bar.

        Returns:
            Columns mse, psnr, ssim, mean_color_mse; a row per patch, in the order of `rows`.

        """
        return pd.DataFrame(self._measured("measures", rows, label), columns=list(reconstruction.MEASURES))

    def errors_by_scale(self, rows: pd.DataFrame, label: str) -> NDArray[np.float32]:
        """Describe the errors of patches at several scales, as `reconstruction.measure_by_scale` does.

        Args:
            rows: of the index of patches.
            label: of the progress bar.

        Returns:
            float32, shape (len(rows), features).

        """
        return self._measured("scales", rows, label)

    def write_latents(self, rows: pd.DataFrame, label: str, out: Path) -> None:
        """Write the latents of patches as a numpy array.

        Args:
            rows: of the index of patches.
            label: of the progress bar.
            out: file to write: float32, shape (len(rows), latent features), in the order of `rows`.

        """
        shape = (len(rows), *self._cae.encoder.output_shape[1:])
        # the file gets its full size first, because many workers write into it; the latents may exceed the memory
        np.lib.format.open_memmap(out, "w+", np.float32, shape).flush()
        # a full disk would end a process that writes into a memory map, without an error
        reserve(out)
        if self._local(rows):
            _encode(self._cae, self._store.select(rows), label, out)
        else:
            self._spread("mse", rows, label, out)

    def _local(self, rows: pd.DataFrame) -> bool:
        """Whether this process does the work; its backend uses all cores."""
        return self._params.executor.kind == "processes" or rows.empty

    def _measured(self, measure: Measure, rows: pd.DataFrame, label: str) -> NDArray[Any]:
        if self._local(rows):
            return _MEASURES[measure](self._cae, self._store.select(rows), label)
        return np.concatenate(self._spread(measure, rows, label))

    def _spread(self, measure: Measure, rows: pd.DataFrame, label: str, out: Path | None = None) -> list[Any]:
        """Do the work on the workers of a cluster, and return the results of all tasks in order."""
        tasks = [
            _Task(
                measure=measure,
                model=self._model,
                weights=self._weights,
                store=self._store.folder,
                seed=self._params.seed,
                rows=rows[["shard", "position"]].iloc[start : start + PART],
                out=out,
                start=start,
            )
            for start in range(0, len(rows), PART)
        ]
        results = dict(spread(_work, tasks, self._params.executor, label, "parts"))
        died = sum(isinstance(result, WorkerDiedError) for result in results.values())
        if died:
            raise DataError(f"{label}: workers died at {died} of {len(tasks)} parts; give the workers more memory")
        return [results[i] for i in range(len(tasks))]


def _work(task: _Task) -> NDArray[Any] | None:
    """Do a task, on a worker."""
    backend.start()
    backend.repeatable(task.seed)
    images = PatchStore(task.store).select(task.rows)
    cae = _loaded(task.model, task.weights)
    if task.out is not None:
        _encode_part(cae, images, task.out, task.start)
        return None
    return _MEASURES[task.measure](cae, images, None)


@lru_cache(maxsize=1)
def _loaded(model: Path, weights: str) -> CAE:
    """Load a model once per worker; `weights` distinguishes it from a later training in the same folder."""
    return CAE(path=model, load=True)


def _encode(cae: CAE, images: Images, label: str, out: Path) -> None:
    latents = np.lib.format.open_memmap(out, "r+")
    samples.encode(cae, images, label, latents)
    latents.flush()


def _encode_part(cae: CAE, images: Images, out: Path, start: int) -> None:
    latents = samples.encode(cae, images, None)
    # written, not memory-mapped: on a shared file system a map writes whole pages, with rows of other workers
    with open(out, "r+b") as handle:
        handle.seek(np.load(out, mmap_mode="r").offset + start * latents.strides[0])
        handle.write(latents.tobytes())


_MEASURES: dict[Measure, Callable[[CAE, Images, str | None], NDArray[Any]]] = {
    "mse": reconstruction.measure_mse,
    "scales": reconstruction.measure_by_scale,
    "measures": lambda cae, images, label: reconstruction.measure(cae, images, label).to_numpy(),
}
