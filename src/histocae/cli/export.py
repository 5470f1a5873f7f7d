"""The command `histocae export`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from histocae.cli.completion import add_params, complete_with_files
from histocae.cli.stages import load_params
from histocae.exports.forms import ALL, FORMS

if TYPE_CHECKING:
    from histocae.cli.stages import Commands

HELP = "write a model's latents with positions and scores, for scanpy, DuckDB, CLAM, TRIDENT and STAMP"


def add(commands: "Commands") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser("export", help=HELP, description=f"{HELP[0].upper()}{HELP[1:]}.")
    parser.set_defaults(command="export", package="histocae", handler=run)
    parser.add_argument(
        "model",
        nargs="?",
        help="an evaluated entry of `models` in params.yaml; default: tissue.latents, or the first with latents",
    )
    parser.add_argument(
        "--form",
        action="append",
        choices=(*FORMS, ALL),
        help="AnnData, Parquet, .h5 for CLAM and TRIDENT, or .h5 for STAMP; may be given several times; default: all",
    )
    out = parser.add_argument(
        "--out", type=Path, default=Path("exports"), help="folder; a folder of the model is made in it"
    )
    complete_with_files(out)
    add_params(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the exports; return the exit code."""
    params = load_params(arguments)
    from histocae.pipeline.locks import stage_lock
    from histocae.stages import export

    with stage_lock(arguments.command):
        export.run(params, arguments.model, arguments.form or [ALL], arguments.out)
    return 0
