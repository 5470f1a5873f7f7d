"""Who may import whom: the contracts of pyproject.toml hold, and docs/architecture.md draws the same layers."""

import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_packages_import_only_what_the_contracts_allow():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_architecture_page_shows_the_layers_of_the_contract():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract["layers"] for contract in contracts if contract.get("containers") == ["histocae"])
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    shown = defaultdict(set)
    for layer, package in re.findall(r"^\| (\d+) \| `(\w+)` \|", page, re.MULTILINE):
        shown[int(layer)].add(package)
    assert dict(shown) == {i: set(layer.split(" | ")) for i, layer in enumerate(layers, start=1)}
