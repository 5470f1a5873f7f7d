"""Examples in docstrings of the package print the output that they show."""

import doctest
import importlib
from pathlib import Path

import pytest

import histocae

PACKAGE = Path(histocae.__file__).parent
NEEDS_MODELS = "scoring/api.py"  # tests/scoring runs its example, where there are trained models
FILES = [
    path.relative_to(PACKAGE)
    for path in PACKAGE.rglob("*.py")
    if ">>>" in path.read_text(encoding="utf-8") and path.relative_to(PACKAGE).as_posix() != NEEDS_MODELS
]
MODULES = sorted(".".join((PACKAGE.name, *file.with_suffix("").parts)).removesuffix(".__init__") for file in FILES)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_print_the_output_they_show(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.attempted > 0 and results.failed == 0
