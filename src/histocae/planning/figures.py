"""The numbers that a plan is computed from: measured coefficients, and prices and assumptions with their origin.

Both are files beside this module. `python benchmarks/scale.py` writes measured.json; options of the command line
override values of assumptions.json.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
MEASURED = FOLDER / "measured.json"
ASSUMED = FOLDER / "assumptions.json"


@cache
def measured() -> dict[str, Any]:
    """Read the measurements of benchmarks/scale.py; not to be changed by the caller."""
    values: dict[str, Any] = json.loads(MEASURED.read_text(encoding="utf-8"))
    return values


@cache
def assumed() -> dict[str, dict[str, Any]]:
    """Read prices and assumptions: value, unit and origin of each; not to be changed by the caller."""
    values: dict[str, dict[str, Any]] = json.loads(ASSUMED.read_text(encoding="utf-8"))
    return values
