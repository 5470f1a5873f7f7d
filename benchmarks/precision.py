"""Test MSE of training in bfloat16 and in float32, on the same patches in the same order, by seed."""

import statistics
import tempfile
from pathlib import Path

import cohort
import numpy as np
from harness import record

from histocae.networks import backend
from histocae.training.checkpoint import State

EPOCHS, SEEDS = 5, 3


def main() -> None:
    backend.start()
    from histocae import CAE
    from histocae.evaluation.reconstruction import measure_mse
    from histocae.patches.images import InMemory
    from histocae.training import loop

    with tempfile.TemporaryDirectory() as folder:
        *training_slides, test_slide = (patches[::2] for patches in cohort.draw(Path(folder), 4))
        training, test = InMemory(np.concatenate(training_slides)), InMemory(test_slide)
        validation = InMemory(test_slide[:1])
        errors: dict[str, list[float]] = {"float32": [], "bfloat16": []}
        for seed in range(SEEDS):
            for precision, mse in errors.items():
                backend.repeatable(seed)
                cae = CAE((cohort.PIXELS, cohort.PIXELS, 3), 512, [8, 16, 32])
                options = loop.Options(
                    epochs=EPOCHS,
                    batch_size=32,
                    patience=EPOCHS,
                    optimizer="adamax",
                    learning_rate=0.002,
                    seed=seed,
                    precision=precision,
                )
                # weights of the last epoch, so that the choice of the best epoch does not matter
                loop.train(
                    cae,
                    training,
                    validation,
                    options,
                    state=State("t"),
                    folder=Path(folder) / f"{precision}-{seed}",
                    fingerprint="f",
                    callbacks=loop.Callbacks(
                        on_epoch=lambda _, cae=cae, mse=mse: mse.append(measure_mse(cae, test, "test").mean())
                    ),
                )
                del mse[-EPOCHS:-1]
    for precision, mse in errors.items():
        print(f"{precision}: test MSE {', '.join(f'{value:.5f}' for value in mse)}")
    ratios = [bfloat16 / float32 for float32, bfloat16 in zip(*errors.values(), strict=True)]
    record(
        "bfloat16_test_mse",
        statistics.median(ratios),
        1.02,
        "lower",
        f"test MSE in bfloat16 / in float32, each after {EPOCHS} epochs of {len(training)} patches at batch 32, "
        f"on a slide that no model was trained on; the median of {SEEDS} seeds "
        f"({min(ratios):.4f} to {max(ratios):.4f})",
    )


if __name__ == "__main__":
    main()
