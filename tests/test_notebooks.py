"""The notebooks: their code runs, in a short form, and their outputs are kept."""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from support.workspace import ALL_STAGES, ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def run(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook in a folder, where it needs nothing but the package."""
    notebook = nbformat.read(path, as_version=4)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "DVC_"))}
    env |= {"HISTOCAE_SHORT": "1", "IPYTHONDIR": str(folder / ".ipython"), "JUPYTER_PLATFORM_DIRS": "1"}
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.create_kernel_manager()
    # the kernel of this environment, whatever others the machine has
    client.km.kernel_spec.argv[0] = sys.executable
    return client.execute(env=env)


def count_figures(notebook: nbformat.NotebookNode) -> int:
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return sum("image/jpeg" in output.get("data", {}) for output in outputs)


def test_both_notebooks_of_the_project_are_there():
    assert [path.stem for path in NOTEBOOKS] == ["cae_training", "mnist_example"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept_and_name_no_path_of_the_machine(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [
        output
        for cell in code
        for output in cell.outputs
        if output.output_type in ("error", "stream") and output.get("name") != "stdout"
    ]
    assert count_figures(notebook) >= 6
    text = re.sub(r'"image/jpeg": "[^"]*"', "", path.read_text(encoding="utf-8"))
    assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users|usr)\b", text)


@pytest.mark.long
def test_the_mnist_notebook_runs_in_short(tmp_path):
    assert count_figures(run(ROOT / "notebooks" / "mnist_example.ipynb", tmp_path)) >= 10


@pytest.mark.long
def test_the_training_notebook_runs_in_short(new_project):
    project = new_project("project")
    project.params(data__source="demo", data__demo__cases=8, data__demo__side_microns=256.0, patches__pixels=32)
    project.make(*ALL_STAGES)
    folder = project.folder / "notebooks"
    folder.mkdir()
    done = run(ROOT / "notebooks" / "cae_training.ipynb", folder)
    assert count_figures(done) >= 8
    assert (folder / "model_normal" / "encoder.weights.h5").is_file()
