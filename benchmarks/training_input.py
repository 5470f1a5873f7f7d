"""The input of a training without the training: float32 patches in a shuffled order."""

import tempfile
from pathlib import Path

import cohort
import numpy as np
from harness import in_turn, record

from histocae.networks import backend


def main() -> None:
    backend.start()
    import tensorflow as tf
    from seeds_training import BATCH, ImageFiles

    from histocae.patches.images import InMemory
    from histocae.training.batches import Batches

    with tempfile.TemporaryDirectory() as folder:
        patches_by_slide = cohort.draw(Path(folder), 4)
        paths = cohort.files(Path(folder) / "png", patches_by_slide)
        store = cohort.store(Path(folder) / "store", patches_by_slide)
        patches = store.select(store.index())
        stacked = np.concatenate(patches_by_slide)
        iterator = ImageFiles(paths, cohort.PIXELS)
        dataset = (
            tf.data.Dataset.from_tensor_slices([str(path) for path in paths])
            .shuffle(len(paths))
            .map(lambda path: tf.image.decode_png(tf.io.read_file(path), 3), tf.data.AUTOTUNE)
            .batch(BATCH)
            .map(lambda batch: tf.cast(batch, tf.float32) / 255)
            .prefetch(tf.data.AUTOTUNE)
        )
        epochs = [0]

        def notebooks() -> None:
            for i in range(len(iterator)):
                iterator[i]
            iterator.on_epoch_end()

        def tf_data() -> None:
            for _ in dataset:
                pass

        def feed(images):
            epochs[0] += 1
            batches = Batches(images, BATCH, 0, epochs[0])
            for i in range(len(batches)):
                np.multiply(batches[i][0], np.float32(1 / 255))

        medians = in_turn(
            {
                "the notebooks' iterator": notebooks,
                "tf.data over PNG files": tf_data,
                "limit: all patches in memory": lambda: feed(InMemory(stacked)),
                "histocae": lambda: feed(patches),
            },
            5,
            len(paths),
            "patches",
        )
        record(
            "training_input_vs_seeds",
            medians["the notebooks' iterator"] / medians["histocae"],
            12,
            "higher",
            f"reading {len(paths)} shuffled patches as float32: the patch store against the notebooks' iterator over "
            "PNG files",
        )


if __name__ == "__main__":
    main()
