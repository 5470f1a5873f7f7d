"""params.yaml: an unknown, missing or ill-typed value is reported in one line that names its key."""

import copy
from collections.abc import Iterator

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from histocae import params, params_file
from histocae.errors import ParamsError
from support.workspace import ROOT

COMMITTED = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
# keys of a model that have defaults
OPTIONAL = {
    "cohort",
    "architecture",
    "filters",
    "epochs",
    "latent_features",
    "optimizer",
    "schedule",
    "clip_norm",
    "augment",
}


def keys(section: dict, above: tuple = ()) -> Iterator[tuple]:
    """Yield every key of params.yaml with the keys above it."""
    for key, value in section.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from keys(value, (*above, key))


KEYS = list(keys(COMMITTED))


def parent(values: dict, key: tuple) -> dict:
    for name in key[:-1]:
        values = values[name]
    return values


def write_params(project, values: object) -> None:
    text = values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False)
    (project.folder / "params.yaml").write_text(text, encoding="utf-8")


def test_the_committed_params_are_read_and_complete():
    loaded = params_file.load(ROOT / "params.yaml")
    assert loaded.model_dump(exclude_unset=True) == COMMITTED
    assert loaded.model("all").training(loaded.training) == loaded.training


def test_no_key_has_a_name_that_dvc_ignores():
    # DVC's run cache drops keys of these names at any depth: a change would not rerun a stage
    assert not [key for key in KEYS if key[-1] in ("size", "nfiles")]

    def names(section):
        for name, field in section.model_fields.items():
            yield name
            if isinstance(field.annotation, type) and issubclass(field.annotation, params.Section):
                yield from names(field.annotation)

    assert not {"size", "nfiles"} & {*names(params.Params), *names(params.Model)}


def test_every_missing_key_is_reported(project):
    for key in KEYS:
        values = copy.deepcopy(COMMITTED)
        del parent(values, key)[key[-1]]
        write_params(project, values)
        if key[0] == "models" and (len(key) == 2 or key[-1] in OPTIONAL):
            try:
                params_file.load(project.folder / "params.yaml")
            except ParamsError as error:
                # another key refers to the missing one or needs it
                assert ": missing" not in str(error) or "needs them" in str(error)
            continue
        message = project.run("metadata").only_line
        assert f"params.yaml: {'.'.join(key)}: missing" in message


def test_every_unknown_key_is_reported_with_the_key_it_resembles(project):
    for key in KEYS:
        if key[0] == "models" and len(key) == 2:
            continue
        values = copy.deepcopy(COMMITTED)
        parent(values, key)[f"{key[-1]}s"] = 1
        write_params(project, values)
        message = project.run("metadata").only_line
        assert f"params.yaml: {'.'.join(key)}s: unknown key; did you mean {key[-1]}?" in message


def test_several_faults_are_reported_in_one_line(project):
    values = copy.deepcopy(COMMITTED)
    values["patches"]["pixels"] = "128"
    values["patches"]["side"] = 128
    values["split"].pop("test")
    write_params(project, values)
    message = project.run("metadata").only_line
    assert "patches.pixels: expected an integer, got '128'" in message
    assert "patches.side: unknown key" in message and "split.test: missing" in message


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("seed", 1.5, "seed: expected an integer, got 1.5"),
        ("seed", True, "seed: expected an integer, got True"),
        ("seed", -1, "seed: input should be greater than or equal to 0, got -1"),
        ("data.source", "folder", "data.source: expected one of 'demo', 'gdc', 'slides' or 'tiles', got 'folder'"),
        ("data.path", None, "data.path: expected text, got None"),
        ("data.mpp", "0.5", "data.mpp: expected a number, got '0.5'"),
        ("data.max_failed_share", 1.5, "data.max_failed_share: "),
        ("data.max_failed_share", float("nan"), "data.max_failed_share: "),
        ("data.demo", 3, "data.demo: expected keys with values, got 3"),
        ("data.mpp", 250, "data.mpp: expected 0.05 to 10 microns per pixel (a 40x scan has 0.25), or null, got 250"),
        ("data.mpp", 0.00025, "data.mpp: expected 0.05 to 10"),
        ("data.mpp", 0, "data.mpp: expected 0.05 to 10"),
        ("data.mpp", -0.25, "data.mpp: expected 0.05 to 10"),
        ("data.mpp", float("nan"), "data.mpp: expected 0.05 to 10"),
        ("data.mpp", float("inf"), "data.mpp: expected 0.05 to 10"),
        ("seed", int("9" * 900), "seed: input should be less than 4294967296, got 999"),
        ("training.epochs", int("9" * 900), "training.epochs: input should be less than 2147483648, got 999"),
        ("training.learning_rate", int("9" * 900), "training.learning_rate: expected a number, got 999"),
        ("models.all.filters", [2**31], "models.all.filters.0: input should be less than 2147483648"),
        ("patches.pixels", 128.0, "patches.pixels: expected an integer, got 128.0"),
        ("patches.pixels", 0, "patches.pixels: "),
        ("patches.mpp", 0, "patches.mpp: "),
        ("patches.mpp", float("inf"), "patches.mpp: "),
        ("patches.tissue_share", 50, "patches.tissue_share: "),
        ("patches.max_per_slide", 0, "patches.max_per_slide: "),
        ("patches.tiles", "crop", "patches.tiles: expected one of 'reduce' or 'cut', got 'crop'"),
        ("patches.on_read_error", False, "patches.on_read_error: expected one of 'keep' or 'drop', got False"),
        ("split.test", 0.0, "split.test: "),
        ("split.validation", 0.8, "split: "),
        ("training.tensorboard", "yes", "training.tensorboard: expected true or false, got 'yes'"),
        ("training.optimizer", "lion", "training.optimizer: expected one of "),
        ("models", {}, "models: "),
        ("models", [1], "models: expected keys with values, got [1]"),
        ("models.all.filters", 8, "models.all.filters: expected a list, got 8"),
        ("models.all.filters", [8, "16"], "models.all.filters.1: expected an integer, got '16'"),
        ("models.all.filters", [8] * 8, "models.all.filters: 8 layers"),
        ("models.all.init_from", "tumor", "models.all.init_from: expected a model above this entry"),
        ("models.tumor.init_from", "tumor", "models.tumor.init_from: "),
        ("models.a/b", {"filters": [8]}, "models.a/b: "),
        ("models.1", {"filters": [8], "stride": 0}, "models.1.stride: "),
    ],
)
def test_a_wrong_value_is_reported_with_its_key(project, key, value, expected):
    values = copy.deepcopy(COMMITTED)
    parent(values, path := tuple(key.split(".")))[path[-1]] = value
    write_params(project, values)
    assert f"params.yaml: {expected}" in project.run("metadata").only_line
    assert not project.outputs()


def test_long_values_and_many_faults_are_shortened(project):
    text = (project.folder / "params.yaml").read_text(encoding="utf-8")
    unknown = "".join(f"k{i}: 1\n" for i in range(1000))
    for faulty in (
        text + unknown,
        text.replace("path: own", f"path: [{'x,' * 9000}]"),
        f"{text}? {'k' * 5000}\n: 1\n",
    ):
        write_params(project, faulty)
        assert len(project.run("metadata").only_line) < 600


@pytest.mark.parametrize("text", ["1: 2", "1.5: 2", "null: 2", "true: 2", "2001-01-01: 2"])
def test_a_key_that_is_no_text_is_reported(project, text):
    write_params(project, (project.folder / "params.yaml").read_text(encoding="utf-8") + f"{text}\n")
    assert "keys should be strings" in project.run("metadata").only_line


def test_a_key_that_occurs_twice_is_reported_with_both_lines(project):
    text = (project.folder / "params.yaml").read_text(encoding="utf-8")
    write_params(project, f"seed: 1\n{text}")
    line = text.splitlines().index("seed: 20181003") + 2
    assert f"params.yaml: key 'seed' is in line 1 and again in line {line}" in project.run("metadata").only_line


@pytest.mark.parametrize("microns", [513.0, float("inf")])
def test_a_size_that_the_demo_cannot_draw_is_reported_with_its_key(project, microns):
    project.params(data__source="demo", data__demo__side_microns=microns)
    message = project.run("metadata").only_line
    assert "data.demo.side_microns" in message
    assert not project.outputs()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected sections of keys"),
        ("- 1\n- 2\n", "expected sections of keys"),
        ("seed: [1\n", "not YAML"),
        ("seed: 1\n\tdata: 2\n", "not YAML"),
    ],
)
def test_a_file_without_keys_is_reported(project, text, expected):
    write_params(project, text)
    assert f"params.yaml: {expected}" in project.run("metadata").only_line


def test_a_missing_file_a_folder_and_bytes_that_are_no_text_are_reported(project):
    assert "elsewhere.yaml: no such file" in project.run("metadata --params elsewhere.yaml").only_line
    (project.folder / "latin.yaml").write_bytes("seed: 1 # Größe".encode("latin-1"))
    assert "latin.yaml: not YAML" in project.run("metadata --params latin.yaml").only_line
    (project.folder / "folder").mkdir()
    assert "folder: " in project.run("metadata --params folder").only_line


def test_exponents_are_numbers_as_in_dvc(project):
    text = (project.folder / "params.yaml").read_text(encoding="utf-8")
    for notation, number in (("2e-3", 0.002), ("1E-3", 0.001), ("5e+0", 5.0)):
        write_params(project, text.replace("learning_rate: 0.002", f"learning_rate: {notation}"))
        assert params_file.load(project.folder / "params.yaml").training.learning_rate == number


def test_a_model_overrides_params_of_training_also_with_null(project):
    common = {"clip_norm": 1.0, "min_percent_tumor_nuclei": 60.0, "epochs": 7}
    overrides = {"clip_norm": None, "min_percent_tumor_nuclei": None, "epochs": None, "learning_rate": 0.5}
    models = {"default": {"filters": [4]}, "custom": {"filters": [4], **overrides}}
    project.params(models=models, **{f"training.{key}": value for key, value in common.items()})
    loaded = params_file.load(project.folder / "params.yaml")
    assert loaded.model("default").training(loaded.training) == loaded.training
    custom = loaded.model("custom").training(loaded.training)
    assert (custom.clip_norm, custom.min_percent_tumor_nuclei) == (None, None)
    # null epochs have no meaning, so those of training apply
    assert (custom.epochs, custom.learning_rate) == (7, 0.5)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("sample_types", ["Primary Tumor", "Metastatic"], "sample_types.1: expected one of 'Primary Tumor' or"),
        ("sample_types", [], "sample_types: list should have at least 1 item"),
        ("strategy", "DX", "strategy: expected one of 'Tissue Slide' or 'Diagnostic Slide', got 'DX'"),
        ("streams", 0, "streams: input should be greater than or equal to 1, got 0"),
        ("tries", None, "tries: expected an integer, got None"),
        ("slides", "TCGA-AA-0001-01A-01-TS1", "slides: expected a list, got 'TCGA-AA-0001-01A-01-TS1'"),
        ("manifest", "./data/gdc/gdc_manifest.txt", "manifest: ./data/gdc/gdc_manifest.txt is rewritten"),
        ("per_class", 0, "per_class: input should be greater than or equal to 1, got 0"),
    ],
)
def test_wrong_params_of_the_gdc_are_reported(project, key, value, expected):
    project.params(data__source="gdc", **{f"data__gdc__{key}": value})
    assert f"data.gdc.{expected}" in project.run("inventory").only_line
    assert not project.outputs()


def test_an_unknown_model_is_reported_with_the_known_models(project):
    message = project.run("train nobody").only_line
    assert "'nobody'" in message and "all, residual-512, pca-512, tumor, normal" in message


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)


@given(key=st.sampled_from(KEYS), value=yaml_values)
def test_any_value_is_accepted_or_reported_with_its_key(tmp_path_factory, key, value):
    values = copy.deepcopy(COMMITTED)
    parent(values, key)[key[-1]] = value
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    try:
        loaded = params_file.load(file)
    except ParamsError as error:
        # the reported key may lie inside a wrong section, or be the other key of a pair
        assert f": {'.'.join(key[:1])}" in str(error) or "has the character NUL" in str(error)
    else:
        assert isinstance(loaded, params.Params)
