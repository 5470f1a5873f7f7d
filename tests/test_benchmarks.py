"""Results in benchmarks/: the README has the measured figures, and each missed goal has its reason."""

import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from support import make_data

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


def test_faults_are_counted_on_the_images_that_are_there(harness, monkeypatch, tmp_path, capsys):
    import quality

    crops = tmp_path / quality.CROPS
    crops.mkdir()
    Image.fromarray(make_data.tissue(3, 512, 512)).save(crops / "crop.png")
    monkeypatch.setattr(quality, "SOURCES", {"PAAD": quality.CROPS, "lung": quality.LUNG})
    monkeypatch.setattr(quality, "KINDS", ("violet", "violet" + quality.HALF, "blur"))
    monkeypatch.setattr(quality, "time_measuring", lambda: "no time")
    before = quality.DOCUMENT.read_text(encoding="utf-8")
    quality.main(tmp_path)
    printed = capsys.readouterr().out
    assert "left out: lung" in printed and "| found on tissue | PAAD |" in printed
    assert re.search(r"\| violet \| [01]\.\d{3} \(\d+", printed) and "| blur | 0.000 (16) |" in printed
    # tables of a part of the images are not for the document, which has them all
    assert quality.DOCUMENT.read_text(encoding="utf-8") == before
    assert re.search(r"<!-- measured -->\n\n\| found on tissue \| demo \|", before)


@pytest.mark.long
def test_a_study_of_pairs_chooses_on_validation_cases_and_fills_its_document(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import decide
    import decide_measures
    import decide_pairs
    import decide_tables

    monkeypatch.setattr(decide_pairs, "WORK", tmp_path)
    monkeypatch.setattr(decide_pairs, "FOLDS", 3)
    monkeypatch.setattr(decide_pairs, "COARSE", 2)
    pairs = [decide_pairs.NOTEBOOK, *(decide_pairs.Configuration("compact", count) for count in (2, 4))]
    for module in (decide_measures, decide_pairs):
        monkeypatch.setattr(module, "GRID", pairs)
        monkeypatch.setattr(module, "LOSSES", [decide_pairs.Configuration("compact", 2, "l1")])
    monkeypatch.setattr(decide_measures, "OVERALL", pairs[1])
    monkeypatch.setattr(decide_measures, "ALWAYS", pairs[:2])
    monkeypatch.setattr(decide_measures, "FINALISTS", dict.fromkeys(decide_measures.FINALISTS, 1))
    monkeypatch.setattr(decide_pairs, "DATA", {"demo": (None, {"mpp": 2.0, "max_per_slide": 3})})
    monkeypatch.setattr(decide_pairs, "run", lambda tasks, _: [decide_pairs.work(task) for task in tasks])
    monkeypatch.setattr(
        decide, "measure_all", lambda chosen: {k: decide_measures.measure(k, v) for k, v in chosen.items()}
    )
    monkeypatch.setattr(decide_measures, "DEALS", 2)
    monkeypatch.setattr(decide_measures, "DRAWS", 100)
    monkeypatch.setattr(decide, "RESULTS", tmp_path / "decide.json")
    monkeypatch.setattr(decide_tables, "plot", lambda *_: None)
    names = (
        "data",
        "answer demo",
        "first demo",
        "finalists demo",
        "one-class demo",
        "overall",
        "losses",
        "statistics",
    )
    document = tmp_path / "pair.md"
    document.write_text("\n".join(f"<!-- {name} -->\n\nold\n\n<!-- end of {name} -->" for name in names))
    monkeypatch.setattr(decide_tables, "DOCUMENT", document)
    decide.main(tmp_path, ["demo"])

    found = json.loads((tmp_path / "decide.json").read_text())["demo"]
    assert set(found["first"]) == {pair.name for pair in pairs} and len(found["deals"]) == 2
    assert set(found["finalists"]) <= {"compact-2", "compact-4"}
    for deal in found["deals"]:
        # each fold chooses among the pairs that were trained on this deal
        assert all(name.split(",")[0] in found["finalists"] for name in deal["chosen"]["by error"])
        assert {"texture", "pca_pair", "notebook", "overall", "any score"} <= set(deal["methods"])
    text = document.read_text()
    assert "old" not in text and "| notebook |" in text

    # the AUROC of a score that the fold's own scale can't change is that of its patches
    deal = decide_measures.Deal("demo", 0, pairs[:2])
    rows = deal.pooled(lambda _: decide_measures.Choice(pairs[1], "log ratio"))
    assert len(rows) == found["patches"] and rows["case_id"].nunique() == found["cases"]
    deal = decide_measures.Deal("demo", 0, pairs, 2)
    rows = deal.pooled(lambda _: decide_measures.Choice(pairs[1], "log ratio"))
    assert len(rows) < found["patches"] and rows["case_id"].nunique() < found["cases"]
    value = found["first"]["compact-2"]["log ratio"]["mean"]["patch"]
    assert value == pytest.approx(roc_auc_score(rows["label"], rows["score"]), abs=1e-4)
