"""Damaged, foreign and hostile files of models: one line, or the result of the whole files; nothing is executed."""

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.exceptions import MlflowException

from histocae import CAE, checksums, paths
from histocae.errors import HistocaeError
from histocae.networks import backend, saved

backend.start()

from histocae.evaluation.samples import write_latents  # noqa: E402 (after the backend suppresses its log messages)
from histocae.latent import stored  # noqa: E402
from histocae.networks.fused import fused_on_bytes  # noqa: E402
from histocae.patches.images import InMemory  # noqa: E402
from histocae.tracking import served_model  # noqa: E402
from histocae.tracking.record import TrainingRecord  # noqa: E402
from histocae.training import checkpoint  # noqa: E402
from histocae.training.checkpoint import State  # noqa: E402
from support import damage, make_data, registered  # noqa: E402

PATCHES = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), np.uint8)
MODELS = {
    "all": {"latent_features": 4, "filters": [2, 3]},
    "other": {"latent_features": 4, "filters": [2, 3]},  # fits in all's place
    "wide": {"latent_features": 5, "filters": [4], "pool": (4, 4)},
    "compact": {"latent_features": 4, "architecture": "compact"},
    "pca": {"latent_features": 4, "architecture": "pca"},
}
PARTS = ("train", "validation", "test")
FEW, MANY = range(25), range(25, 600)


def write_model(name: str) -> None:
    """Write everything that is on disk of a trained and evaluated model, without a training."""
    cae = CAE((16, 16, 3), **MODELS[name])
    folder = paths.TRAINED / name
    cae.save(folder)
    history = pd.DataFrame({"epoch": [1], "loss": [0.25], "validation_loss": [0.5]})
    history.to_csv(folder / "history.csv", sep="|", index=False)
    size = {"latent_features": 4, "latent_size": cae.encoder.output_shape[1]}
    record = make_data.training_record(folder, name, **size)
    run = {"run_id": "r", "training_id": "t", "start": 1, "end": 2, "seconds": 0.5, "stamps": [2], "tags": {}}
    paths.RUNS.mkdir(parents=True, exist_ok=True)
    (paths.RUNS / f"{name}.json").write_text(json.dumps({**run, "weights": record["weights"]}))
    for report in (paths.evaluation(name), paths.latent(name)):
        report.mkdir(parents=True)
        content = {"weights": record["weights"], "metrics": make_data.METRICS}
        (report / "metrics.json").write_text(json.dumps(content))
    write_latents(cae, paths.LATENTS / name, record["weights"], dict.fromkeys(PARTS, InMemory(PATCHES)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with all models, as they were saved."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for number, name in enumerate(MODELS):
            backend.repeatable(number)
            write_model(name)
    return folder


@pytest.fixture
def copy(whole, tmp_path, monkeypatch):
    """A copy of them, the working directory."""
    shutil.copytree(whole, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def restore(whole: Path) -> None:
    """Make the working directory equal the whole folder again."""
    shutil.rmtree("models")
    shutil.rmtree("reports")
    for name in ("models", "reports"):
        shutil.copytree(whole / name, name)


def load_model() -> object:
    cae = CAE(path=paths.TRAINED / "all", load=True)
    return cae.params, np.asarray(cae.model(PATCHES / np.float32(255))).tobytes()


def read_record() -> object:
    record = TrainingRecord("all")
    return (
        record.training,
        record.run,
        record.history.to_dict(),
        record.filters,
        record.evaluation,
        record.latent,
        record.metrics,
        record.is_linear,
    )


def read_latents() -> object:
    folder = paths.LATENTS / "all"
    description = stored.read_description(folder)
    rows = dict.fromkeys(PARTS, PATCHES)
    read = stored.read_features(folder, rows, description["features"])
    return description, {part: latents.tobytes() for part, latents in read.items()}


LOADS: dict[str, tuple[Callable[[], object], Path]] = {
    "model": (load_model, paths.TRAINED),
    "record": (read_record, paths.TRAINED),
    "latents": (read_latents, paths.LATENTS),
}


def outcome(load: Callable[[], object]) -> object:
    """Load; return the result, or None where it is refused in one line. Any other error is a fault."""
    try:
        return load()
    except HistocaeError as error:
        line = str(error)
        assert "\n" not in line and 20 < len(line) < 1000, line
        assert "dvc" in line or "save the CAE again" in line or "run " in line, line
        return None


def damaged(whole: Path, what: str, seeds: range) -> None:
    """Damage a file per seed: with hashes the result is as before or refused, without them nothing else is raised."""
    load, top = LOADS[what]
    expected, refused = repr(load()), 0
    for seed in seeds:
        rng = random.Random(seed)
        with_hashes = rng.random() < 0.6
        if not with_hashes:
            (top / "all" / checksums.FILE).unlink()
        done = damage.damage(top / "all", top / rng.choice([name for name in MODELS if name != "all"]), rng)
        try:
            result = outcome(load)
        except BaseException as error:
            error.add_note(f"seed {seed}: {done}, with hashes: {with_hashes}")
            raise
        refused += result is None
        # the file of hashes alone may be gone or changed: then the folder is as an earlier version wrote it
        if with_hashes and result is not None:
            assert repr(result) == expected, f"seed {seed}: {done}"
        restore(whole)
    assert refused > len(seeds) / 4
    assert repr(load()) == expected


@pytest.mark.parametrize("what", LOADS)
def test_a_damaged_file_is_refused_in_one_line_or_makes_no_difference(whole, copy, what):
    damaged(whole, what, FEW)


@pytest.mark.faults
@pytest.mark.parametrize("what", LOADS)
def test_many_damaged_files_are_refused_in_one_line_or_make_no_difference(whole, copy, what):
    damaged(whole, what, MANY)


REPORTS = {
    "run": paths.RUNS / "all.json",
    "evaluation": paths.evaluation("all") / "metrics.json",
    "latent": paths.latent("all") / "metrics.json",
}


@pytest.mark.parametrize("file", REPORTS.values(), ids=REPORTS)
def test_damaged_reports_are_refused_in_one_line(whole, copy, file):
    for seed in FEW:
        damage.KINDS[seed % len(damage.KINDS)](file, random.Random(seed))
        try:
            outcome(read_record)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        restore(whole)


# -- single faults, each with the line that names it --


@pytest.mark.parametrize(
    "files",
    [
        (saved.ENCODER_FILE,),
        (saved.DECODER_FILE,),
        (saved.ENCODER_FILE, saved.DECODER_FILE),
        (saved.ENCODER_FILE, saved.DECODER_FILE, checksums.FILE),
        (saved.ENCODER_FILE, saved.DECODER_FILE, checksums.FILE, saved.PARAMS_FILE),
    ],
)
def test_weights_of_another_model_of_the_same_layers_are_refused(copy, files):
    for name in files:
        shutil.copyfile(paths.TRAINED / "other" / name, paths.TRAINED / "all" / name)
    with pytest.raises(HistocaeError, match=r"weights\.h5.*(restore it|delete)|training\.json: changed"):
        CAE(path=paths.TRAINED / "all", load=True)


def test_the_record_alone_refuses_other_weights_where_there_are_no_hashes(copy):
    (paths.TRAINED / "all" / checksums.FILE).unlink()
    shutil.copyfile(paths.TRAINED / "other" / saved.ENCODER_FILE, paths.TRAINED / "all" / saved.ENCODER_FILE)
    with pytest.raises(HistocaeError, match=r"not the weights of the training in training\.json; restore it \(dvc"):
        CAE(path=paths.TRAINED / "all", load=True)


def test_the_whole_folder_of_another_model_is_refused(copy):
    shutil.rmtree(paths.TRAINED / "all")
    shutil.copytree(paths.TRAINED / "other", paths.TRAINED / "all")
    with pytest.raises(HistocaeError, match=r"training\.json is of the model other; run dvc repro train@all"):
        _ = TrainingRecord("all").training
    shutil.rmtree(paths.LATENTS / "all")
    shutil.copytree(paths.LATENTS / "other", paths.LATENTS / "all")
    with pytest.raises(HistocaeError, match=r"has the latents of other; run dvc repro evaluate@all"):
        read_latents()


def without_record(name: str = "all") -> Path:
    """Make a model one that a notebook of an earlier version has saved: without hashes and without a record."""
    folder = paths.TRAINED / name
    for file in (checksums.FILE, saved.RECORD_FILE):
        (folder / file).unlink()
    return folder


def test_a_model_without_hashes_and_record_loads(copy):
    expected = load_model()
    without_record()
    assert load_model() == expected


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused_without_a_record(copy, number):
    folder = without_record()
    with h5py.File(folder / saved.DECODER_FILE, "r+") as file:
        file["layers/dense/vars/1"][2] = number
    with pytest.raises(HistocaeError, match=r"decoder\.weights\.h5: .*not finite; save the CAE again"):
        CAE(path=folder, load=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[(key, value) for key in ("latent_features", "stride") for value in (0, -3, "4", 2.0, [4], {}, True)],
        *[("filters", value) for value in (None, 3, ["2", 3], [2, None], [2], [2, 0], [2, 3, 1], [[2]], [1] * 99)],
        *[(key, value) for key in ("pool", "kernel") for value in (None, 2, [2], [2, 2, 2], [0, 2], ["a", "b"])],
        *[("input_shape", value) for value in (None, [16, 16], [17, 16, 3], [0, 16, 3], [16, 16, 10**30], "16")],
        *[("architecture", value) for value in (None, 1, "Plain", ["plain"], "residual", "compact", "pca")],
        *[(key, value) for key in ("optimizer", "lossfn") for value in (None, 1, "", "nonsense", {"name": "Adam"})],
        # these would take terabytes if they were built
        ("latent_features", 2**31 - 1),
        ("latent_features", 10**15),
        ("filters", [10**9, 10**9]),
        ("kernel", [10**6, 10**6]),
        ("input_shape", [16 * 10**7, 16 * 10**7, 3]),
        ("latent_features", None),
    ],
)
def test_bad_params_of_a_saved_model_are_refused_in_one_line_that_names_the_file(copy, key, value):
    folder = without_record()
    file = folder / saved.PARAMS_FILE
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {key: value}))
    with pytest.raises(HistocaeError) as refused:
        CAE(path=folder, load=True)
    line = str(refused.value)
    assert "\n" not in line and line.startswith(str(folder)) and line.endswith("; save the CAE again")


@pytest.mark.parametrize("text", ["", "3", "[1, 2]", "a: [", "\0", "null", "[" * 5000, "a: &a [*a]", "\udcff"])
def test_params_that_are_no_params_are_refused(copy, text):
    folder = without_record()
    (folder / saved.PARAMS_FILE).write_text(text, errors="surrogateescape")
    with pytest.raises(HistocaeError) as refused:
        CAE(path=folder, load=True)
    assert "\n" not in str(refused.value) and str(folder / saved.PARAMS_FILE) in str(refused.value)


def test_params_of_each_other_model_are_refused(copy):
    folder = without_record()
    for other in ("wide", "compact", "pca"):
        shutil.copyfile(paths.TRAINED / other / saved.PARAMS_FILE, folder / saved.PARAMS_FILE)
        with pytest.raises(HistocaeError, match="not the weights of this CAE"):
            CAE(path=folder, load=True)


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}, {"chunks": True}])
def test_an_array_that_claims_more_than_the_file_holds_is_refused(copy, options):
    folder = without_record()
    with h5py.File(folder / saved.ENCODER_FILE, "r+") as file:
        del file["layers/dense/vars/0"]
        file["layers/dense/vars"].create_dataset("0", (10**6, 10**7), np.float32, **{"chunks": (1, 10**4), **options})
    with pytest.raises(HistocaeError, match=r"encoder\.weights\.h5: claims"):
        CAE(path=folder, load=True)


HEAD = "epoch|loss|validation_loss\n"


@pytest.mark.parametrize("damaged_table", ["", "epoch|loss\n1|2\n", HEAD, f"{HEAD}1|2|x\n", "a\n1|2|3\n", "\0\xff"])
def test_a_damaged_history_is_refused(copy, damaged_table):
    folder = paths.TRAINED / "all"
    (folder / "history.csv").write_text(damaged_table)
    with pytest.raises(HistocaeError, match=r"history\.csv: changed since it was saved"):
        _ = TrainingRecord("all").history
    checksums.write(folder)  # as the file that was saved
    with pytest.raises(HistocaeError, match=r"history\.csv: .*; run dvc repro train@all"):
        _ = TrainingRecord("all").history


def test_a_damaged_training_is_not_taken_as_done(copy, caplog):
    record = TrainingRecord("all")
    description = dict(record.training)
    assert record.is_of(description) and not record.is_of(description | {"made_from": "other"})
    assert not caplog.records
    damage.flip(paths.TRAINED / "all" / saved.ENCODER_FILE, random.Random(0))
    assert not TrainingRecord("all").is_of(description)
    assert "all is trained again: models/trained/all/encoder.weights.h5: changed" in caplog.text


# -- nothing in a file is executed --


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path):
        self._file = file

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self._file),))


def hostile_array(file: Path, canary: Path) -> None:
    with open(file, "wb") as handle:
        np.save(handle, np.array([Canary(canary)], object), allow_pickle=True)


def hostile_bytes(file: Path, canary: Path) -> None:
    file.write_bytes(pickle.dumps(Canary(canary)))


def hostile_h5(file: Path, canary: Path) -> None:
    with h5py.File(file, "r+") as opened:
        del opened["layers/dense/vars/0"]
        opened["layers/dense/vars/0"] = np.void(pickle.dumps(Canary(canary)))


def hostile_link(file: Path, canary: Path) -> None:
    with h5py.File(canary.with_name("outside.h5"), "w") as outside:
        outside["x"] = np.zeros((3, 4), np.float32)
    with h5py.File(file, "r+") as opened:
        del opened["layers/dense/vars/0"]
        opened["layers/dense/vars/0"] = h5py.ExternalLink(str(canary.with_name("outside.h5")), "x")


def hostile_model(file: Path, canary: Path) -> None:
    """Write a whole model with a layer of Python code, under the name of a weights file."""
    import keras

    text = str(canary)
    layer = keras.layers.Lambda(lambda x: Path(text).touch() or x, output_shape=(4,))
    model = keras.Sequential([keras.Input((4,)), layer])
    model.save(file.with_name("hostile.keras"))
    canary.unlink(missing_ok=True)
    file.with_name("hostile.keras").rename(file)


def hostile_yaml(file: Path, canary: Path) -> None:
    file.write_text(f"filters: !!python/object/apply:os.mkdir ['{canary}']\n")


@pytest.mark.parametrize("part", [saved.ENCODER_FILE, saved.DECODER_FILE])
@pytest.mark.parametrize("make", [hostile_array, hostile_bytes, hostile_h5, hostile_link, hostile_model])
def test_hostile_weights_are_refused_and_run_nothing(copy, tmp_path, make, part):
    folder = without_record()
    file = folder / part
    make(file, tmp_path / "canary")
    checksums.write(folder)  # the hashes are those of the hostile file
    with pytest.raises(HistocaeError, match=part) as refused:
        CAE(path=folder, load=True)
    assert "\n" not in str(refused.value) and not (tmp_path / "canary").exists()


def test_hostile_params_are_refused_and_run_nothing(copy, tmp_path):
    folder = without_record()
    hostile_yaml(folder / saved.PARAMS_FILE, tmp_path / "canary")
    with pytest.raises(HistocaeError, match=r"params\.yaml: line 1: has the tag"):
        CAE(path=folder, load=True)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("make", [hostile_array, hostile_bytes])
def test_hostile_latents_are_refused_and_run_nothing(copy, tmp_path, make):
    folder = paths.LATENTS / "all"
    make(folder / "train.npy", tmp_path / "canary")
    checksums.write(folder)
    with pytest.raises(HistocaeError, match=r"train\.npy: can't be read: .*; run dvc repro evaluate@all"):
        read_latents()
    assert not (tmp_path / "canary").exists()


def test_a_served_model_refuses_files_that_are_not_those_registered(tmp_path):
    (tmp_path / "networks").mkdir()
    for name in ("contract.json", "networks/saved_model.pb"):
        (tmp_path / name).write_bytes(b"12345")
    with pytest.raises(MlflowException, match=r"SHA256SUMS: can't be read: .*; download the model again"):
        served_model.check(tmp_path)
    checksums.write(tmp_path)
    served_model.check(tmp_path)
    damage.flip(tmp_path / "networks/saved_model.pb", random.Random(0))
    with pytest.raises(MlflowException, match=r"saved_model\.pb: changed since the model was registered"):
        served_model.check(tmp_path)
    (tmp_path / "networks/saved_model.pb").unlink()
    with pytest.raises(MlflowException, match=r"saved_model\.pb: can't be read"):
        served_model.check(tmp_path)


# -- the checkpoint of a killed training --


@pytest.fixture(scope="module")
def saved_checkpoint(tmp_path_factory):
    """A checkpoint after two epochs, the second not better than the first."""
    folder = tmp_path_factory.mktemp("checkpoint") / "all"
    backend.repeatable(5)
    model, state = trained(), State("t", start=1)
    (folder / "samples").mkdir(parents=True)
    for epoch, loss in ((1, 0.25), (2, 0.5)):
        state.rows.append({"epoch": epoch, "loss": loss, "validation_loss": loss})
        state.stamps.append(epoch)
        if epoch == 1:
            state.best, state.best_epoch = loss, 1
        (folder / f"samples/epoch_{epoch:03d}.png").write_bytes(bytes([epoch] * 9))
        checkpoint.save(model, state, folder, "same", better=epoch == 1)
        model.set_weights([weight + 1 for weight in model.get_weights()])
    return folder


def trained():
    """A compiled model, as `loop.train` makes it."""
    import keras

    model = fused_on_bytes(CAE((16, 16, 3), 4, [2]))
    model.compile(optimizer=keras.optimizers.Adamax())
    model.optimizer.build(model.trainable_variables)
    return model


def flat(model) -> bytes:
    variables = [*model.variables, *model.optimizer.variables]
    return b"".join(variable.numpy().tobytes() for variable in variables)


def resume_damaged(saved_checkpoint: Path, tmp_path: Path, caplog, seeds: range) -> None:
    model = trained()
    fresh = flat(model)
    shutil.copytree(saved_checkpoint, tmp_path / "whole")
    state = checkpoint.restore(model, tmp_path / "whole", "same")
    whole = flat(model)
    assert state is not None and len(state.rows) == 2 and whole != fresh
    for seed in seeds:
        folder, rng = tmp_path / f"seed-{seed}", random.Random(seed)
        shutil.copytree(saved_checkpoint, folder)
        done, other = damage.damage(folder, folder / "none", rng), trained()
        before = flat(other)
        caplog.clear()
        found = checkpoint.restore(other, folder, "same")
        if found is None:
            assert flat(other) == before and not folder.exists(), f"seed {seed}: {done}"
            no_state = done.endswith("state.json") and done.startswith("remove") and not caplog.records
            assert no_state or "starts from the first epoch" in caplog.text, f"seed {seed}: {done}"
            assert all("\n" not in record.getMessage() for record in caplog.records)
        else:
            assert found == state and flat(other) == whole, f"seed {seed}: {done}"


def test_a_damaged_checkpoint_resumes_to_the_same_state_or_starts_anew(saved_checkpoint, tmp_path, caplog):
    resume_damaged(saved_checkpoint, tmp_path, caplog, FEW)


@pytest.mark.faults
def test_many_damaged_checkpoints_resume_to_the_same_state_or_start_anew(saved_checkpoint, tmp_path, caplog):
    resume_damaged(saved_checkpoint, tmp_path, caplog, range(25, 300))


def test_a_checkpoint_of_other_layers_leaves_the_model_as_it_was(saved_checkpoint, tmp_path, caplog):
    import keras

    shutil.copytree(saved_checkpoint, tmp_path / "t")
    model = fused_on_bytes(CAE((16, 16, 3), 4, [3]))
    model.compile(optimizer=keras.optimizers.Adamax())
    model.optimizer.build(model.trainable_variables)
    before = flat(model)
    assert checkpoint.restore(model, tmp_path / "t", "same") is None  # the same fingerprint, by a bug
    assert flat(model) == before and "checkpoint not usable" in caplog.text


# -- the stages, on a project that is trained --


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield registered.make(tmp_path_factory.mktemp("registered") / "project", patch)


STAGES = {
    "evaluate all": "models/trained/all",
    "latent all": "models/latents/all",
    "register": "models/trained/all",
    "publish": "models/trained/tumor",
}


@pytest.mark.faults
@pytest.mark.parametrize("stage", STAGES)
def test_stages_refuse_damaged_models_in_one_line_and_leave_the_outputs(project, tmp_path, monkeypatch, stage):
    copied = registered.copy(project, tmp_path / "project", monkeypatch)
    folder, others = copied.folder / STAGES[stage], copied.folder / Path(STAGES[stage]).with_name("other")
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)
    copied.make(stage)
    reports = copied.outputs("reports", "models/registered.json")
    for seed in range(12):
        done = damage.damage(folder, others, random.Random(seed))
        result = copied.run(stage)
        if result.code:
            assert result.error.startswith(f"histocae {stage.split()[0]}: "), (seed, done)
            assert len(result.error) < 1000
        assert copied.outputs("reports", "models/registered.json") == reports, f"seed {seed}: {done}"
        assert not copied.leftovers()
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
