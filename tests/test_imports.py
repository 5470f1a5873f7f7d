"""Imports between packages follow the contracts of pyproject.toml; docs/architecture.md has the same layers."""

import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_packages_import_only_what_the_contracts_allow():
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_architecture_page_shows_the_layers_of_the_contract():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract["layers"] for contract in contracts if contract.get("containers") == ["histocae"])
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    shown_layers = defaultdict(set)
    for layer, package in re.findall(r"^\| (\d+) \| `(\w+)` \|", page, re.MULTILINE):
        shown_layers[int(layer)].add(package)
    assert dict(shown_layers) == {i: set(layer.split(" | ")) for i, layer in enumerate(layers, start=1)}
