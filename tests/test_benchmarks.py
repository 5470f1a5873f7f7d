"""Results in benchmarks/: the README has the measured figures, and each missed goal has its reason."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def harness(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import harness

    yield harness
    del sys.modules["harness"]


def test_the_readme_quotes_the_results(harness):
    assert harness.TABLE.search(harness.README.read_text(encoding="utf-8"))[0] == harness.table()


def test_every_figure_states_its_comparison_and_the_reason_of_a_missed_goal(harness):
    figures = json.loads(harness.RESULTS.read_text(encoding="utf-8"))["figures"]
    assert len(figures) > 15
    for name, figure in figures.items():
        assert {"value", "goal", "better", "unit", "compared", "date", "machine"} <= set(figure), name
        higher_is_better = figure["better"] == "higher"
        assert higher_is_better or figure["better"] == "lower", name
        is_met = figure["value"] >= figure["goal"] if higher_is_better else figure["value"] <= figure["goal"]
        assert is_met or figure["reason"], name


def test_methods_are_timed_in_turn_and_medians_are_printed(harness, capsys):
    order, seconds = [], iter([9.0, 9.0, 1.0, 4.0, 3.0, 5.0, 2.0, 6.0])
    methods = {name: lambda name=name: order.append(name) or next(seconds) for name in "AB"}
    assert harness.in_turn(methods, 3, work=12) == {"A": 2.0, "B": 5.0}
    assert "".join(order) == "ABABABAB"
    assert "6 runs/s  (4 to 12)" in capsys.readouterr().out


def test_a_figure_keeps_its_reason_only_if_it_misses_its_goal(harness, monkeypatch, tmp_path):
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results.json")
    harness.record("a", 3, 2, "higher", "a with b", reason="slow")
    harness.record("c", 3.00001, 2, "lower", "c with d", reason="slow | really")
    figures = json.loads(harness.RESULTS.read_text())["figures"]
    assert "reason" not in figures["a"] and figures["c"]["reason"] == "slow | really" and figures["c"]["value"] == 3.0
    assert "| c | 3 (missed: 1) | <= 2 | c with d |" in harness.table() and "1. c: slow | really" in harness.table()
