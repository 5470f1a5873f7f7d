"""The numbers that a plan stands on: measured coefficients, and prices and assumptions with their origin.

Both are files beside this one. measured.json is what `python benchmarks/scale.py` writes; each value of
assumptions.json can be given on the command line.
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
    """Read what benchmarks/scale.py measured; not to be changed by the caller."""
    return json.loads(MEASURED.read_text(encoding="utf-8"))


@cache
def assumed() -> dict[str, dict[str, Any]]:
    """Read prices and assumptions: value, unit and origin of each; not to be changed by the caller."""
    return json.loads(ASSUMED.read_text(encoding="utf-8"))
