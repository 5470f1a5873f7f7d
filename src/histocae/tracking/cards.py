"""Model cards: what a version in the registry is, in Markdown, from its records alone.

After Mitchell et al. 2019, Model Cards for Model Reporting (FAT*, arXiv:1810.03993): what it
is, what it was made from, how good it is, what it is not for, how to call it.
"""

from collections.abc import Sequence

from histocae.cohort.split import SPLITS
from histocae.identifiers import PRIMARY_TUMOR, SOLID_TISSUE_NORMAL
from histocae.tracking.record import PairRecord, TrainingRecord

PAIR = (
    "A tumor and a normal autoencoder as one model: patches in, a table of score, error_tumor, error_normal and "
    "class out. `champion` is the pair that the pipeline compared last; each version's description is its card."
)
LONGEST = 5000  # what a registry in PostgreSQL or MySQL takes as a description
_TISSUES = {"all": "tumor and normal tissue", "tumor": "tumor tissue", "normal": "normal tissue"}
_COLORS = {"rgb": "as scanned", "grey": "turned grey", "macenko": "stain-normalised (Macenko)"}
_LABELS = (
    "- Labels are per slide, not per patch: a patch of a tumor slide can show normal tissue, and counts as tumor all "
    "the same."
)
_NOT_FOR = (
    "- Not for diagnosis. It was judged on the test slides named above and on nothing else; other scanners, stains, "
    "organs and magnifications are other data."
)


def of_cohort(cohort: str) -> str:
    """Describe a cohort's registered model."""
    return (
        f"Autoencoders of patches of {_TISSUES[cohort]}. `champion` has the smallest validation error, `challenger` "
        "the second smallest; test errors have no say. Each version's description is its card."
    )


def of_model(
    record: TrainingRecord, name: str, ranked: Sequence[TrainingRecord], yardsticks: Sequence[TrainingRecord]
) -> str:
    """Write the card of an autoencoder.

    Args:
        record: of the model.
        name: of its registered model.
        ranked: the cohort's candidates, the best on validation first.
        yardsticks: the cohort's linear models.

    """
    shown = list(yardsticks)
    card = _of_model(record, name, ranked, shown)
    while len(card) > LONGEST and shown:
        shown.pop()
        card = _of_model(record, name, ranked, shown)
    return card


def _of_model(
    record: TrainingRecord, name: str, ranked: Sequence[TrainingRecord], yardsticks: Sequence[TrainingRecord]
) -> str:
    training = record.training
    place = [one.name for one in ranked].index(record.name) + 1
    among = f"Number {place} of {len(ranked)} by validation error" if len(ranked) > 1 else "The only candidate"
    pixels = training["params"]["patches"]["pixels"]
    return _joined(
        f"{record.name}, an autoencoder of patches of {_TISSUES[training['cohort']]}: {_architecture(record)}",
        f"It gives a patch back from {training['latent_size']:,} numbers; it has {3 * pixels**2:,}. "
        f"{among} in its cohort.",
        "## Data",
        _source(record),
        _patches(record),
        "## Training",
        _training(record),
        "## How well it gives patches back",
        _errors(record),
        _beside_yardsticks(record, yardsticks),
        _latents(record),
        "## What it is not for",
        _lines(_LABELS, _NOT_FOR, _synthetic(record)),
        "## How to call it",
        _code(
            f'model = mlflow.pyfunc.load_model("models:/{name}@champion")',
            f"pictures = model.predict(patches)  # uint8, N x {pixels} x {pixels} x 3 -> float32 in about [0, 1]",
        ),
    )


def of_pair(pair: PairRecord, name: str) -> str:
    """Write the card of a pair.

    Args:
        pair: both models and how they compare.
        name: of its registered model.

    """
    told = [f"- {sentence}" for sentence in pair.tissue["sentences"]]
    card = _of_pair(pair, name, told)
    while len(card) > LONGEST:
        told = [*told[:-2], "- More is said in reports/tissue/metrics.json."]
        card = _of_pair(pair, name, told)
    return card


def _of_pair(pair: PairRecord, name: str, told: Sequence[str]) -> str:
    tissue, pixels = pair.tissue, pair.tumor.training["params"]["patches"]["pixels"]
    return _joined(
        f"{pair.tumor.name} and {pair.normal.name}, two autoencoders: one trained on tumor, one on normal tissue.",
        "The score of a patch is log(error_normal) - log(error_tumor): the higher, the more it looks like tumor. "
        f"From the threshold on, {tissue['threshold']['patch']:.4f}, fixed on validation cases, its class is "
        f"{PRIMARY_TUMOR}, else {SOLID_TISSUE_NORMAL}.",
        *(f"{one.name}: {_architecture(one)}" for one in (pair.tumor, pair.normal)),
        "## Data",
        _source(pair.tumor),
        *(f"{one.name}: {_seen(one)}" for one in (pair.tumor, pair.normal)),
        "## How well it tells tumor from normal",
        _discrimination(pair),
        "Mean squared errors of the test patches:",
        _matrix(pair),
        _lines(*told),
        "## What it is not for",
        _lines(_NOT_FOR, _synthetic(pair.tumor)),
        "## How to call it",
        _code(
            f'model = mlflow.pyfunc.load_model("models:/{name}@champion")',
            f"table = model.predict(patches)  # uint8, N x {pixels} x {pixels} x 3",
        ),
        "Or as a server:",
        f"```\nmlflow models serve -m models:/{name}@champion --env-manager local --port 5001\n"
        "curl http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' "
        "-d '{\"inputs\": [[[[231, 180, 205], ...'\n```",
        f"`inputs` are whole numbers from 0 to 255, N x {pixels} x {pixels} x 3; anything else is answered with 400 "
        "and the reason.",
    )


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


def _lines(*lines: str) -> str:
    return "\n".join(line for line in lines if line)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    # MLflow shows tables without any space between columns
    first, *others = ([one[0], *(f"&emsp;{cell}" for cell in one[1:])] for one in (header, *rows))
    lines = [first, ["---"] * len(header), *others]
    return "\n".join("| " + " | ".join(one) + " |" for one in lines)


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
    what = "the embedded procedural demo cohort" if source == "demo" else f"source `{source}`"
    same = (
        " (what it is given has to be made so first: `histocae.patches.color`)" if patches["color"] != "rgb" else ""
    )
    # tiles keep a resolution of their own
    scale = f" at {patches['mpp']:g} microns per pixel" if source != "tiles" else ""
    return (
        f"From {what}: patches of {patches['pixels']} pixels{scale}, colors "
        f"{_COLORS[patches['color']]}{same}. No {params['split']['together']} is in two parts of the split."
    )


def _patches(record: TrainingRecord) -> str:
    rows = []
    for split in SPLITS:
        table = record.tables[split]
        if table is None:
            return f"{_seen(record)} The tables of the split have changed since the training."
        counts = (table.distinct["case_id"], table.distinct["slide_id"], table.rows)
        rows.append([split, *(f"{count:,}" for count in counts)])
    return _table(("", "cases", "slides", "patches"), rows)


def _seen(record: TrainingRecord) -> str:
    seen = record.training["patches"]
    return f"{seen['train']:,} training patches and {seen['validation']:,} validation patches."


def _training(record: TrainingRecord) -> str:
    training, own = record.training, record.training["params"]["training"]
    start = f" It started from the weights of {first}." if (first := training["model"]["init_from"]) else ""
    return (
        f"{training['epochs']} of at most {own['epochs']} epochs, batches of {own['batch_size']}, {own['optimizer']} "
        f"at {own['learning_rate']:g} ({own['schedule']}), loss {training['model']['loss']}; the weights are those "
        f"of epoch {training['best_epoch']}, the best on validation.{start}"
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


def _beside_yardsticks(record: TrainingRecord, yardsticks: Sequence[TrainingRecord]) -> str:
    if not yardsticks:
        return ""
    lines = ["Linear yardsticks, principal components of the same patches, which are never registered:\n"]
    for one in yardsticks:
        other = one.metrics["validation_mse"]
        verdict = "**better than this model**" if other < record.metrics["validation_mse"] else "worse"
        size = f"{one.training['latent_size']:,} components"
        lines.append(f"- {one.name} ({size}): validation MSE {other:.5f}, {verdict}.")
    return "\n".join(lines)


def _latents(record: TrainingRecord) -> str:
    found = {} if record.latent is None else record.latent["metrics"]
    rows = []
    for key in sorted(key for key in found if key.startswith("latent_")):
        what = key.removeprefix("latent_")
        rows.append([what, f"{found[key]:.4g}", f"{found[f'pixel_{what}']:.4g}" if f"pixel_{what}" in found else ""])
    if not rows:
        return ""
    return "What the latents hold, beside as many principal components of the pixels:\n\n" + _table(
        ("test patches", "latents", "pixels"), rows
    )


def _synthetic(record: TrainingRecord) -> str:
    demo = record.training["params"]["data"]["source"] == "demo"
    return "- Its data are synthetic: nothing it shows is about real tissue." if demo else ""


def _discrimination(pair: PairRecord) -> str:
    def cell(one: dict) -> str:
        return f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})"

    levels = ("patch", "slide", "case")
    tissue = pair.tissue
    rows = [[f"{key.upper()}", *(cell(tissue[f"{key}_{level}"]) for level in levels)] for key in ("auroc", "auprc")]
    rows += [
        [f"{rate} at the threshold", *(cell(tissue["at_threshold"][level][rate]) for level in levels)]
        for rate in ("accuracy", "sensitivity", "specificity")
    ]
    counts = [tissue["counts"][level] for level in levels]
    rows.append(["units, tumor + normal", *(f"{one['positive']:,} + {one['negative']:,}" for one in counts)])
    return _table(("test cases", *(f"per {level}" for level in levels)), rows)


def _matrix(pair: PairRecord) -> str:
    mse = pair.tissue["mse"]
    rows = [
        [data, *(f"{mse[f'{data}_data'][f'{model}_model']:.6f}" for model in ("tumor", "normal"))]
        for data in ("tumor", "normal")
    ]
    return _table(("patches of", "tumor model", "normal model"), rows)
