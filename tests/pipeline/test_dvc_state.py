"""What dvc.lock says of the outputs: damage in it never stops a training."""

from pathlib import Path

import pytest

from histocae.pipeline import dvc_state

LOCK = """\
schema: '2.0'
stages:
  train@tumor:
    cmd: histocae train tumor
    outs:
    - path: models/runs/tumor.json
      hash: md5
      md5: 0a1b
    - path: models/trained/tumor
"""


def test_the_outputs_of_a_stage_are_read_from_dvc_lock(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert dvc_state.recorded_md5("train@tumor") == {}
    dvc_state.LOCK.write_text(LOCK)
    assert dvc_state.recorded_md5("train@tumor") == {Path("models/runs/tumor.json"): "0a1b"}
    assert dvc_state.recorded_md5("train@normal") == {}


@pytest.mark.parametrize(
    "text", ["", "[]", "stages:", "stages: []", "stages: {train@tumor: }", LOCK.replace("outs:", "outs: 3 #"), "3"]
)
def test_a_dvc_lock_of_another_form_has_no_hashes(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    dvc_state.LOCK.write_text(text)
    assert dvc_state.recorded_md5("train@tumor") == {}


def test_a_dvc_lock_with_marks_of_a_merge_has_no_hashes(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    dvc_state.LOCK.write_text(f"<<<<<<< ours\n{LOCK}=======\n{LOCK}>>>>>>> theirs\n")
    assert dvc_state.recorded_md5("train@tumor") == {}
    assert len(caplog.records) == 1 and caplog.messages[0].startswith("dvc.lock: not YAML:")
