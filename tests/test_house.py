"""The files around the code: lock, environment, commands of the README, citation, hosted CI, the command line."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from histocae.cli import COMMANDS, MNIST, main

ROOT = Path(__file__).resolve().parents[1]


def lock_entries(name: str = "requirements.lock") -> dict[str, str]:
    text = (ROOT / name).read_text()
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?==(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL))


def test_the_lock_has_a_hash_for_everything_and_names_no_host():
    entries = lock_entries()
    assert len(entries) > 100
    assert [name for name, body in entries.items() if "--hash=sha256:" not in body] == []
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|--index-url|--extra-index-url|--find-links|^#", text, re.MULTILINE)


def test_the_lock_has_what_pyproject_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {re.match(r"[A-Za-z0-9.-]+", requirement).group().lower().replace(".", "-") for requirement in asked}
    assert names <= {name.lower() for name in lock_entries()}
    assert project["requires-python"] == ">=3.11,<3.14"
    text = (ROOT / "pyproject.toml").read_text()
    for requirement in asked:  # its line says why it is there
        assert re.search(re.escape(f'"{requirement}",') + r"\s*# \S", text), requirement


def test_the_lock_for_graphics_cards_adds_nvidias_libraries_and_nothing_else():
    plain, cards = lock_entries(), lock_entries("requirements-gpu.lock")
    assert {name: cards[name] for name in plain} == plain
    added = set(cards) - set(plain)
    assert {"nvidia-cudnn-cu12", "nvidia-cuda-runtime-cu12"} <= added
    assert [name for name in added if not name.startswith("nvidia-")] == []
    assert [name for name in added if "--hash=sha256:" not in cards[name]] == []


def test_ci_calls_the_readmes_test_command():
    assert "make test" in (ROOT / "README.md").read_text()
    commands = [
        line
        for line in (ROOT / ".ci/run").read_text().splitlines()
        if line and not line.startswith(("#", "set ", "cd "))
    ]
    assert commands == ["make test"]


def test_hooks_and_hosted_ci_call_targets_of_the_makefile():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == ["make lint", "make test-quick"]
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make lint", "make test"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert {"lint", "format", "test", "test-quick", "coverage"} <= set(targets)


def test_the_citation_has_the_packages_version_and_license():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert citation["cff-version"] == "1.2.0" and citation["authors"] == [{"name": "The histocae maintainers"}]
    assert f"## [{project['version']}] - {citation['date-released']}" in (ROOT / "CHANGELOG.md").read_text()


def test_mlproject_names_entry_points_that_are_there():
    project = yaml.safe_load((ROOT / "MLproject").read_text())
    assert set(project["entry_points"]) == {"main", "train"}
    assert (ROOT / project["python_env"]).is_file()


@pytest.mark.parametrize(
    "command", ["", *COMMANDS, "mnist", *(f"mnist {stage}" for stage in MNIST), "plan", "jobs", "sweep", "completion"]
)
def test_help_is_there_for_every_command(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    assert end.value.code == 0
    assert "usage: histocae" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("histocae cross", "crossvalidate"),
        ("histocae mnist pi", "pixels"),
        ("histocae jobs f", "fetch"),
        ("histocae sweep histocae-s", "histocae-ssh histocae-slurm"),
        ("histocae train deep --params par", "params.yaml"),
    ],
)
def test_a_shell_completes_commands_and_files(line, expected, capsys):
    assert main(["completion", "bash"]) == 0
    words = line.split()
    script = (
        f"{capsys.readouterr().out}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}\n"
        f'_shtab_histocae histocae {words[-1]} {words[-2]}; echo "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected.split()


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from histocae.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'tensorflow', 'keras', 'mlflow', 'pandas', 'numpy', 'pydantic', 'shtab'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.rstrip().endswith("[]")


def test_data_stages_import_neither_tensorflow_nor_mlflow():
    code = (
        "import sys, importlib\n"
        "for stage in ('inventory', 'metadata', 'slides', 'patches', 'split'):\n"
        "    importlib.import_module(f'histocae.stages.{stage}')\n"
        "print(sorted({'tensorflow', 'keras', 'mlflow'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_progress_bars_show_on_a_terminal_even_of_no_size_and_nowhere_else():
    code = "from histocae.progress import bar\nfor _ in bar(range(3), 'slides', 'slides'): pass"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""
    ours, theirs = os.openpty()  # a fresh terminal has 0 columns and 0 lines
    subprocess.run([sys.executable, "-c", code], stdout=theirs, stderr=theirs, check=True)
    os.close(theirs)
    assert "slides:   0%|" in os.read(ours, 10_000).decode()
    os.close(ours)
