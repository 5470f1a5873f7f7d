"""A plan: what each stage takes for a cohort and params, put together from the cost model."""

from collections.abc import Callable

from histocae.params import Fit, Params
from histocae.planning import model
from histocae.planning.cohort import Known
from histocae.planning.networks import Size, size
from histocae.planning.stage import HOUR, Machine, Plan, Stage

FLOAT = 4  # bytes
HEADER = 128  # bytes of a shard's


def make(
    params: Params, cohort: Known, measured: dict[str, float], assumed: dict[str, float], machine: Machine
) -> Plan:
    """Put a plan together.

    Args:
        params: of the pipeline.
        cohort: how large it is.
        measured: coefficients by name.
        assumed: prices and assumptions by name.
        machine: what the work is spread over.

    """
    plan = Plan()

    def took(*terms: model.Terms) -> float:
        return model.total(measured, *terms)

    _data(plan, params, cohort, measured, assumed, machine, took)
    for name in params.models:
        _of_model(plan, params, name, cohort, measured, machine, took)
    if params.pair is not None:
        rows = cohort.parts["test"]["all"]
        disk = rows * measured["report_row_bytes"]
        plan.stages.append(Stage("tissue", f"{rows:,} test patches", disk, alone=took(model.telling(cohort.patches))))
    _folds(plan, params, cohort, machine, took)
    _dvc(plan, cohort, measured, took)
    return plan


def _data(
    plan: Plan,
    params: Params,
    cohort: Known,
    measured: dict[str, float],
    assumed: dict[str, float],
    machine: Machine,
    took: Callable[..., float],
) -> None:
    slides, patches, pixels, data = cohort.slides, cohort.patches, params.patches.pixels, params.data
    things, fetching = f"{slides:,} slide{'s' * (slides != 1)}", 0.0
    size = cohort.slide_bytes
    getting = Stage("slides", things, kept=False, units=slides)
    if cohort.source == "demo":
        area = slides * (data.demo.side_microns / 1000) ** 2
        size = area * measured["demo_mm2_bytes"]
        getting.shared += area * measured["demo_mm2"]
    if cohort.source == "gdc":
        fetching = size / 1e6 / assumed["download_mb_s"]
    if cohort.source != "gdc" or data.keep_slides:
        getting.shared += took({"look_slide": slides, "hash_byte": size})
        getting.disk = size if cohort.source in ("demo", "gdc") else 0.0
        getting.alone = fetching
    plan.stages += [
        Stage("metadata", things, slides * measured["metadata_slide_bytes"], alone=took({"metadata_slide": slides})),
        getting,
    ]
    array = patches * pixels**2 * 3 + slides * HEADER
    index, rows = patches * measured["index_row_bytes"], patches * measured["shard_row_bytes"]
    cutting = Stage(
        "patches",
        f"{patches:,} patches",
        array + index + rows + slides * measured["picture_bytes"],
        took(model.indexing(slides, patches)),
        took(model.cutting(slides, patches, pixels)),
        slides,
    )
    if cohort.source == "gdc" and not data.keep_slides:
        cutting.alone += fetching
        getting.disk = 0.0
    tables = patches * measured["split_row_bytes"]
    plan.stages += [cutting, Stage("split", f"{patches:,} rows", tables, took(model.splitting(slides, patches)))]
    jobs = min(machine.jobs, slides)
    plan.store = {
        "shards": slides,
        "files": 3 * slides + 2,
        "array_bytes": array,
        "index_rows": patches,
        "index_bytes": index,
        "shard_table_bytes": rows,
        "split_bytes": tables,
        "jobs": jobs,
        "job_slides": slides / jobs,
        "job_patches": patches / jobs,
        "job_bytes": (array + rows) / jobs,
        "hash_seconds": took(model.hashing(3 * slides + 2, array + index + rows)),
        "look_seconds": took({"status_start": 1, "status_file": 3 * slides + 2}),
    }
    plan.memory = {
        "train: positions of its patches": cohort.parts["train"]["all"] * measured["read_row_memory"],
        "evaluate, latent, tissue: tables of the split": patches * measured["table_row_memory"],
    }


def _of_model(
    plan: Plan,
    params: Params,
    name: str,
    cohort: Known,
    measured: dict[str, float],
    machine: Machine,
    took: Callable[..., float],
) -> None:
    """Add the stages of a model."""
    entry, pixels = params.models[name], params.patches.pixels
    fit, network, parts = entry.training(params.training), size(entry, pixels), cohort.parts
    own = {part: learnt(parts[part], entry.cohort, fit.balance) for part in ("train", "validation")}
    stages = [
        _training(name, entry.architecture == "pca", fit, network, own, pixels, cohort, machine, took),
        _evaluation(name, network, entry.latent_features, own["train"], pixels, cohort, measured, took),
    ]
    if entry.latent_features is not None:
        stages.append(
            Stage(
                f"latent@{name}",
                f"{cohort.patches:,} x {network.latents} latents",
                min(parts["test"]["all"], params.latent.sample) * measured["report_row_bytes"],
                alone=took(model.studying(cohort.patches, network.latents)),
            )
        )
        held = cohort.patches * network.latents * FLOAT
        plan.memory["latent: features of one model"] = max(held, plan.memory.get("latent: features of one model", 0))
    plan.stages += stages
    plan.models[name] = [one.name for one in stages]


def learnt(parts: dict[str, int], cohort: str, balance: str) -> int:
    """How many patches of a part of the split a model learns from, of cases that are about alike."""
    return parts[cohort] if cohort == "all" or balance == "none" else min(parts["tumor"], parts["normal"])


def _training(
    name: str,
    linear: bool,
    fit: Fit,
    network: Size,
    own: dict[str, int],
    pixels: int,
    cohort: Known,
    machine: Machine,
    took: Callable[..., float],
) -> Stage:
    epochs = 1 if linear else fit.epochs
    rows = cohort.parts["train"]["all"] + cohort.parts["validation"]["all"]
    slides = cohort.slides * rows / max(1, cohort.patches)
    stage = Stage(
        f"train@{name}",
        f"{own['train']:,} patches x {epochs} epochs",
        network.weights * FLOAT,
        alone=took({"train_start": 1}, model.reading(slides, rows)),
    )
    if linear:
        stage.shared = took(model.components(own["train"], pixels), model.judging(network, sum(own.values())))
    elif machine.gpu_patches is not None:
        # validation goes forward alone, a third of the work
        stage.gpu = epochs * (own["train"] + own["validation"] / 3) / machine.gpu_patches / HOUR
    else:
        stage.shared = epochs * took(
            model.learning(network, own["train"], fit.batch_size), model.judging(network, own["validation"])
        )
    return stage


def _evaluation(
    name: str,
    network: Size,
    latents: int | None,
    learnt_from: int,
    pixels: int,
    cohort: Known,
    measured: dict[str, float],
    took: Callable[..., float],
) -> Stage:
    validation, test = cohort.parts["validation"]["all"], cohort.parts["test"]["all"]
    work = [model.judging(network, learnt_from + validation), model.measuring(network, test, pixels)]
    disk = (validation + test) * measured["report_row_bytes"]
    if latents is not None:
        work.append(model.judging(network.encoder, cohort.patches))
        disk += cohort.patches * latents * FLOAT
    return Stage(
        f"evaluate@{name}",
        f"{cohort.patches:,} patches",
        disk,
        took({"evaluate_start": 1, "table_row": cohort.patches, "report_row": validation + test}),
        took(*work),
    )


def _folds(plan: Plan, params: Params, cohort: Known, machine: Machine, took: Callable[..., float]) -> None:
    """Add the cross-validation: the pair on each fold, trained, and measured on validation and test."""
    count = params.crossvalidation.folds
    if count is None:
        return
    trainings = [one for one in plan.stages if one.name in {f"train@{name}" for name in params.pair}]
    networks = [size(params.models[name], params.patches.pixels) for name in params.pair]
    judged = cohort.parts["validation"]["all"] + cohort.parts["test"]["all"]
    disk, alone = sum(one.disk for one in trainings), sum(one.alone for one in trainings)
    shared = sum(one.shared for one in trainings) + sum(took(model.judging(one, judged)) for one in networks)
    gpu = count * sum(one.gpu for one in trainings)
    plan.stages.append(
        Stage("crossvalidate", f"{count} folds of a pair", count * disk, count * alone, count * shared, gpu=gpu)
    )


def _dvc(plan: Plan, cohort: Known, measured: dict[str, float], took: Callable[..., float]) -> None:
    """Add what DVC does with all outputs: hashes them and copies them into its cache."""
    files = plan.store["files"] + 2 * cohort.slides + 20 * len(plan.models)
    plan.stages.append(
        Stage("dvc: hash and cache", f"{files:,} files", kept=False, alone=took(model.hashing(files, plan.cache)))
    )
