"""A small project in a separate folder, used as a user does: by the commands dvc, histocae and mlflow."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
# Only a command that hangs reaches this: the whole pipeline takes two minutes on two quiet cores, but more than
# six where other tests and other users share them.
LIMIT = 1500  # seconds
FILES = ("dvc.yaml", "inventory/dvc.yaml", "params.yaml", "MLproject", "python_env.yaml", ".dvcignore", ".gitignore")
SMALL = {
    "data.demo.cases": 6,
    "data.demo.side_microns": 256.0,
    "patches.pixels": 64,
    "training.epochs": 2,
    "training.batch_size": 16,
    "training.picture_every": 1,
    "tissue.bootstrap": 100,
    "tissue.permutations": 100,
    "models": {
        "all": {"cohort": "all", "filters": [4, 8], "latent_features": 16},
        "tumor": {"cohort": "tumor", "filters": [4, 8]},
        "normal": {"cohort": "normal", "filters": [4, 8]},
    },
}


class Project:
    """A working copy with params, pipeline and source code."""

    def __init__(self, folder: Path, **overrides: object):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "inventory").mkdir(exist_ok=True)
        for name in FILES:
            shutil.copy(ROOT / name, folder / name)
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / "src", folder / "src", ignore=ignore)
        self.set(**{**SMALL, **overrides})
        self.run("git", "init", "-q")
        self.run("dvc", "init", "-q")
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", "start")

    def set(self, **overrides: object) -> None:
        """Change params.yaml; keys are dotted, a value of None is null, ... removes the key."""
        path = self.folder / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for dotted, value in overrides.items():
            *sections, key = dotted.split(".")
            section = params
            for name in sections:
                section = section[name]
            if value is ...:
                del section[key]
            else:
                section[key] = value
        path.write_text(yaml.safe_dump(params, sort_keys=False))

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the project's commands: their only tracking server is the project's database."""
        # TF_: TensorFlow sets these where a test imports it; they would change the log of the commands
        env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "DVC_", "TF_"))}
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
        for role in ("AUTHOR", "COMMITTER"):
            env |= {f"GIT_{role}_NAME": "tests", f"GIT_{role}_EMAIL": "tests@example.invalid"}
        return env

    def run(self, *command: str, fails: bool = False, **env: str) -> str:
        """Run a command in the folder and return its output; it must succeed, or fail if `fails` is set."""
        result = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT,
        )
        assert (result.returncode != 0) == fails, result.stdout
        return result.stdout

    def bytes(self, *roots: str) -> dict[str, bytes]:
        """Read all files under some folders (or files)."""
        contents = {}
        for root in roots:
            path = self.folder / root
            for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
                contents[file.relative_to(self.folder).as_posix()] = file.read_bytes()
        return contents


HEAVY = ("tensorflow", "mlflow")
# runs at the start of every Python process, before any import, so that no import is missed
_IMPORT_RECORDER = """
import os, sys

class ImportRecorder:
    def find_spec(self, name, path=None, target=None):
        if name in os.environ["RECORDED_NAMES"].split():
            with open(os.environ["RECORD_FILE"], "a") as out:
                print(name, "by", " ".join(sys.orig_argv), file=out)

with open(os.environ["RECORD_FILE"], "a") as out:
    print("", file=out)
sys.meta_path.insert(0, ImportRecorder())
"""


def heavy_imports(call: Callable[[dict[str, str]], object], folder: Path) -> set[str]:
    """List the heavy libraries that processes import; `call` gets their environment and starts them."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_IMPORT_RECORDER)
    file = folder / "imports.txt"
    python_path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    call({"PYTHONPATH": python_path, "RECORD_FILE": str(file), "RECORDED_NAMES": " ".join(HEAVY)})
    lines = file.read_text().split("\n")[:-1]
    assert lines  # no line means that no process ran sitecustomize.py
    return {line for line in lines if line}
