"""The command `histocae plan`."""

import argparse
from typing import TYPE_CHECKING

from histocae.cli.completion import add_params
from histocae.cli.stages import load_params
from histocae.planning import options

if TYPE_CHECKING:
    from histocae.cli.stages import Commands

HELP = "estimate the disk space, hours and money that a run will take; changes nothing"


def add(commands: "Commands") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser("plan", help=HELP, description=f"{HELP[0].upper()}{HELP[1:]}.")
    parser.set_defaults(command="plan", package="histocae", handler=run)
    add_params(parser)
    options.add(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; return the exit code. No lock is held and no time is logged: nothing is written."""
    params = load_params(arguments)
    from histocae.planning import command

    command.run(params, arguments)
    return 0
