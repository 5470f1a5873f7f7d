"""MLflow's pages of a project in a real browser: make test-browser. Not part of the ordinary tests."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from support import registered

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; on Debian: apt-get install chromium"),
]
RUNS = "#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=histocae&compareRunsMode="


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield registered.make(tmp_path_factory.mktemp("registered") / "project", patch)


@pytest.fixture(scope="module")
def dom(project, tmp_path_factory):
    """Return a function that opens a page in a browser and returns its DOM."""
    folder = tmp_path_factory.mktemp("pages")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    env = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    env |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            ["mlflow", "ui", "--backend-store-uri", project.uri, "--port", str(port)],
            cwd=project.folder,
            env=env,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait(f"http://127.0.0.1:{port}/health", server)

            def dump(address: str) -> str:
                # no window manager, no GPU, no sandbox (which root may not use); virtual time skips pauses
                done = subprocess.run(
                    [
                        CHROMIUM,
                        "--headless=new",
                        "--no-sandbox",
                        "--disable-gpu",
                        "--disable-dev-shm-usage",
                        "--disable-background-networking",
                        f"--user-data-dir={folder / 'profile'}",
                        "--window-size=2600,2600",
                        "--virtual-time-budget=60000",
                        "--dump-dom",
                        f"http://127.0.0.1:{port}/{address}",
                    ],
                    capture_output=True,
                    text=True,
                    timeout=180,
                )
                assert "Request error" not in done.stdout and "went wrong" not in done.stdout
                return done.stdout

            yield dump
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


def _wait(url: str, server: subprocess.Popen) -> None:
    for _ in range(600):
        assert server.poll() is None
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise AssertionError("the server did not start")


def text_of(page: str) -> str:
    return re.sub(r"(\s|&nbsp;)+", " ", re.sub(r"<[^>]+>", " ", page))


def test_the_saved_view_compares_all_models(dom):
    page = dom(RUNS + "CHART")
    text = text_of(page)
    assert "Comparison" in text  # the name of the selected view
    for name in (*registered.MODELS, "pair"):
        assert re.search(rf"\b{name}\b", text), name
    for section in ("All models (1)", "Reconstructions (2)", "Errors (6)"):
        assert section in text
    axes = re.findall(r'class="label"[^>]*>([^<]+)<', page)  # of parallel coordinates; long names are shortened
    assert axes[0].startswith("model")
    assert axes[1:] == ["latent_size", "parameters", "seconds", "all_test_ssim", "validation_mse", "all_test_mse"]
    images = set(re.findall(r"images%2F(\w+)%2Bstep%2B(\d).*?run_uuid=(\w+)", page))
    assert len(images) == 2 * len(registered.MODELS)
    assert {(key, step) for key, step, _ in images} == {("test_reconstruction", "0"), ("reconstruction", "1")}
    assert "No image logged at this step" not in page
    (slider,) = (tag for tag in re.findall(r'<[^>]*role="slider"[^>]*>', page) if 'aria-valuenow="1"' in tag)
    assert 'aria-valuemax="2"' in slider


def test_the_table_of_runs_shows_their_params_and_metrics(dom):
    text = text_of(dom(RUNS + "TABLE"))
    for column in ("latent_size", "test_mse", "test_psnr", "model.architecture"):
        assert column in text


@pytest.mark.parametrize("name", ["histocae-all", "histocae-tumor", "histocae-normal", "histocae-pair"])
def test_the_registry_shows_a_champion_and_its_card(dom, project, name):
    version = project.client.get_model_version_by_alias(name, "champion").version
    text = text_of(dom(f"#/models/{name}?workflowType=machine_learning"))
    assert "@ champion" in text and ("@ challenger" in text) == (name == "histocae-all")
    page = dom(f"#/models/{name}/versions/{version}?workflowType=machine_learning")
    assert all(f"{title}</h2>" in page for title in ("Data", "Limits", "How to call it"))
    assert "<table" in page and "&amp;emsp;" not in page
    assert f"models:/{name}@champion" in text_of(page)
