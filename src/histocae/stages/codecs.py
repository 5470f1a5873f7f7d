"""Stage codecs: models with latents of 8 bits beside JPEG, JPEG 2000 and WebP, at equal bytes."""

import logging

from histocae import paths
from histocae.cohort.balance import read_split, select
from histocae.files import replacing_folder, write_json, write_table
from histocae.networks import backend
from histocae.params import Params
from histocae.patches.sampling import draw
from histocae.patches.store import PatchStore
from histocae.tracking.record import TrainingRecord

TESTED = 128  # the largest number of test patches: finding the settings of codecs takes a tenth of a second for each
RANGED = 1000  # the largest number of training patches, which give the ranges of latents
log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Write reports/codecs: a table, a figure, and sentences in metrics.json.

    Args:
        params: of the pipeline.

    """
    store, patches = PatchStore(paths.PATCHES), {}
    counts = {}
    for split, most in (("train", RANGED), ("test", TESTED)):
        rows = select(read_split(paths.SPLITS / f"{split}.csv"), "all")
        counts[split] = len(rows)
        patches[split] = store.select(rows).take(draw(len(rows), most, params.seed))
    # models of one tissue are tested on other patches
    records = [TrainingRecord(name) for name, model in params.models.items() if model.cohort == "all"]
    sizes = {record.name: record.training["latent_size"] for record in records}
    backend.start()
    backend.repeatable(params.seed)
    from histocae.evaluation import compression, plots
    from histocae.networks.cae import CAE
    from histocae.report.plots import save

    budgets = compression.budgets_for(list(sizes.values()), patches["test"][0].size)
    codecs = compression.measure_codecs(patches["test"], budgets, params.executor)
    models = {
        record.name: compression.measure_model(CAE(path=record.folder, load=True), patches["train"], patches["test"])
        for record in records
    }
    table = compression.joined(codecs, models)
    sentences = compression.sentences(codecs, models)
    with replacing_folder(paths.CODECS) as folder:
        write_table(table, folder / "codecs.csv", separator=",")
        save(plots.plot_compression(table), folder / "codecs.png")
        write_json(
            {
                "patches": len(patches["test"]),
                "of": counts["test"],
                "budgets": budgets,
                "left_out": codecs.left_out,
                "models": {
                    record.name: {
                        "weights": record.training["weights"],
                        "latents": models[record.name].latents,
                        "rounded": models[record.name].rounded,
                        "exact": models[record.name].exact,
                    }
                    for record in records
                },
                "sentences": sentences,
            },
            folder / "metrics.json",
        )
    for sentence in sentences:
        log.info("%s", sentence)
