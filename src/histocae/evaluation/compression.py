"""Models with latents of 8 bits beside image codecs: errors of the same patches at equal bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae.errors import DataError
from histocae.evaluation import codecs, reconstruction, samples
from histocae.evaluation.quantized import Rounding
from histocae.networks.cae import CAE
from histocae.params import Executor
from histocae.patches.images import InMemory
from histocae.workers.processes import WorkerDiedError, spread

BUDGETS = (64, 128, 256, 512, 1024, 2048, 4096)  # bytes per patch
MEASURES = ["mse", "psnr", "ssim"]
COLUMNS = ["method", "kind", "bytes", "mean_bytes", *MEASURES]
PART = 16  # patches of a worker's task


@dataclass(frozen=True, kw_only=True)
class CodecErrors:
    """What codecs make of patches.

    Attributes:
        table: columns `COLUMNS`: a row per codec and budget that all patches fit.
        left_out: for each codec the other budgets, with the number of patches that do not fit.

    """

    table: pd.DataFrame
    left_out: dict[str, dict[int, int]]


@dataclass(frozen=True, kw_only=True)
class ModelErrors:
    """What a model makes of patches.

    Attributes:
        latents: their number, and so the bytes of a patch.
        rounded: means of mse, psnr and ssim with latents of 8 bits.
        exact: the same with latents as the encoder computes them.

    """

    latents: int
    rounded: dict[str, float]
    exact: dict[str, float]


def budgets_for(sizes: Sequence[int], values: int) -> list[int]:
    """List the budgets of codecs: `BUDGETS` and the sizes of models, as far as a patch has more bytes.

    Args:
        sizes: latents of each model.
        values: of a patch: pixels times channels.

    Returns:
        Bytes, ascending.

    Example:
        >>> budgets_for([100, 512], 16 * 16 * 3)
        [64, 100, 128, 256, 512]

    """
    return sorted(size for size in {*BUDGETS, *sizes} if size < values)


def measure_codecs(patches: NDArray[np.uint8], budgets: Sequence[int], executor: Executor) -> CodecErrors:
    """Encode patches with each codec and for each budget, on all cores, and measure the errors.

    Args:
        patches: uint8, shape (n, height, width, 3).
        budgets: bytes per patch.
        executor: the section of params.yaml.

    Returns:
        The errors.

    Raises:
        DataError: a worker died.

    """
    tasks = [(patches[start : start + PART], budgets) for start in range(0, len(patches), PART)]
    results = dict(spread(codecs.encode_all, tasks, executor, "codecs", "parts"))
    if died := sum(isinstance(result, WorkerDiedError) for result in results.values()):
        raise DataError(f"codecs: workers died at {died} of {len(tasks)} parts; give the workers more memory")
    encoded = [patch for number in range(len(tasks)) for patch in results[number]]
    rows, left_out = [], dict[str, dict[int, int]]()
    for codec in codecs.CODECS:
        left_out[codec] = {}
        for budget in budgets:
            files = [patch[codec][budget] for patch in encoded if budget in patch[codec]]
            if len(files) < len(patches):
                left_out[codec][budget] = len(patches) - len(files)
                continue
            decoded = np.stack([codecs.decode(file.data) for file in files])
            rows.append(
                {
                    "method": codec,
                    "kind": "codec",
                    "bytes": budget,
                    "mean_bytes": float(np.mean([file.counted for file in files])),
                    **_means(decoded.astype(np.float32) / np.float32(255), patches),
                }
            )
    return CodecErrors(table=pd.DataFrame(rows, columns=COLUMNS), left_out=left_out)


def measure_model(cae: CAE, training: NDArray[np.uint8], patches: NDArray[np.uint8]) -> ModelErrors:
    """Round the latents of patches to 8 bits and measure the errors of their reconstructions.

    Args:
        cae: the autoencoder; without a latent layer its latents are the values of the last feature map.
        training: uint8, shape (n, height, width, 3): patches that give the range of each latent.
        patches: uint8, shape (n, height, width, 3): to be measured.

    Returns:
        The errors.

    """
    rounding = Rounding.of(samples.encode(cae, InMemory(training), None))
    latents = samples.encode(cae, InMemory(patches), None)
    rounded = rounding.latents(rounding.levels(latents))
    return ModelErrors(
        latents=int(np.prod(latents.shape[1:])),
        rounded=_means(_decode(cae, rounded), patches),
        exact=_means(_decode(cae, latents), patches),
    )


def joined(errors: CodecErrors, models: Mapping[str, ModelErrors]) -> pd.DataFrame:
    """Join the errors of codecs and models in one table.

    Args:
        errors: of codecs.
        models: errors by name.

    Returns:
        Columns `COLUMNS`; the codecs come first.

    """
    rows = [
        {"method": name, "kind": "model", "bytes": model.latents, "mean_bytes": float(model.latents), **model.rounded}
        for name, model in models.items()
    ]
    return pd.DataFrame([*errors.table.to_dict("records"), *rows], columns=COLUMNS)


def sentences(errors: CodecErrors, models: Mapping[str, ModelErrors]) -> list[str]:
    """Say in words who has the smaller error at the size of each model, and what rounding costs.

    Args:
        errors: of codecs.
        models: errors by name.

    Returns:
        A few sentences per model, in one text, and a sentence per codec with budgets that are left out.

    """
    said = [_verdict(name, model, errors.table) for name, model in models.items()]
    for codec, counts in errors.left_out.items():
        if counts:
            *first, last = [f"{budget:,}" for budget in counts]
            listed = f"{', '.join(first)} and {last}" if first else last
            said.append(
                f"{codec} is left out at {listed} bytes, since even its lowest quality takes more for some patches."
            )
    return said


def _verdict(name: str, model: ModelErrors, table: pd.DataFrame) -> str:
    """Compare a model with the codecs that have as many bytes."""
    mse, ssim, count = model.rounded["mse"], model.rounded.get("ssim"), f"{model.latents:,}"
    rivals = table[table["bytes"] == model.latents]
    text = f"With {count} latents of 8 bits each ({count} bytes), {name} has a test MSE of {mse:.5f}"
    if rivals.empty:
        text += "; no codec was compared at that size."
    else:
        best = rivals.loc[rivals["mse"].idxmin()]
        winner = "codec" if best["mse"] <= mse else "model"
        text += f"; {best['method']}, the best codec at that size, has {best['mse']:.5f}: the {winner} wins."
        if ssim is not None:
            best = rivals.loc[rivals["ssim"].idxmax()]
            winner = "codec" if best["ssim"] >= ssim else "model"
            text += f" Its SSIM is {ssim:.3f}, that of {best['method']} {best['ssim']:.3f}: the {winner} wins."
    before, after = (f"{errors['mse']:.4g}" for errors in (model.exact, model.rounded))
    if before == after:
        return f"{text} Rounding the latents to 8 bits leaves its MSE at {after}."
    verb = "raises" if model.exact["mse"] < mse else "lowers"
    return f"{text} Rounding the latents to 8 bits {verb} its MSE from {before} to {after}."


def _means(reconstructions: NDArray[np.float32], patches: NDArray[np.uint8]) -> dict[str, float]:
    """Average the measures over patches; one without values, as SSIM of small patches, is left out."""
    means = reconstruction.measure_images(reconstructions, patches)[MEASURES].mean().dropna()
    return {name: float(value) for name, value in means.items()}


def _decode(cae: CAE, latents: NDArray[np.float32]) -> NDArray[np.float32]:
    starts = range(0, len(latents), reconstruction.BATCH)
    parts = (cae.decoder(latents[start : start + reconstruction.BATCH], training=False) for start in starts)
    return np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])
