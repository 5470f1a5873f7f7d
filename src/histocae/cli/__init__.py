"""The command `histocae`: one subcommand per stage of dvc.yaml, and others for exports, plans and jobs.

Nothing heavy is imported before a command is known: `--help` answers at once.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from histocae import __version__
from histocae.address import without_credentials
from histocae.cli import completion, export, jobs, plan, score, signals, stages, streams, system_errors
from histocae.cli.stages import COMMANDS, MNIST
from histocae.errors import HistocaeError

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

# killed by SIGTERM or a closed terminal, they leave the jobs on other machines running; Ctrl-C cancels these
_LEAVE_JOBS = ("jobs", "sweep")
__all__ = ["COMMANDS", "MNIST", "main", "parser"]


class _Formatter(logging.Formatter):
    """Formats messages without credentials; those of libraries may have the address of a server."""

    def format(self, record: logging.LogRecord) -> str:
        return without_credentials(super().format(record))


class _Parser(argparse.ArgumentParser):
    """A parser whose help fails where it can't be written; that of Python passes over the error."""

    def _print_message(self, message: str, file: "SupportsWrite[str] | None" = None) -> None:
        if file is sys.stdout:
            streams.write(message)
        else:
            super()._print_message(message, file)


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    top: argparse.ArgumentParser = _Parser(
        prog="histocae",
        description="Experiment-tracked convolutional autoencoders on histology slides. "
        "The commands are the stages of dvc.yaml: `dvc repro` runs them in order.",
    )
    top.add_argument("--version", action="version", version=f"histocae {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    stages.add(commands)
    score.add(commands)
    export.add(commands)
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
        The exit code: 0, or 1 after one line about an error that a user can fix. A signal gives 128 and its number,
        after one line: 130 after Ctrl-C, 143 after SIGTERM. 141: nobody reads the output any more.

    """
    streams.prepare()
    name, line = "histocae", None
    try:
        with signals.raised(signals.INTERRUPT):
            arguments = _parsed(words)
        name = f"histocae {arguments.command}"
        with ExitStack() as stack:
            leaves = arguments.command in _LEAVE_JOBS
            stack.enter_context(signals.raised(signals.INTERRUPT if leaves else signals.ALL, ends=words is None))
            if leaves:
                stack.enter_context(signals.leaving(name))
            code = _run(arguments)
            streams.flush()
    except HistocaeError as error:
        # one line, also where a library's message inside it has several
        line, code = " ".join(str(error).split()), 1
    except signals.Ended as end:
        line, code = end.words, 128 + end.number
    except KeyboardInterrupt:
        line, code = "interrupted", 130
    except Exception as error:  # libraries have own types for a full disk; a bug is raised again
        if streams.is_unread(error):
            return 141
        line, code = system_errors.explain(error), 1
        if line is None:
            raise
    if line is not None:
        streams.report(f"{name}: {without_credentials(line)}")
    return code


def _parsed(words: Sequence[str] | None) -> argparse.Namespace:
    try:
        return parser().parse_args(words)
    except SystemExit:
        streams.flush()  # --help
        raise


def _run(arguments: argparse.Namespace) -> int:
    # INFO of this package, warnings of all libraries
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(f"%(asctime)s {arguments.command}: %(message)s", "%H:%M:%S"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("histocae").setLevel(logging.INFO)
    run: Callable[[argparse.Namespace], int] = arguments.handler
    return run(arguments)
