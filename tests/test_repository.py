"""Lock files, README, citation, hooks and CI agree with each other; help, completion and imports of commands."""

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


def test_the_lock_file_has_a_hash_per_package_and_names_no_host():
    entries = lock_entries()
    assert len(entries) > 100
    assert [name for name, body in entries.items() if "--hash=sha256:" not in body] == []
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|--index-url|--extra-index-url|--find-links|^#", text, re.MULTILINE)


def test_the_lock_file_has_all_requirements_of_pyproject_toml():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {
        re.match(r"[A-Za-z0-9.-]+", requirement).group().lower().replace(".", "-") for requirement in requirements
    }
    assert names <= {name.lower() for name in lock_entries()}
    assert project["requires-python"] == ">=3.11,<3.14"
    text = (ROOT / "pyproject.toml").read_text()
    for requirement in requirements:  # a comment on its line states the reason
        assert re.search(re.escape(f'"{requirement}",') + r"\s*# \S", text), requirement


def test_the_lock_file_for_gpus_adds_only_libraries_of_nvidia():
    entries, gpu_entries = lock_entries(), lock_entries("requirements-gpu.lock")
    assert {name: gpu_entries[name] for name in entries} == entries
    added_names = set(gpu_entries) - set(entries)
    assert {"nvidia-cudnn-cu12", "nvidia-cuda-runtime-cu12"} <= added_names
    assert [name for name in added_names if not name.startswith("nvidia-")] == []
    assert [name for name in added_names if "--hash=sha256:" not in gpu_entries[name]] == []


def test_ci_runs_the_test_command_of_the_readme():
    assert "make test" in (ROOT / "README.md").read_text()
    commands = [
        line
        for line in (ROOT / ".ci/run").read_text().splitlines()
        if line and not line.startswith(("#", "set ", "cd "))
    ]
    assert commands == ["make test"]


def test_hooks_and_hosted_ci_run_targets_of_the_makefile():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == ["make lint", "make test-quick"]
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make lint", "make test"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert {"lint", "format", "test", "test-quick", "coverage"} <= set(targets)


def test_the_citation_has_the_version_and_license_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert citation["cff-version"] == "1.2.0" and citation["authors"] == [{"name": "The histocae maintainers"}]
    assert f"## [{project['version']}] - {citation['date-released']}" in (ROOT / "CHANGELOG.md").read_text()


def test_mlproject_has_its_entry_points_and_environment():
    project = yaml.safe_load((ROOT / "MLproject").read_text())
    assert set(project["entry_points"]) == {"main", "train"}
    assert (ROOT / project["python_env"]).is_file()


@pytest.mark.parametrize(
    "command",
    ["", *COMMANDS, "mnist", *(f"mnist {stage}" for stage in MNIST), "export", "plan", "jobs", "sweep", "completion"],
)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main([*command.split(), "--help"])
    assert exit_info.value.code == 0
    assert "usage: histocae" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("histocae cross", "crossvalidate"),
        ("histocae mnist pi", "pixels"),
        ("histocae jobs f", "fetch"),
        ("histocae export --form h5", "h5ad h5"),
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
    result = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == expected.split()


def test_help_imports_no_heavy_library():
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


def test_progress_bars_show_only_on_terminals_also_on_those_without_a_size():
    code = "from histocae.progress import bar\nfor _ in bar(range(3), 'slides', 'slides'): pass"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == result.stderr == ""
    reader, terminal = os.openpty()  # a new terminal has 0 columns and 0 lines
    subprocess.run([sys.executable, "-c", code], stdout=terminal, stderr=terminal, check=True)
    os.close(terminal)
    assert "slides:   0%|" in os.read(reader, 10_000).decode()
    os.close(reader)
