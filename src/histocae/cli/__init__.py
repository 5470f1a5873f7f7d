"""The command `histocae`: one subcommand per stage of dvc.yaml, and others for plans and for jobs.

Nothing heavy is imported before a command is known: `--help` answers at once.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence

from histocae import __version__
from histocae.address import without_credentials
from histocae.cli import completion, jobs, plan, stages
from histocae.cli.stages import COMMANDS, MNIST
from histocae.errors import HistocaeError

__all__ = ["COMMANDS", "MNIST", "main", "parser"]


class _Formatter(logging.Formatter):
    """Formats messages without credentials; those of libraries may have the address of a server."""

    def format(self, record: logging.LogRecord) -> str:
        return without_credentials(super().format(record))


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="histocae",
        description="Experiment-tracked convolutional autoencoders on histology slides. "
        "The commands are the stages of dvc.yaml: `dvc repro` runs them in order.",
    )
    top.add_argument("--version", action="version", version=f"histocae {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    stages.add(commands)
    plan.add(commands)
    stages.add_mnist(commands)
    jobs.add(commands)
    completion.add(commands, top)
    return top


def main(words: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        words: of the command line, without the program; None: those of this process.

    Returns:
        The exit code: 0, 1 after one line about an error that a user can fix, or 130 after Ctrl-C.

    """
    arguments = parser().parse_args(words)
    # INFO of this package, warnings of all libraries
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(f"%(asctime)s {arguments.command}: %(message)s", "%H:%M:%S"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("histocae").setLevel(logging.INFO)
    run: Callable[[argparse.Namespace], int] = arguments.handler
    try:
        return run(arguments)
    except HistocaeError as error:
        # one line, also where a library's message inside it has several
        message = without_credentials(" ".join(str(error).split()))
        print(f"histocae {arguments.command}: {message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"histocae {arguments.command}: interrupted", file=sys.stderr)
        return 130
