"""The command `histocae export`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from histocae.cli.completion import add_params, complete_with_files
from histocae.cli.stages import load_params

if TYPE_CHECKING:
    from histocae.cli.stages import Commands

HELP = "write a model's latents with positions and scores, for scanpy, DuckDB, CLAM, TRIDENT and STAMP"
FORMS = ("h5ad", "parquet", "h5", "stamp")  # those of stages.export, which takes a second to import


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
        choices=(*FORMS, "all"),
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

    forms = arguments.form or ()
    with stage_lock(arguments.command):
        export.run(params, arguments.model, () if "all" in forms else forms, arguments.out)
    return 0
