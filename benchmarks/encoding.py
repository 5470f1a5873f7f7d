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
        cut = cohort.draw(Path(folder), 4) * 4  # as many patches as a few slides have
        store = cohort.store(Path(folder) / "store", cut)
        patches = store.select(store.index())
        everything = np.concatenate(cut)
        cae = CAE((cohort.PIXELS, cohort.PIXELS, 3), 512, [8, 16, 32])
        floats = everything.astype(np.float32) / np.float32(255)
        found = {}

        def keep(name, latents):
            found[name] = latents

        def by_batches():
            starts = range(0, len(floats), BATCH)
            return np.concatenate([cae.encoder.predict_on_batch(floats[at : at + BATCH]) for at in starts])

        compiled = steps.compiled(fused.encoder_on_bytes(cae))

        def alone():
            for at in range(0, len(everything), BATCH):
                compiled(everything[at : at + BATCH])

        took = in_turn(
            {
                "encoder.predict, floats in memory": lambda: keep("predict", cae.encoder.predict(floats, verbose=0)),
                "encoder.predict_on_batch": lambda: keep("batches", by_batches()),
                "limit: the layers, compiled": alone,
                "histocae, from the store": lambda: keep("ours", encode(cae, patches, "encoding")),
            },
            7,
            len(floats),
            "patches",
        )
        apart = np.abs(found["ours"] - found["predict"]).max() / np.abs(found["predict"]).max()
        print(f"latents differ by at most {apart:.1e} of the largest")
        theirs, limit = took["encoder.predict, floats in memory"], took["limit: the layers, compiled"]
        record(
            "encoding_vs_predict",
            theirs / took["histocae, from the store"],
            2,
            "higher",
            f"latents of {len(floats)} patches from the store against encoder.predict on floats in memory",
            reason=f"the layers alone, compiled, on bytes in memory are {theirs / limit:.2f} times as fast as "
            f"predict, and from the store it goes at {limit / took['histocae, from the store']:.2f} of that: no "
            "more than the rest of predict's time can be had",
        )


if __name__ == "__main__":
    main()
