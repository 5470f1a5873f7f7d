"""`histocae --help` compared with an interpreter that does nothing, as whole processes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from harness import in_turn, record

GOAL = 10
ROUNDS = 31
# modules that take a tenth of a second or more to load, and that no help text needs
HEAVY = ("tensorflow", "keras", "mlflow", "dvc", "pandas", "numpy", "scipy", "sklearn", "matplotlib", "pydantic")
LOADED = """
import sys
from histocae.cli import main
try:
    main(["--help"])
finally:
    print(*sys.modules, file=sys.stderr)
"""


def main() -> int:
    python, script = sys.executable, Path(sys.executable).with_name("histocae")
    medians = in_turn(
        {
            "an interpreter that does nothing": process(python, "-c", "pass"),
            "help, without the script": process(python, "-c", "from histocae.cli import main; main(['--help'])"),
            "help": process(script, "--help"),
        },
        ROUNDS,
        unit="starts",
    )
    bare_python, without_script, with_script = medians.values()
    share = (with_script - without_script) / bare_python
    print(f"the script that pip made adds {share:.2f} times the time of an interpreter that does nothing")
    record(
        "help_vs_python",
        with_script / bare_python,
        GOAL,
        "lower",
        "`histocae --help` against `python -c pass`, whole processes",
    )
    modules = subprocess.run([python, "-c", LOADED], capture_output=True, text=True).stderr.split()
    heavy = sorted({*HEAVY} & {*modules})
    if heavy:
        print(f"`histocae --help` loads {', '.join(heavy)}")
    return len(heavy)


def process(*command: str | Path) -> Callable[[], None]:
    """Make a function that runs a command, which must succeed."""
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL) and None


if __name__ == "__main__":
    sys.exit(main())
