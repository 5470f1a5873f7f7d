"""Encoding patches with the encoder of [8, 16, 32]/512: from the store to latents."""

import tempfile
from pathlib import Path

import cohort
import numpy as np
from harness import in_turn, record

from histocae.networks import backend


def main() -> None:
    backend.start()
    backend.repeatable(1)
    from histocae import CAE
    from histocae.evaluation.samples import BATCH, encode
    from histocae.networks import fused
    from histocae.training import steps

    with tempfile.TemporaryDirectory() as folder:
        patches_by_slide = cohort.draw(Path(folder), 4) * 4  # as many patches as a few slides have
        store = cohort.store(Path(folder) / "store", patches_by_slide)
        patches = store.select(store.index())
        images = np.concatenate(patches_by_slide)
        cae = CAE((cohort.PIXELS, cohort.PIXELS, 3), 512, [8, 16, 32])
        floats = images.astype(np.float32) / np.float32(255)
        latents = {}

        def keep(name, values):
            latents[name] = values

        def by_batches():
            starts = range(0, len(floats), BATCH)
            return np.concatenate([cae.encoder.predict_on_batch(floats[start : start + BATCH]) for start in starts])

        compiled = steps.compiled(fused.encoder_on_bytes(cae))

        def layers_alone():
            for start in range(0, len(images), BATCH):
                compiled(images[start : start + BATCH])

        medians = in_turn(
            {
                "encoder.predict, floats in memory": lambda: keep("predict", cae.encoder.predict(floats, verbose=0)),
                "encoder.predict_on_batch": lambda: keep("batches", by_batches()),
                "limit: the layers, compiled": layers_alone,
                "histocae, from the store": lambda: keep("histocae", encode(cae, patches, "encoding")),
            },
            7,
            len(floats),
            "patches",
        )
        difference = np.abs(latents["histocae"] - latents["predict"]).max() / np.abs(latents["predict"]).max()
        print(f"latents differ by at most {difference:.1e} of the largest")
        predict, limit = medians["encoder.predict, floats in memory"], medians["limit: the layers, compiled"]
        record(
            "encoding_vs_predict",
            predict / medians["histocae, from the store"],
            2,
            "higher",
            f"latents of {len(floats)} patches from the store against encoder.predict on floats in memory",
            reason=f"the layers alone, compiled, on bytes in memory are {predict / limit:.2f} times as fast as "
            f"predict. Encoding from the store reaches {limit / medians['histocae, from the store']:.2f} of their "
            "speed, which no encoding can exceed",
        )


if __name__ == "__main__":
    main()
