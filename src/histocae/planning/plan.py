"""A plan: the cost of each stage for a cohort and params, computed by the cost model."""

from dataclasses import dataclass

from histocae.networks.sizes import Size
from histocae.params import Fit, Params
from histocae.planning import model
from histocae.planning.cohort import CohortSize
from histocae.planning.networks import size
from histocae.planning.stage import HOUR, Machine, Plan, Stage

FLOAT = 4  # bytes
HEADER = 128  # bytes of a shard's


@dataclass(frozen=True)
class Basis:
    """All that a plan is computed from.

    Attributes:
        params: of the pipeline.
        cohort: its size.
        measured: coefficients by name.
        assumed: prices and assumptions by name.
        machine: that the work is distributed over.

    """

    params: Params
    cohort: CohortSize
    measured: dict[str, float]
    assumed: dict[str, float]
    machine: Machine

    def seconds(self, *terms: model.Terms) -> float:
        """Return the core-seconds of some terms of the cost model."""
        return model.total(self.measured, *terms)


def make(
    params: Params, cohort: CohortSize, measured: dict[str, float], assumed: dict[str, float], machine: Machine
) -> Plan:
    """Compute a plan.

    Args:
        params: of the pipeline.
        cohort: its size.
        measured: coefficients by name.
        assumed: prices and assumptions by name.
        machine: that the work is distributed over.

    Returns:
        The plan.

    """
    basis = Basis(params, cohort, measured, assumed, machine)
    stages = _data(basis)
    memory = {
        "train: positions of its patches": cohort.parts["train"]["all"] * measured["read_row_memory"],
        "evaluate, latent, tissue: tables of the split": cohort.patches * measured["table_row_memory"],
    }
    models = {}
    for name in params.models:
        own = _of_model(basis, name)
        stages += own
        models[name] = [stage.name for stage in own]
        features = params.models[name].latent_features
        if features is not None:
            key = "latent: features of one model"
            memory[key] = max(
                cohort.patches * size(params.models[name], params.patches.pixels).latents * FLOAT, memory.get(key, 0)
            )
    if params.pair is not None:
        rows = cohort.parts["test"]["all"]
        stages.append(
            Stage(
                name="tissue",
                inputs=f"{rows:,} test patches",
                disk=rows * measured["report_row_bytes"],
                alone=basis.seconds(model.comparing(cohort.patches)),
            )
        )
    stages += _folds(basis, stages)
    store = _store(basis)
    plan = Plan(stages, models, store, memory)
    return Plan([*stages, _dvc(basis, plan)], models, store, memory)


def _data(basis: Basis) -> list[Stage]:
    """Return the stages metadata, slides, patches and split."""
    cohort, data, pixels = basis.cohort, basis.params.data, basis.params.patches.pixels
    slides, patches, measured = cohort.slides, cohort.patches, basis.measured
    inputs, fetching, drawing = f"{slides:,} slide{'s' * (slides != 1)}", 0.0, 0.0
    bytes_of_slides = cohort.slide_bytes
    if cohort.source == "demo":
        area = slides * (data.demo.side_microns / 1000) ** 2
        bytes_of_slides = area * measured["demo_mm2_bytes"]
        drawing = area * measured["demo_mm2"]
    if cohort.source == "gdc":
        fetching = bytes_of_slides / 1e6 / basis.assumed["download_mb_s"]
    # slides of the GDC that are not kept are fetched, one by one, when their patches are extracted
    fetched_first = cohort.source != "gdc" or data.keep_slides
    checking = basis.seconds({"look_slide": slides, "hash_byte": bytes_of_slides}) if fetched_first else 0.0
    return [
        Stage(
            name="metadata",
            inputs=inputs,
            disk=slides * measured["metadata_slide_bytes"],
            alone=basis.seconds({"metadata_slide": slides}),
        ),
        Stage(
            name="slides",
            inputs=inputs,
            disk=bytes_of_slides if fetched_first and cohort.source in ("demo", "gdc") else 0.0,
            alone=fetching if fetched_first else 0.0,
            shared=drawing + checking,
            units=slides,
            kept=False,
        ),
        Stage(
            name="patches",
            inputs=f"{patches:,} patches",
            disk=_array_bytes(basis)
            + patches * measured["index_row_bytes"]
            + patches * measured["shard_row_bytes"]
            + slides * measured["picture_bytes"],
            alone=basis.seconds(model.indexing(slides, patches)) + (0.0 if fetched_first else fetching),
            shared=basis.seconds(model.extracting(slides, patches, pixels)),
            units=slides,
        ),
        Stage(
            name="split",
            inputs=f"{patches:,} rows",
            disk=patches * measured["split_row_bytes"],
            alone=basis.seconds(model.splitting(slides, patches)),
        ),
    ]


def _array_bytes(basis: Basis) -> float:
    """Return the bytes of all patches in the store, as uint8 arrays with headers."""
    pixels = basis.params.patches.pixels
    return basis.cohort.patches * pixels**2 * 3 + basis.cohort.slides * HEADER


def _store(basis: Basis) -> dict[str, float]:
    """Return the sizes of the patch store and of its tables, and of a job's share of them."""
    slides, patches, measured = basis.cohort.slides, basis.cohort.patches, basis.measured
    array = _array_bytes(basis)
    index, rows = patches * measured["index_row_bytes"], patches * measured["shard_row_bytes"]
    jobs, files = min(basis.machine.jobs, slides), 3 * slides + 2
    return {
        "shards": slides,
        "files": files,
        "array_bytes": array,
        "index_rows": patches,
        "index_bytes": index,
        "shard_table_bytes": rows,
        "split_bytes": patches * measured["split_row_bytes"],
        "jobs": jobs,
        "job_slides": slides / jobs,
        "job_patches": patches / jobs,
        "job_bytes": (array + rows) / jobs,
        "hash_seconds": basis.seconds(model.hashing(files, array + index + rows)),
        "look_seconds": basis.seconds({"status_start": 1, "status_file": files}),
    }


def _of_model(basis: Basis, name: str) -> list[Stage]:
    """Return the stages of a model."""
    params, cohort = basis.params, basis.cohort
    entry = params.models[name]
    fit, network = entry.training(params.training), size(entry, params.patches.pixels)
    learned = {part: learned_from(cohort.parts[part], entry.cohort, fit.balance) for part in ("train", "validation")}
    stages = [
        _training(basis, name, fit, network, learned),
        _evaluation(basis, name, network, learned["train"]),
    ]
    if entry.latent_features is not None:
        rows = min(cohort.parts["test"]["all"], params.latent.sample)
        stages.append(
            Stage(
                name=f"latent@{name}",
                inputs=f"{cohort.patches:,} x {network.latents} latents",
                disk=rows * basis.measured["report_row_bytes"],
                alone=basis.seconds(model.studying(cohort.patches, network.latents)),
            )
        )
    return stages


def learned_from(parts: dict[str, int], cohort: str, balance: str) -> int:
    """Return how many patches of a part of the split a model learns from, if cases are about the same size.

    Args:
        parts: patches of the part of the split: all, tumor, normal.
        cohort: all, tumor or normal.
        balance: of the training; see params.yaml.

    Returns:
        Number of patches.

    """
    return parts[cohort] if cohort == "all" or balance == "none" else min(parts["tumor"], parts["normal"])


def _training(basis: Basis, name: str, fit: Fit, network: Size, learned: dict[str, int]) -> Stage:
    cohort, machine = basis.cohort, basis.machine
    linear = basis.params.models[name].architecture == "pca"
    epochs = 1 if linear else fit.epochs
    rows = cohort.parts["train"]["all"] + cohort.parts["validation"]["all"]
    slides = cohort.slides * rows / max(1, cohort.patches)
    shared, gpu = 0.0, 0.0
    if linear:
        shared = basis.seconds(
            model.components(learned["train"], basis.params.patches.pixels),
            model.evaluating(network, sum(learned.values())),
        )
    elif machine.gpu_patches is not None:
        # validation only goes forward: a third of the work
        gpu = epochs * (learned["train"] + learned["validation"] / 3) / machine.gpu_patches / HOUR
    else:
        shared = epochs * basis.seconds(
            model.learning(network, learned["train"], fit.batch_size),
            model.evaluating(network, learned["validation"]),
        )
    return Stage(
        name=f"train@{name}",
        inputs=f"{learned['train']:,} patches x {epochs} epochs",
        disk=network.weights * FLOAT,
        alone=basis.seconds({"train_start": 1}, model.reading(slides, rows)),
        shared=shared,
        gpu=gpu,
    )


def _evaluation(basis: Basis, name: str, network: Size, learned: int) -> Stage:
    cohort, latents = basis.cohort, basis.params.models[name].latent_features
    validation, test = cohort.parts["validation"]["all"], cohort.parts["test"]["all"]
    work = [
        model.evaluating(network, learned + validation),
        model.measuring(network, test, basis.params.patches.pixels),
    ]
    disk = (validation + test) * basis.measured["report_row_bytes"]
    if latents is not None:
        work.append(model.evaluating(network.encoder, cohort.patches))
        disk += cohort.patches * latents * FLOAT
    return Stage(
        name=f"evaluate@{name}",
        inputs=f"{cohort.patches:,} patches",
        disk=disk,
        alone=basis.seconds({"evaluate_start": 1, "table_row": cohort.patches, "report_row": validation + test}),
        shared=basis.seconds(*work),
    )


def _folds(basis: Basis, stages: list[Stage]) -> list[Stage]:
    """Return the cross-validation: the pair trained on each fold, and measured on its validation and test patches."""
    params, cohort = basis.params, basis.cohort
    count = params.crossvalidation.folds
    if count is None or params.pair is None:
        return []
    trainings = [stage for stage in stages if stage.name in {f"train@{name}" for name in params.pair}]
    networks = [size(params.models[name], params.patches.pixels) for name in params.pair]
    evaluated = cohort.parts["validation"]["all"] + cohort.parts["test"]["all"]
    measuring = sum(basis.seconds(model.evaluating(network, evaluated)) for network in networks)
    return [
        Stage(
            name="crossvalidate",
            inputs=f"{count} folds of a pair",
            disk=count * sum(stage.disk for stage in trainings),
            alone=count * sum(stage.alone for stage in trainings),
            shared=count * (sum(stage.shared for stage in trainings) + measuring),
            gpu=count * sum(stage.gpu for stage in trainings),
        )
    ]


def _dvc(basis: Basis, plan: Plan) -> Stage:
    """Return DVC's work on all outputs: it hashes them and copies them into its cache."""
    files = plan.store["files"] + 2 * basis.cohort.slides + 20 * len(plan.models)
    return Stage(
        name="dvc: hash and cache",
        inputs=f"{files:,} files",
        alone=basis.seconds(model.hashing(files, plan.cache)),
        kept=False,
    )
