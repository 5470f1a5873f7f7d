"""Whether bfloat16 learns as well: test MSE after the same patches in the same order, by seed."""

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
        *seen, held_out = (one[::2] for one in cohort.draw(Path(folder), 4))
        learnt, test, few = InMemory(np.concatenate(seen)), InMemory(held_out), InMemory(held_out[:1])
        errors: dict[str, list[float]] = {"float32": [], "bfloat16": []}
        for seed in range(SEEDS):
            for precision, found in errors.items():
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
                    learnt,
                    few,
                    options,
                    state=State("t"),
                    folder=Path(folder) / f"{precision}-{seed}",
                    fingerprint="f",
                    callbacks=loop.Callbacks(
                        on_epoch=lambda _, cae=cae, found=found: found.append(measure_mse(cae, test, "test").mean())
                    ),
                )
                del found[-EPOCHS:-1]
    for precision, found in errors.items():
        print(f"{precision}: test MSE {', '.join(f'{one:.5f}' for one in found)}")
    ratios = [b / a for a, b in zip(*errors.values(), strict=True)]
    record(
        "bfloat16_test_mse",
        statistics.median(ratios),
        1.02,
        "lower",
        f"test MSE in bfloat16 by that in float32, each after {EPOCHS} epochs of {len(learnt)} patches at batch 32, "
        f"on a slide that neither saw; the median of {SEEDS} seeds ({min(ratios):.4f} to {max(ratios):.4f})",
    )


if __name__ == "__main__":
    main()
