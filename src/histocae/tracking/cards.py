"""Model cards: the description of a version in the registry, in Markdown, from its records alone.

After Mitchell et al. 2019, Model Cards for Model Reporting (FAT*, arXiv:1810.03993): what the model is, its data,
its training, its measured quality, its limits, and how to call it.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from histocae.cohort.split import SPLITS
from histocae.contrast.contract import Contract, QualityRule
from histocae.identifiers import PRIMARY_TUMOR, SOLID_TISSUE_NORMAL
from histocae.patches.flags import WORDS
from histocae.tracking import contracts
from histocae.tracking.record import PairRecord, TrainingRecord

PAIR = (
    "A tumor and a normal autoencoder as one model. It takes patches and returns a table with score, error_tumor, "
    "error_normal and class. `champion` is the pair that the pipeline compared last. Each version's description is "
    "its model card."
)
LONGEST = 5000  # characters of a description that a registry in PostgreSQL or MySQL takes
_TISSUES = {"all": "tumor and normal tissue", "tumor": "tumor tissue", "normal": "normal tissue"}
_COLORS = {"rgb": "as scanned", "grey": "converted to gray", "macenko": "stain-normalized (Macenko)"}
_CONVERSION = {
    "rgb": "",
    "grey": " The model converts patches to gray itself.",
    "macenko": (
        ' The model normalizes patches itself, given the stains of their slide: `{"patches": patches, "stains": '
        "stains}`, with stains from `histocae.patches.color.estimate`."
    ),
}
_SHOWN = (0.01, 0.05, 0.5, 0.95, 0.99)  # of the quantiles of training patches


def of_cohort(cohort: str) -> str:
    """Describe a cohort's registered model."""
    return (
        f"Autoencoders of patches of {_TISSUES[cohort]}. `champion` has the smallest validation error, `challenger` "
        "the second smallest; test errors have no influence. Each version's description is its model card."
    )


def of_model(
    record: TrainingRecord, name: str, ranked: Sequence[TrainingRecord], linear: Sequence[TrainingRecord]
) -> str:
    """Write the card of an autoencoder.

    Args:
        record: of the model.
        name: of its registered model.
        ranked: the cohort's candidates, the best on validation first.
        linear: the cohort's linear maps, for comparison; as many are shown as fit in.

    Returns:
        Markdown of up to LONGEST characters.

    """
    shown = list(linear)
    card = _of_model(record, name, ranked, shown)
    while len(card) > LONGEST and shown:
        shown.pop()
        card = _of_model(record, name, ranked, shown)
    return card


def _of_model(
    record: TrainingRecord, name: str, ranked: Sequence[TrainingRecord], linear: Sequence[TrainingRecord]
) -> str:
    training = record.training
    rank = [candidate.name for candidate in ranked].index(record.name) + 1
    standing = f"It is number {rank} of {len(ranked)}" if len(ranked) > 1 else "It is the only candidate"
    pixels = training["params"]["patches"]["pixels"]
    return _joined(
        f"{record.name}, an autoencoder of patches of {_TISSUES[training['cohort']]}: {_architecture(record)}",
        f"It reconstructs a patch from {training['latent_size']:,} latents; a patch has {3 * pixels**2:,} values. "
        f"{standing} in its cohort by validation error.",
        "## Data",
        _source(record),
        _patches(record),
        "## Training",
        _training(record),
        "## Reconstruction",
        _errors(record),
        _beside_linear(record, linear),
        _latents(record),
        "## Limits",
        _lines(f"- {contracts.labels(record)}", f"- {contracts.NOT_FOR}", _synthetic(record)),
        _contract(contracts.of_training(record)),
        "## How to call it",
        _code(
            f'model = mlflow.pyfunc.load_model("models:/{name}@champion")',
            f"images = model.predict({_input(record)})  "
            f"# uint8, N x {pixels} x {pixels} x 3 -> float32 in about [0, 1]",
        ),
        _score_slide(name),
    )


def of_pair(pair: PairRecord, name: str) -> str:
    """Write the card of a pair.

    Args:
        pair: both models and the results of their comparison.
        name: of its registered model.

    Returns:
        Markdown of up to LONGEST characters.

    """
    findings = [f"- {sentence}" for sentence in pair.tissue["sentences"]]
    card = _of_pair(pair, name, findings)
    while len(card) > LONGEST:
        findings = [*findings[:-2], "- More findings are in reports/tissue/metrics.json."]
        card = _of_pair(pair, name, findings)
    return card


def _of_pair(pair: PairRecord, name: str, findings: Sequence[str]) -> str:
    tissue, pixels = pair.tissue, pair.tumor.training["params"]["patches"]["pixels"]
    records = (pair.tumor, pair.normal)
    return _joined(
        f"{pair.tumor.name} and {pair.normal.name}, two autoencoders: one trained on tumor, one on normal tissue.",
        f"The score of a patch is {tissue['score']}. The higher it is, the more the patch looks "
        f"like tumor. At or above the threshold of {tissue['threshold']['patch']:.4f}, the class is {PRIMARY_TUMOR}; "
        f"below it, {SOLID_TISSUE_NORMAL}. The threshold was chosen on validation cases.",
        *(f"{record.name}: {_architecture(record)}" for record in records),
        "## Data",
        _source(pair.tumor),
        *(f"{record.name}: {_counts(record)}" for record in records),
        "## Discrimination of tumor and normal",
        _discrimination(pair),
        "Mean squared errors of the test patches:",
        _matrix(pair),
        _lines(*findings),
        "## Limits",
        _lines(f"- {contracts.NOT_FOR}", _synthetic(pair.tumor)),
        _contract(contracts.of_pair(pair)),
        "## How to call it",
        _code(
            f'model = mlflow.pyfunc.load_model("models:/{name}@champion")',
            f"table = model.predict({_input(pair.tumor)})  # uint8, N x {pixels} x {pixels} x 3",
        ),
        _score_slide(name),
        "Or as a server:",
        f"```\nmlflow models serve -m models:/{name}@champion --env-manager local --port 5001\n"
        "curl http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' "
        "-d '{\"inputs\": [[[[231, 180, 205], ...'\n```",
        f"`inputs` are whole numbers from 0 to 255, N x {pixels} x {pixels} x 3. The server answers anything else "
        "with status 400 and the reason.",
    )


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


def _lines(*lines: str) -> str:
    return "\n".join(line for line in lines if line)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    # MLflow shows tables without any space between columns
    first, *rest = ([row[0], *(f"&emsp;{cell}" for cell in row[1:])] for row in (header, *rows))
    lines = [first, ["---"] * len(header), *rest]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _code(*lines: str) -> str:
    return "```python\nimport mlflow\n\n" + "\n".join(lines) + "\n```"


def _architecture(record: TrainingRecord) -> str:
    training = record.training
    dense = f"{training['latent_features']} latent features" if training["latent_features"] else "no dense layer"
    return (
        f"architecture {training['model']['architecture']}, filters {'-'.join(str(n) for n in record.filters)}, "
        f"{dense}, {training['parameters']:,} parameters."
    )


def _source(record: TrainingRecord) -> str:
    params = record.training["params"]
    source, patches = params["data"]["source"], params["patches"]
    cohort = "the procedural demo cohort" if source == "demo" else f"source `{source}`"
    # tiles keep a resolution of their own
    scale = f" at {patches['mpp']:g} microns per pixel" if source != "tiles" else ""
    return (
        f"From {cohort}: patches of {patches['pixels']} pixels{scale}, colors {_COLORS[patches['color']]}."
        f"{_CONVERSION[patches['color']]} Each {params['split']['together']} is in one part of the split only."
    )


def _patches(record: TrainingRecord) -> str:
    rows = []
    for split in SPLITS:
        table = record.tables[split]
        if table is None:
            return f"{_counts(record)} The tables of the split have changed since the training."
        counts = (table.distinct["case_id"], table.distinct["slide_id"], table.rows)
        rows.append([split, *(f"{count:,}" for count in counts)])
    return _table(("", "cases", "slides", "patches"), rows)


def _counts(record: TrainingRecord) -> str:
    patches = record.training["patches"]
    return f"{patches['train']:,} training patches and {patches['validation']:,} validation patches."


def _training(record: TrainingRecord) -> str:
    training, fit = record.training, record.training["params"]["training"]
    start = f" It started from the weights of {first}." if (first := training["model"]["init_from"]) else ""
    return (
        f"{training['epochs']} of at most {fit['epochs']} epochs, batches of {fit['batch_size']}, {fit['optimizer']} "
        f"at {fit['learning_rate']:g} ({fit['schedule']}), loss {_loss(training['model'])}. The weights are those "
        f"of epoch {training['best_epoch']}, the best on validation.{start}"
    )


def _loss(model: Mapping[str, Any]) -> str:
    perceptual = model.get("perceptual")  # earlier versions lack it
    if perceptual is None:
        return str(model["loss"])
    return (
        f"{model['loss']} (MSE of pixels + {perceptual['weight']:g} × distance of the features of "
        f"{', '.join(perceptual['layers'])} of {PurePath(perceptual['network']).name}, "
        f"SHA-256 {perceptual['sha256']})"
    )


def _errors(record: TrainingRecord) -> str:
    metrics = record.metrics
    rows = [
        ["MSE (pixels in [0, 1])", *(f"{metrics[f'{split}_mse']:.5f}" for split in SPLITS)],
        ["PSNR, dB", "", "", f"{metrics['test_psnr']:.2f}"],
    ]
    if "test_ssim" in metrics:
        rows.append(["SSIM", "", "", f"{metrics['test_ssim']:.3f}"])
    rows.append(["MSE of the mean color alone", "", "", f"{metrics['test_mean_color_mse']:.5f}"])
    return _table(("", *SPLITS), rows)


def _beside_linear(record: TrainingRecord, linear: Sequence[TrainingRecord]) -> str:
    if not linear:
        return ""
    lines = ["For comparison, principal components of the same patches (linear maps, which are never registered):\n"]
    for baseline in linear:
        error = baseline.metrics["validation_mse"]
        verdict = "**better than this model**" if error < record.metrics["validation_mse"] else "worse"
        size = f"{baseline.training['latent_size']:,} components"
        lines.append(f"- {baseline.name} ({size}): validation MSE {error:.5f}, {verdict}.")
    return "\n".join(lines)


def _latents(record: TrainingRecord) -> str:
    metrics = {} if record.latent is None else record.latent["metrics"]
    rows = []
    for key in sorted(key for key in metrics if key.startswith("latent_")):
        name = key.removeprefix("latent_")
        others = (metrics.get(f"{prefix}_{name}") for prefix in ("pixel", "outside"))
        rows.append([name, f"{metrics[key]:.4g}", *("" if other is None else f"{other:.4g}" for other in others)])
    if not rows:
        return ""
    heads, what = ("test patches", "latents", "pixels"), "the same number of principal components of the pixels"
    if any(key.startswith("outside_") for key in metrics):
        return f"The latents, {what}, and features of another encoder:\n\n" + _table((*heads, "outside"), rows)
    return f"The latents, and {what}:\n\n" + _table(heads, [row[:3] for row in rows])


def _synthetic(record: TrainingRecord) -> str:
    demo = record.training["params"]["data"]["source"] == "demo"
    return f"- {contracts.SYNTHETIC}" if demo else ""


def _contract(contract: Contract | None) -> str:
    """Show what another slide's patches are compared with: thresholds, and quantiles of the training patches."""
    if contract is None:
        return ""
    training, patches = contract.training, contract.patches
    lines = [
        f"Patches of other slides are extracted as these were: {patches.pixels} pixels"
        + (f" at {patches.mpp:g} microns per pixel" if patches.mpp else "")
        + f", at least {100 * patches.tissue_share:g} % tissue, color {patches.color}.",
        _left_out(patches.quality),
    ]
    if contract.levels is not None:
        levels = contract.levels
        thresholds = {"patch": levels.patch, "slide": levels.slide, "case": levels.case}
        named = ", ".join(f"{decision.threshold:.4f} per {level}" for level, decision in thresholds.items())
        lines.append(f"Thresholds, fixed on validation cases: {named}.")
    names = ("error",) if contract.levels is None else ("error_min", "score")
    rows = [[name, *(f"{training.quantile(name, level):.4g}" for level in _SHOWN)] for name in (*names, "color")]
    header = (f"{training.patches:,} training patches", *(f"{100 * level:g} %" for level in _SHOWN))
    return _joined("## Other slides", " ".join(lines), _table(header, rows)).strip()


def _left_out(rule: QualityRule | None) -> str:
    if rule is None:
        return "Faults of patches, such as ink, were not measured."
    faults = [WORDS[fault] for fault in rule.left_out]
    return f"Patches {', '.join(faults)} are left out." if faults else "Patches with faults, such as ink, are kept."


def _input(record: TrainingRecord) -> str:
    stained = record.training["params"]["patches"]["color"] == "macenko"
    return '{"patches": patches, "stains": stains}' if stained else "patches"


def _score_slide(name: str) -> str:
    return f"To score a slide:\n\n```\nhistocae score SLIDE --model models:/{name}@champion\n```"


def _discrimination(pair: PairRecord) -> str:
    def cell(estimate: Mapping[str, float]) -> str:
        return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"

    levels = ("patch", "slide", "case")
    tissue = pair.tissue
    rows = [[f"{key.upper()}", *(cell(tissue[f"{key}_{level}"]) for level in levels)] for key in ("auroc", "auprc")]
    rows += [
        [f"{rate} at the threshold", *(cell(tissue["at_threshold"][level][rate]) for level in levels)]
        for rate in ("accuracy", "sensitivity", "specificity")
    ]
    counts = [tissue["counts"][level] for level in levels]
    rows.append(["units, tumor + normal", *(f"{count['positive']:,} + {count['negative']:,}" for count in counts)])
    return _table(("test cases", *(f"per {level}" for level in levels)), rows)


def _matrix(pair: PairRecord) -> str:
    mse = pair.tissue["mse"]
    rows = [
        [data, *(f"{mse[f'{data}_data'][f'{model}_model']:.6f}" for model in ("tumor", "normal"))]
        for data in ("tumor", "normal")
    ]
    return _table(("patches of", "tumor model", "normal model"), rows)
