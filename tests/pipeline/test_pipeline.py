"""The whole pipeline, run as a user runs it: through dvc, histocae and mlflow."""

import html
import json
import re
import shutil
import signal
import subprocess
import time

import anndata
import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

from histocae import CAE
from histocae.files import read_table
from histocae.pipeline import lineage
from support.damage import flip_byte
from support.project import Project, heavy_imports

REPRODUCIBLE = (
    "data",
    "models/lineage",
    "models/trained/all",
    "models/latents/all",
    "reports/models/all",
    "reports/patching",
    "reports/set_aside.csv",
    "reports/split.json",
)


def stages_run(output: str) -> set[str]:
    """Return the stages that dvc ran; the inventory has a separate dvc.yaml."""
    return set(re.findall(r"Running stage '(?:inventory/dvc\.yaml:)?([^']+)'", output))


# runs at the start of every Python process; at its end, a stage writes the names of the package's loaded modules
_MODULES = """
import atexit, os, sys

def write_modules():
    names = sorted(name for name in sys.modules if name.startswith("histocae."))
    with open(os.path.join(os.environ["MODULES_FOLDER"], "@".join(sys.argv[1:]) + ".txt"), "w") as out:
        print(*names, sep="\\n", file=out)

if os.path.basename(sys.orig_argv[1]) == "histocae":
    atexit.register(write_modules)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose pipeline ran once on the demo cohort, with its truth as regions that label patches."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "modules").mkdir()
    (folder / "modules" / "sitecustomize.py").write_text(_MODULES)
    project = Project(folder / "project", **{"data.annotations": "data/annotations"})
    project.output = project.run(
        "dvc", "repro", PYTHONPATH=str(folder / "modules"), MODULES_FOLDER=str(folder / "modules")
    )
    project.loaded = {}
    for list_file in (folder / "modules").glob("*.txt"):
        files = {f"{name.removeprefix('histocae.').replace('.', '/')}.py" for name in list_file.read_text().split()}
        project.loaded.setdefault(list_file.stem.split("@")[0], set()).update(files)
    return project


@pytest.mark.parametrize("stage", lineage.STAGES)
def test_a_stage_imports_only_modules_named_in_import_statements(project, stage):
    """DVC takes the modules named in import statements for the code of a stage, and would miss any others."""
    start = {f"stages/{stage}.py", "cli/__init__.py", "tracking/environment.py", *lineage.ALSO.get(stage, ())}
    # without the subpackages
    loaded = {file for file in project.loaded[stage] if (lineage.PACKAGE / file).is_file()}
    assert f"stages/{stage}.py" in loaded
    assert loaded <= lineage.reach(start, ())


@pytest.fixture(scope="module")
def client(project):
    return MlflowClient(f"sqlite:///{project.folder / 'mlflow.db'}")


@pytest.fixture(scope="module")
def runs(client):
    experiment = client.get_experiment_by_name("histocae")
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def test_every_stage_ran_without_warnings(project):
    assert {
        "inventory",
        "split",
        "train@all",
        "train@normal",
        "evaluate@tumor",
        "latent@all",
        "tissue",
        "codecs",
        "compare",
        "register",
    } <= stages_run(project.output)
    for word in ("Traceback", "Warning", "WARNING", "I0000", "E0000", "%|"):
        assert word not in project.output


def test_a_second_repro_runs_only_the_inventory_and_makes_no_run_of_mlflow(project, client, runs, tmp_path):
    before = project.bytes("models", "reports", "data")
    outputs = []
    assert (
        heavy_imports(lambda env: outputs.append(project.run("dvc", "repro", **env)), tmp_path / "imports") == set()
    )
    assert stages_run(outputs[0]) == {"inventory"}
    assert project.bytes("models", "reports", "data") == before
    assert len(client.search_runs([runs["all"].info.experiment_id])) == 4


def test_latents_are_exported_with_the_scores_of_the_pair(project, tmp_path):
    output = project.run("histocae", "export", "--form", "h5ad", "--form", "h5", "--out", str(tmp_path))
    assert "Warning" not in output and sorted(path.name for path in tmp_path.iterdir()) == ["all"]
    data = anndata.read_h5ad(tmp_path / "all" / "latents.h5ad")
    latents = [
        np.load(project.folder / f"models/latents/all/{split}.npy") for split in ("train", "validation", "test")
    ]
    np.testing.assert_array_equal(data.X, np.concatenate(latents))
    scores = pd.read_csv(project.folder / "reports/tissue/scores.csv")
    of_test = data.obs[data.obs["split"] == "test"]
    assert list(of_test["slide_id"]) == list(scores["slide_id"]) and len(of_test) == len(latents[2])
    np.testing.assert_allclose(of_test["score"], scores["score"], rtol=1e-12)  # pandas reads floats inexactly
    # the class is that of the sensitivity that the stage tissue reports
    threshold = json.loads((project.folder / "reports/tissue/metrics.json").read_text())["threshold"]["patch"]
    assert ((of_test["class"] == "Primary Tumor").to_numpy() == (scores["score"] >= threshold)).all()
    assert len(list((tmp_path / "all" / "h5_files").glob("*.h5"))) == data.obs["slide_id"].nunique()


def test_the_comparison_has_a_row_per_model_with_means_of_its_patches(project):
    table = pd.read_csv(project.folder / "reports/comparison.csv")
    assert list(table.columns) == [
        "model",
        "cohort",
        "filters",
        "latent_features",
        "parameters",
        "epochs",
        "train_mse",
        "validation_mse",
        "test_mse",
        "test_psnr",
        "test_ssim",
        "test_patches",
        "seconds",
        "architecture",
        "test_mean_color_mse",
    ]
    assert list(table["model"]) == ["all", "tumor", "normal"]
    test = pd.read_csv(project.folder / "data/splits/test.csv", sep="|")
    counts = test["patch_label"].value_counts()
    assert list(table["test_patches"]) == [len(test), counts["Primary Tumor"], counts["Solid Tissue Normal"]]
    patches = pd.read_csv(project.folder / "reports/models/normal/evaluation/per_patch.csv")
    normal = patches[(test["patch_label"] == "Solid Tissue Normal").to_numpy()]
    assert table.set_index("model").loc["normal", "test_mse"] == pytest.approx(normal["mse"].mean())
    assert len(patches) == len(test)
    slides = pd.read_csv(project.folder / "reports/models/normal/evaluation/per_slide.csv")
    assert slides["patches"].sum() == len(test)


def test_errors_are_those_of_the_saved_model(project):
    """The expected MSE is computed here, from the saved weights and the patch store."""
    from histocae.patches.store import PatchStore

    rows = pd.read_csv(project.folder / "reports/models/all/evaluation/per_patch.csv")
    patches = PatchStore(project.folder / "data/patches").select(rows)
    pixels = patches.take(np.arange(5)).astype(np.float32) / 255
    output = CAE(path=project.folder / "models/trained/all", load=True).model.predict(pixels, verbose=0)
    assert rows["mse"][:5].to_numpy() == pytest.approx(((output - pixels) ** 2).mean(axis=(1, 2, 3)), rel=1e-4)
    assert rows["psnr"][:5].to_numpy() == pytest.approx(-10 * np.log10(rows["mse"][:5]), rel=1e-5)


def test_the_weights_of_the_best_epoch_are_kept(project):
    history = pd.read_csv(project.folder / "models/trained/all/history.csv", sep="|")
    training = json.loads((project.folder / "models/trained/all/training.json").read_text())
    metrics = json.loads((project.folder / "reports/models/all/evaluation/metrics.json").read_text())["metrics"]
    assert training["best_epoch"] == history.loc[history["validation_loss"].idxmin(), "epoch"]
    assert metrics["validation_mse"] == pytest.approx(history["validation_loss"].min(), rel=1e-3)


def test_each_test_slide_has_its_patches_in_a_file_for_qupath(project):
    test = pd.read_csv(project.folder / "data/splits/test.csv", sep="|")
    files = {path.stem: path for path in (project.folder / "reports/tissue/geojson").iterdir()}
    assert set(files) == set(test["shard"])
    for shard, rows in test.groupby("shard"):
        types = [feature["properties"]["objectType"] for feature in json.loads(files[shard].read_text())["features"]]
        assert types == ["annotation"] + ["detection"] * len(rows)


def test_regions_label_patches_and_give_a_second_answer(project):
    parts = {name: pd.read_csv(project.folder / f"data/splits/{name}.csv", sep="|") for name in ("train", "test")}
    labels = {name: part["patch_label"].value_counts() for name, part in parts.items()}
    # both models of a pair learn from as many patches as the rarer tissue has
    for name in ("tumor", "normal"):
        trained = json.loads((project.folder / f"models/trained/{name}/training.json").read_text())
        assert trained["patches"]["train"] == labels["train"].min()
    tissue = json.loads((project.folder / "reports/tissue/metrics.json").read_text())
    regions, truth = tissue["regions"], tissue["truth"]
    assert regions["tumor_patches"] == labels["test"]["Primary Tumor"]
    assert regions["normal_patches"] == labels["test"]["Solid Tissue Normal"]
    # the demo's regions are its truth: both call the same patches tumor
    assert regions["tumor_patches"] == truth["tumor_patches"] and regions["patches_of_normal_slides"] == 0
    assert set(truth) - set(regions) == {"patches"}
    page = html.unescape((project.folder / "reports/index.html").read_text())
    assert "Against the content of the patches" in page
    counts = pd.read_csv(project.folder / "reports/patching/counts.csv")
    assert (counts["labels_from"] == "regions").all()
    kept = counts[["tumor", "normal", "unlabeled"]].sum(axis=1)
    assert list(kept) == list(counts["kept"])


def test_the_page_needs_no_other_file(project):
    page = (project.folder / "reports/index.html").read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    images = [*project.folder.glob("reports/tissue/**/*.png"), *project.folder.glob("reports/models/*/latent/*.png")]
    # two images of the comparison, one of codecs, two of samples, three per model; all of the studies of tissue and
    # latents; and one heatmap again, at the top
    faults = min(6, len(list((project.folder / "reports/patching/quality").glob("*.png"))))
    assert page.count("data:image/webp;base64,") == 2 + 1 + 2 + 3 * 3 + len(images) + 1 + faults
    assert page.index("heatmap of a test slide") < page.index('<h2 id="data">')


def test_the_page_shows_the_numbers_of_the_reports(project):
    """These are mean errors, AUROCs with their intervals, the sentences of metrics.json, and the caveats."""
    page = html.unescape((project.folder / "reports/index.html").read_text())
    tissue = json.loads((project.folder / "reports/tissue/metrics.json").read_text())
    for models in tissue["mse"].values():
        for value in models.values():
            assert f"<td>{value:.5f}" in page
    for level in ("patch", "slide", "case"):
        auroc = tissue[f"auroc_{level}"]
        assert f"{auroc['value']:.2f} ({auroc['low']:.2f}–{auroc['high']:.2f})" in page
    for sentence in [*tissue["summary"], *tissue["sentences"], *tissue["one_class"]["sentences"]]:
        assert sentence in page
    assert "labels are per slide" in page and "it is no diagnosis" in page


def test_the_page_of_slides_without_truth_and_regions_is_written(project, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(project.folder, copy, ignore=shutil.ignore_patterns("slides", "shards", ".dvc", ".git", "*.db*"))
    for file, keys in (("tissue/metrics.json", ("truth", "regions")), ("patching/summary.json", ("regions",))):
        content = json.loads((copy / "reports" / file).read_text())
        for key in keys:
            del content[key]
        (copy / "reports" / file).write_text(json.dumps(content))
    subprocess.run(["histocae", "compare"], cwd=copy, env=project.environment, check=True, capture_output=True)
    page = html.unescape((copy / "reports/index.html").read_text())
    assert "this one has the median score" in " ".join(page.split()) and "Against the content" not in page
    assert "A patch has the label of its slide." in " ".join(page.split())


def test_dvc_compares_metrics_and_draws_plots(project, tmp_path):
    metrics = json.loads(project.run("dvc", "metrics", "show", "--json"))[""]["data"]["reports/metrics.json"]["data"]
    table = read_table(project.folder / "reports/comparison.csv", separator=",").set_index("model")
    tissue = json.loads((project.folder / "reports/tissue/metrics.json").read_text())
    assert metrics["models"]["all"]["test_mse"] == table.loc["all", "test_mse"]
    assert "latent_auroc_patch" in metrics["models"]["all"]
    assert metrics["tissue"]["auroc_slide"] == {key: tissue["auroc_slide"][key] for key in ("value", "low", "high")}
    project.run("dvc", "plots", "show", "-o", str(tmp_path / "plots"))
    page = (tmp_path / "plots" / "index.html").read_text()
    assert all(name in page for name in ("losses_all_csv", "losses_tumor_csv", "roc_slide_csv", "test_mse_csv"))


def test_a_run_has_no_parent_and_is_complete(project, client, runs):
    assert set(runs) == {"all", "tumor", "normal", "pair"}
    run = runs["all"]
    record = json.loads((project.folder / "models/runs/all.json").read_text())
    assert record["run_id"] == run.info.run_id
    assert run.info.status == "FINISHED"
    assert "mlflow.parentRunId" not in run.data.tags
    assert run.data.params["model.filters"] == "[4, 8]"
    assert run.data.params["training.learning_rate"] == "0.002"
    assert run.data.params["patches.mpp"] == "0.5"
    history = read_table(project.folder / "models/trained/all/history.csv")
    points = client.get_metric_history(run.info.run_id, "validation_loss")
    assert [point.step for point in points] == list(history["epoch"])
    assert [point.value for point in points] == list(history["validation_loss"])
    metrics = json.loads((project.folder / "reports/models/all/evaluation/metrics.json").read_text())["metrics"]
    assert run.data.metrics["test_mse"] == pytest.approx(metrics["test_mse"], rel=1e-12)
    assert any(key.startswith("system/") for key in run.data.metrics)
    locked = yaml.safe_load((project.folder / "dvc.lock").read_text())["stages"]
    tags = run.data.tags
    hashes = {out["path"]: out["md5"] for out in locked["patches"]["outs"]}
    assert tags["dvc.patches.md5"] == hashes["data/patches"]
    assert tags["mlflow.source.git.commit"] == project.run("git", "rev-parse", "HEAD").strip()
    assert tags["git.dirty"] == "false"
    assert tags["cohort"] == "all" and tags["dvc.stage"] == "train@all" and tags["devices"] == "1"
    contexts = {
        entry.tags[0].value: json.loads(entry.dataset.profile)["num_rows"] for entry in run.inputs.dataset_inputs
    }
    assert contexts["training"] == len(pd.read_csv(project.folder / "data/splits/train.csv", sep="|"))
    assert set(contexts) == {"training", "validation", "testing"}
    names = {file.path for file in client.list_artifacts(run.info.run_id, "cae")}
    assert {"cae/params.yaml", "cae/encoder.weights.h5", "cae/decoder.weights.h5"} <= names
    images = {file.path for file in client.list_artifacts(run.info.run_id, "images")}
    for step in (1, 2):
        assert sum(f"reconstruction+step+{step}+" in name for name in images) == 2  # the image and its thumbnail


def test_the_champion_takes_bytes_and_returns_the_output_of_the_saved_model(project, client):
    mlflow.set_tracking_uri(f"sqlite:///{project.folder / 'mlflow.db'}")
    patches = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    for cohort in ("all", "tumor", "normal"):
        version = client.get_model_version_by_alias(f"histocae-{cohort}", "champion")
        assert version.tags["model"] == cohort
        loaded = mlflow.pyfunc.load_model(f"models:/histocae-{cohort}@champion")
        assert loaded.metadata.signature.outputs.inputs[0].type == np.dtype("float32")
        cae = CAE(path=project.folder / "models/trained" / cohort, load=True)
        expected = cae.model.predict(patches.astype(np.float32) / 255, verbose=0)
        np.testing.assert_allclose(loaded.predict(patches), expected, atol=1e-5)
    pinned = mlflow.pyfunc.get_model_dependencies("models:/histocae-all@champion")
    with open(pinned) as handle:
        assert re.search(r"^tensorflow==[\d.]+$", handle.read(), re.MULTILINE)


@pytest.mark.long
def test_the_same_params_and_data_give_the_same_bytes(project, tmp_path):
    other_project = Project(tmp_path / "elsewhere")
    other_project.run("dvc", "repro", "latent@all")
    files, other_files = project.bytes(*REPRODUCIBLE), other_project.bytes(*REPRODUCIBLE)
    assert [name for name in files if files[name] != other_files.get(name)] == []
    assert set(files) == set(other_files)
    former = project.bytes("reports")
    project.run("histocae", "tissue")
    project.run("histocae", "compare")
    assert project.bytes("reports") == former


def test_register_and_publish_again_change_nothing(project, client, runs):
    def server_state():
        entries = []
        for run in client.search_runs([runs["all"].info.experiment_id]):
            points = {key: len(client.get_metric_history(run.info.run_id, key)) for key in run.data.metrics}
            images = sorted(file.path for file in client.list_artifacts(run.info.run_id, "images"))
            entries.append((run.info.run_id, run.info.end_time, run.data.params, points, images, run.data.tags))
        versions = [(version.name, version.version, version.aliases) for version in client.search_model_versions()]
        return entries, versions, len(client.search_logged_models([runs["all"].info.experiment_id]))

    before = server_state()
    registered = project.bytes("models/registered.json")
    project.run("histocae", "register")
    project.run("histocae", "publish")
    assert server_state() == before
    assert project.bytes("models/registered.json") == registered


@pytest.mark.long
def test_publish_delivers_all_runs_to_an_empty_server(project, tmp_path):
    uri = f"sqlite:///{tmp_path / 'new.db'}"
    project.run("histocae", "publish", MLFLOW_TRACKING_URI=uri)
    project.run("histocae", "publish", MLFLOW_TRACKING_URI=uri)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("histocae")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["all", "normal", "pair", "tumor"]
    assert all(run.info.status == "FINISHED" for run in runs)
    assert all(("auroc_slide" if run.info.run_name == "pair" else "test_mse") in run.data.metrics for run in runs)


@pytest.fixture
def project_copy(project, tmp_path):
    """A copy of the finished project, to change."""
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(project.folder, folder, symlinks=True)
    project_copy = Project.__new__(Project)
    project_copy.folder = folder
    return project_copy


def test_verify_names_each_file_that_is_not_as_it_was_written(project_copy):
    output = project_copy.run("histocae", "verify")
    assert "verify: all other files are as they were written" in output
    masks = len(list((project_copy.folder / "data/slides").glob("*.truth.png")))
    masks += len(list((project_copy.folder / "data/annotations").glob("*.geojson")))
    assert f"{masks} of the files have no hash and were not compared, in data/annotations, data/slides: " in output
    (shard, *_) = sorted((project_copy.folder / "data/patches/shards").glob("*.npy"))
    damaged = [
        shard.relative_to(project_copy.folder).as_posix(),
        "data/splits/train.csv",
        "models/trained/all/decoder.weights.h5",
        "reports/index.html",
        "reports/models/all/evaluation/errors.png",
    ]
    for path in damaged:
        flip_byte(project_copy.folder / path)
    output = project_copy.run("histocae", "verify", fails=True)
    assert re.findall(r"verify: (\S+): (?:is not as it was written|differs)", output) == damaged
    assert output.splitlines()[-1].startswith("histocae verify: not as written: ") and "Traceback" not in output
    # the remedy that the message names
    for path in damaged:
        (project_copy.folder / path).unlink()
    project_copy.run("dvc", "checkout")
    project_copy.run("histocae", "verify")


def test_compare_names_the_report_that_lacks_a_key_or_was_cut(project_copy):
    for file, key, stage in (
        ("reports/tissue/metrics.json", "pair", "tissue"),
        ("reports/tissue/metrics.json", "auroc_slide", "tissue"),
        ("reports/tissue/metrics.json", "sentences", "tissue"),
        ("reports/crossvalidation/metrics.json", "folds", "crossvalidate"),
        ("reports/codecs/metrics.json", "sentences", "codecs"),
        ("reports/models/all/latent/metrics.json", "metrics", "latent@all"),
        ("reports/models/all/latent/metrics.json", "notes", "latent@all"),
        ("reports/split.json", "test", "split"),
        ("reports/patching/summary.json", "kept", "patches"),
    ):
        path = project_copy.folder / file
        whole = path.read_text()
        content = json.loads(whole)
        del content[key]
        for text, problem in ((json.dumps(content), f"{key}: missing"), (whole[:-9], "can't be read")):
            path.write_text(text)
            output = project_copy.run("histocae", "compare", fails=True)
            (line,) = (line for line in output.splitlines() if line.startswith("histocae compare: "))
            assert f"{file}: {problem}" in line and line.endswith(f"; run dvc repro {stage}"), output
            assert "Traceback" not in output
        path.write_text(whole)
    project_copy.run("histocae", "compare")


def test_a_damaged_shard_does_not_become_the_truth_of_dvc(project_copy):
    """A stage refuses the damaged shard; the next repro extracts it again, and no later stage runs."""
    before = project_copy.bytes("data", "models", "reports", "dvc.lock")
    (shard, *_) = sorted((project_copy.folder / "data/patches/shards").glob("*.npy"))
    data = bytearray(shard.read_bytes())
    data[5000:7000] = bytes(255 - value for value in data[5000:7000])
    shard.write_bytes(data)
    message = project_copy.run("histocae", "evaluate", "all", fails=True).splitlines()[-1]
    assert f"{shard.name}: is not as it was written" in message and "run dvc repro patches" in message
    output = project_copy.run("dvc", "repro")
    assert stages_run(output) == {"inventory", "patches"} and "patches of 1 slides to extract" in output
    assert project_copy.bytes("data", "models", "reports", "dvc.lock") == before


def test_a_restored_training_points_to_its_original_run(project_copy):
    run_id = json.loads((project_copy.folder / "models/runs/all.json").read_text())["run_id"]
    project_copy.set(**{"models.all.latent_features": 8})
    assert "train@all" in stages_run(project_copy.run("dvc", "repro", "train@all"))
    assert json.loads((project_copy.folder / "models/runs/all.json").read_text())["run_id"] != run_id
    project_copy.set(**{"models.all.latent_features": 16})
    output = project_copy.run("dvc", "repro", "train@all")
    assert "is cached" in output
    assert json.loads((project_copy.folder / "models/runs/all.json").read_text())["run_id"] == run_id


@pytest.mark.long
def test_a_new_model_starts_from_the_weights_of_another(project_copy):
    """A model that starts from another is trained again when the first changes."""
    second = {"cohort": "tumor", "filters": [4, 8], "init_from": "all", "epochs": 1}
    third = {**second, "cohort": "normal", "init_from": "second"}
    project_copy.set(models={"all": {"filters": [4, 8]}, "second": second, "third": third})
    stages = ("train@all", "train@second", "train@third")
    # one after the other: DVC takes several targets in any order
    outputs = [project_copy.run("dvc", "repro", stage) for stage in stages]
    assert set.union(*map(stages_run, outputs)) == {"inventory", *stages}
    first = project_copy.bytes("models/trained/second")
    project_copy.set(**{"models.all.epochs": 1, "models.third": ...})
    outputs = [project_copy.run("dvc", "repro", stage) for stage in stages[:2]]
    assert set.union(*map(stages_run, outputs)) == {"inventory", *stages[:2]}
    assert project_copy.bytes("models/trained/second") != first
    # the first model is out of date: the training is refused in one line, and the second model's files stay
    before = project_copy.bytes("models/trained")
    project_copy.set(**{"models.all.epochs": 2})
    message = project_copy.run("histocae", "train", "second", fails=True)
    assert "run dvc repro train@all first" in message and "Traceback" not in message
    assert project_copy.bytes("models/trained") == before


@pytest.mark.long
def test_a_killed_training_resumes_to_the_same_bytes_and_in_the_same_run(project_copy):
    project_copy.set(**{"models.all.epochs": 6, "models.all.patience": 6})
    process = subprocess.Popen(
        ["histocae", "train", "all"],
        cwd=project_copy.folder,
        env=project_copy.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if "epoch 2/6" in line:
            break
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    output = project_copy.run("histocae", "train", "all")
    assert "resuming after epoch" in output and "epoch 1/6" not in output
    resumed = project_copy.bytes("models/trained/all")
    assert not (project_copy.folder / "models/checkpoints/all").exists()
    record = json.loads((project_copy.folder / "models/runs/all.json").read_text())
    client = MlflowClient(f"sqlite:///{project_copy.folder / 'mlflow.db'}")
    run = client.get_run(record["run_id"])
    assert run.info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(record["run_id"], "loss")] == [1, 2, 3, 4, 5, 6]
    project_copy.run("histocae", "train", "all")
    assert project_copy.bytes("models/trained/all") == resumed


def test_the_run_shows_the_latest_evaluation(project_copy):
    path = project_copy.folder / "reports/models/all/evaluation/metrics.json"
    evaluation = json.loads(path.read_text())
    evaluation["metrics"]["test_mse"] /= 2
    path.write_text(json.dumps(evaluation))
    project_copy.run("histocae", "publish")
    client = MlflowClient(f"sqlite:///{project_copy.folder / 'mlflow.db'}")
    run = client.get_run(json.loads((project_copy.folder / "models/runs/all.json").read_text())["run_id"])
    assert run.data.metrics["test_mse"] == evaluation["metrics"]["test_mse"]


def test_the_page_warns_of_tiles_that_are_copies(project_copy):
    path = project_copy.folder / "reports/patching/summary.json"
    page, words = project_copy.folder / "reports/index.html", "tiles have the same bytes as a tile of another case"
    for number, shown in ((1234, True), (0, False)):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"shared_tiles": number}))
        project_copy.run("histocae", "compare")
        assert (f"1,234 {words}" in page.read_text(encoding="utf-8")) == shown
    assert words not in page.read_text(encoding="utf-8")


def test_publish_delivers_trained_models_to_the_experiment_in_params(project_copy):
    project_copy.set(**{"tracking.experiment": "another", "models.later": {"filters": [4]}})
    output = project_copy.run("histocae", "publish")
    assert "later is not trained here" in output and "4 runs are complete in experiment another" in output
    client = MlflowClient(f"sqlite:///{project_copy.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("another").experiment_id
    assert len(client.search_runs([experiment])) == len(client.search_logged_models([experiment])) == 4


def test_a_loss_that_is_not_finite_is_reported_and_the_former_model_stays(project_copy):
    before = project_copy.bytes("models/trained", "models/runs")
    project_copy.set(**{"models.all.optimizer": "sgd", "models.all.learning_rate": 1e30})
    message = project_copy.run("histocae", "train", "all", fails=True)
    assert re.search(r"histocae train: (loss|validation loss) is (nan|inf) .*epoch 1", message)
    assert "Traceback" not in message
    assert project_copy.bytes("models/trained", "models/runs") == before
    client = MlflowClient(f"sqlite:///{project_copy.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("histocae").experiment_id
    unfinished_runs = client.search_runs([experiment], "attributes.status != 'FINISHED'")
    assert [run.info.status for run in unfinished_runs] == ["FAILED"]


@pytest.mark.long
def test_an_unreachable_server_loses_no_training(project_copy):
    project_copy.set(**{"models.all.epochs": 1})
    output = project_copy.run("histocae", "train", "all", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert "the training continues" in output and "histocae publish" in output
    assert json.loads((project_copy.folder / "models/runs/all.json").read_text())["run_id"] is None
    project_copy.run("histocae", "evaluate", "all")
    project_copy.run("histocae", "publish")
    record = json.loads((project_copy.folder / "models/runs/all.json").read_text())
    client = MlflowClient(f"sqlite:///{project_copy.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("histocae").experiment_id
    runs = client.search_runs([experiment], f"tags.`histocae.training_id` = '{record['training_id']}'")
    assert len(runs) == 1 and runs[0].data.metrics["test_mse"] > 0
    message = project_copy.run("histocae", "register", fails=True, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert "tracking server" in message and "Traceback" not in message


def test_mlflow_run_trains_one_model_under_its_own_run(project_copy):
    project_copy.set(**{"models.tumor.epochs": 1})
    output = project_copy.run("mlflow", "run", ".", "-e", "train", "-P", "model=tumor", "--env-manager", "local")
    assert "train@tumor" in stages_run(output)
    client = MlflowClient(f"sqlite:///{project_copy.folder / 'mlflow.db'}")
    record = json.loads((project_copy.folder / "models/runs/tumor.json").read_text())
    run = client.get_run(record["run_id"])
    parent = client.get_run(run.data.tags["parent"])
    assert run.data.params["training.epochs"] == "1"
    assert parent.data.tags["mlflow.project.entryPoint"] == "train" and parent.info.status == "FINISHED"
    assert not parent.data.metrics


def test_mlflow_run_refuses_an_unknown_model(project_copy):
    message = project_copy.run(
        "mlflow", "run", ".", "-e", "train", "-P", "model=none", "--env-manager", "local", fails=True
    )
    assert "none" in message


def test_an_unknown_model_is_reported_in_one_line(project_copy):
    message = project_copy.run("histocae", "train", "none", fails=True)
    assert message == "histocae train: models has no entry 'none'; it has all, tumor, normal\n"
