"""Stage evaluate: reconstruction errors of one model, per patch and per slide, with figures; and its latents."""

import logging

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocae import paths
from histocae.cohort.balance import read_split, rows_for_model, select
from histocae.cohort.split import SPLITS
from histocae.contrast import training_data
from histocae.files import replacing_folder, write_json, write_table
from histocae.identifiers import COMPARED
from histocae.networks import backend
from histocae.params import Params
from histocae.patches.store import PatchStore
from histocae.tracking.record import TrainingRecord
from histocae.workers.processes import held

KEPT = ["slide_id", "case_id", "sample_type", "shard", "position"]
PAIRS = 6
GRID = (2, 6)
log = logging.getLogger(__name__)


def run(params: Params, name: str) -> None:
    """Measure a model on the training patches it learned from, and on all validation and test patches.

    Args:
        params: of the pipeline.
        name: of the model.

    """
    trained = TrainingRecord(name).training
    rules = training_data.rules(paths.PATCHING_REPORT / "summary.json")
    cohort = trained["cohort"]
    tables = {split: read_split(paths.SPLITS / f"{split}.csv") for split in SPLITS}
    # all models of a cohort are measured on the same validation patches: their errors choose the champion
    selected = {split: select(tables[split], cohort) for split in ("validation", "test")}
    selected["train"] = rows_for_model(tables["train"], trained)
    backend.start()
    backend.repeatable(params.seed)
    from histocae.evaluation import reconstruction
    from histocae.evaluation.inference import Passes
    from histocae.evaluation.samples import reconstruct, write_latents
    from histocae.networks.cae import CAE
    from histocae.report import plots

    cae = CAE(path=paths.TRAINED / name, load=True)
    store = PatchStore(paths.PATCHES)
    passes = Passes(params, cae, paths.TRAINED / name, trained["weights"], store)
    all_test, validation = tables["test"], _kept(tables["validation"])
    with held(params.executor):
        errors = passes.mse(selected["train"], f"{name} on train")
        validation["mse"] = passes.mse(validation, f"{name} on validation")
        test = pd.concat([_kept(all_test), passes.measures(all_test, f"{name} on test")], axis=1)
        write_latents(cae, paths.LATENTS / name, trained["weights"], tables, passes.write_latents)
    in_cohort = tables["validation"].index.isin(selected["validation"].index)
    metrics = {"train_mse": errors.mean(), "validation_mse": validation["mse"][in_cohort].mean()}
    in_cohort = all_test.index.isin(selected["test"].index)
    for prefix, rows in (("test", test[in_cohort]), ("all_test", test)):
        metrics |= {f"{prefix}_{key}": v for key, v in reconstruction.summarize(rows).items()}

    rng = np.random.default_rng(params.seed)
    with replacing_folder(paths.evaluation(name)) as folder:
        write_table(test, folder / "per_patch.csv", separator=",")
        write_table(validation, folder / "per_patch_validation.csv", separator=",")
        write_table(reconstruction.per_slide(test), folder / "per_slide.csv", separator=",")
        for split in ("train", "test"):
            images = store.select(selected[split]).take(_sample(rng, len(selected[split]), PAIRS))
            figure = plots.plot_paired_imgs(
                images,
                reconstruct(cae, images),
                PAIRS,
                shuffle=False,
                title=f"{name}: {split} patches, their reconstructions, and the error of each pixel",
                residuals=True,
            )
            plots.save(figure, folder / f"pairs_{split}.png")
        for tissue, sample_type in zip(("tumor", "normal"), COMPARED, strict=True):
            rows = all_test[all_test["sample_type"] == sample_type]
            if len(rows):
                images = store.select(rows).take(_sample(rng, len(rows), GRID[0] * GRID[1]))
                figure = plots.plot_sample_imgs(images, *GRID, shuffle=False, title=f"Test patches: {sample_type}")
                plots.save(figure, folder / f"samples_{tissue}.png")
        plots.save(plots.plot_errors(test, f"{name}: error of the test patches"), folder / "errors.png")
        write_json({"model": name, "weights": trained["weights"], "metrics": metrics}, folder / "metrics.json")
        training = training_data.measure({"error": errors}, store.select(selected["train"]), params.seed)
        described = {"weights": trained["weights"], **rules}
        write_json({**described, **training.as_json()}, folder / "distribution.json")
    log.info(
        "%s: MSE train %.5f, validation %.5f, test %.5f; test PSNR %.2f dB",
        name,
        metrics["train_mse"],
        metrics["validation_mse"],
        metrics["test_mse"],
        metrics["test_psnr"],
    )


def _kept(table: pd.DataFrame) -> pd.DataFrame:
    return table[KEPT].reset_index(drop=True)


def _sample(rng: np.random.Generator, count: int, most: int) -> NDArray[np.int64]:
    return np.sort(rng.choice(count, min(count, most), replace=False))
