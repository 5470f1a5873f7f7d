"""Completion in the shell: the command `histocae completion`, and the arguments that name files."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histocae.cli.stages import Commands

# shtab.FILE, written out: to import shtab takes time that only `histocae completion` should take
FILES = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}


def add(commands: "Commands", top: argparse.ArgumentParser) -> None:
    """Add the command `completion` to the command line.

    Args:
        commands: of the command line.
        top: the parser of the whole command line, which the shell will complete.

    """
    parser = commands.add_parser(
        "completion",
        help="print a script with which a shell completes this command line",
        description='Print a script for a shell. In bash: eval "$(histocae completion bash)".',
    )
    parser.add_argument("shell", choices=tuple(FILES))

    def run(arguments: argparse.Namespace) -> int:
        import shtab

        print(shtab.complete(top, arguments.shell))
        return 0

    parser.set_defaults(command="completion", handler=run)


def add_params(parser: argparse.ArgumentParser) -> None:
    """Add the option `--params` to a command."""
    option = parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="default: params.yaml in the working directory"
    )
    complete_with_files(option)


def complete_with_files(argument: argparse.Action) -> None:
    """Let a shell complete an argument with names of files."""
    argument.complete = FILES  # type: ignore[attr-defined]  # shtab looks for it there
