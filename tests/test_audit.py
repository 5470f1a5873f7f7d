"""`make audit` tells no vulnerability from one that nobody looked for."""

import json
from types import SimpleNamespace

import pytest

from support import audit

WELL = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "code", "text"),
    [
        ([WELL], 0, "lock: 1 packages checked by pypi, 0 known vulnerabilities"),
        ([WELL, BAD], 1, "lock: b 2: CVE-1; fixed in 3"),
        ([WELL, UNKNOWN], 2, "lock: c: not checked: not found"),
        ([UNKNOWN], 2, "lock: NOT CHECKED"),
        (None, 2, "can't be used from here: no such host"),
    ],
)
def test_the_exit_code_says_whether_all_packages_were_checked(monkeypatch, capsys, packages, code, text):
    answer = SimpleNamespace(
        stdout="" if packages is None else json.dumps({"dependencies": packages}),
        stderr="Traceback\nno such host",
        returncode=1,
    )
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: answer)
    assert audit.check("lock") == code
    assert text in "".join(capsys.readouterr())
