"""The command `histocae score`."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from histocae.cli.completion import complete_with_files
from histocae.exports.forms import ALL, FORMS
from histocae.scoring import default

if TYPE_CHECKING:
    from histocae.cli.stages import Commands
    from histocae.params import Bounds, Executor, Section

    AnySection = TypeVar("AnySection", bound=Section)

HELP = "score new slides with a registered or trained model: tables, heatmaps, GeoJSON and a page"


def add(commands: "Commands") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser("score", help=HELP, description=f"{HELP[0].upper()}{HELP[1:]}.")
    parser.set_defaults(command="score", handler=run)
    slides = parser.add_argument(
        "slides",
        nargs="+",
        type=Path,
        metavar="SLIDE",
        help="a slide, a tile, a folder of slides or tiles, or a table (.csv, .tsv, .txt)",
    )
    complete_with_files(slides)
    parser.add_argument(
        "--model",
        default=default.MODEL,
        help="models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID, or a folder under models/trained; default: "
        "%(default)s on the server that MLFLOW_TRACKING_URI names",
    )
    complete_with_files(
        parser.add_argument("--out", type=Path, default=Path("scores"), help="folder of the results; default: scores")
    )
    parser.add_argument("--mpp", type=float, help="microns per pixel, at full resolution, of slides that state none")
    parser.add_argument("--latents", action="store_true", help="add the latents of the patches to patches.parquet")
    parser.add_argument(
        "--export",
        action="append",
        choices=(*FORMS, ALL),
        default=[],
        help="write the latents of all slides as AnnData, Parquet, .h5 for CLAM and TRIDENT, or .h5 for STAMP; may "
        "be given several times",
    )
    parser.add_argument("--json", action="store_true", help="also print the results as JSON")
    parser.add_argument(
        "--bound",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="limit on each slide: seconds, gigabytes, patches or expansion, as patches.bounds of params.yaml; may "
        "be given several times",
    )
    parser.add_argument(
        "--executor",
        choices=("processes", "dask"),
        default="processes",
        help="what slides are spread over; default: processes",
    )
    parser.add_argument("--workers", type=int, help="number of processes, of workers of Dask, or of jobs of Slurm")
    parser.add_argument("--scheduler", help="for dask: address of a running cluster, such as tcp://10.0.0.1:8786")
    parser.add_argument("--slurm", help="for dask: settings of Slurm jobs as JSON, as executor.slurm of params.yaml")


def run(arguments: argparse.Namespace) -> int:
    """Score the slides; return the exit code."""
    bounds, executor, mpp = _bounds(arguments.bound), _executor(arguments), _mpp(arguments.mpp)
    from histocae.cli import streams
    from histocae.scoring import command

    request = command.Request(
        given=arguments.slides,
        model=arguments.model,
        out=arguments.out,
        mpp=mpp,
        latents=arguments.latents,
        forms=arguments.export,
        bounds=bounds,
        executor=executor,
    )
    result = command.run(request)
    if arguments.json:
        streams.write(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return 0


def _bounds(words: list[str]) -> "Bounds":
    """Read the values of --bound."""
    from histocae.errors import ParamsError
    from histocae.params import Bounds
    from histocae.scoring.scored import BOUNDS

    values = BOUNDS.model_dump()
    for word in words:
        name, _, number = word.partition("=")
        if name not in values:
            raise ParamsError(f"--bound {word}: expected NAME=NUMBER with a name of {', '.join(values)}")
        kind = type(values[name])
        try:
            values[name] = kind(number)
        except ValueError:
            expected = "a whole number, such as 100000" if kind is int else "a number, such as 7200"
            raise ParamsError(f"--bound {word}: expected {expected}") from None
    return _checked(Bounds, values, "--bound ")


def _mpp(value: float | None) -> float | None:
    from histocae.errors import ParamsError
    from histocae.scanners import MPP_EXPECTED
    from histocae.scanners import MPP_RANGE as RANGE

    if value is not None and not RANGE[0] <= value <= RANGE[1]:
        raise ParamsError(f"--mpp {value:g}: not {MPP_EXPECTED}")
    return value


def _executor(arguments: argparse.Namespace) -> "Executor":
    """Read the options of the executor."""
    from histocae.errors import ParamsError
    from histocae.params import Executor

    slurm = None
    if arguments.slurm is not None:
        try:
            slurm = json.loads(arguments.slurm)
        except json.JSONDecodeError as error:
            raise ParamsError(f"--slurm: is no JSON: {error}; expected for example '{{\"cores\": 4}}'") from None
    if arguments.executor == "processes" and (arguments.scheduler or slurm):
        raise ParamsError("--scheduler and --slurm need --executor dask")
    if arguments.scheduler and slurm:
        raise ParamsError("--scheduler names a running cluster, --slurm starts one; give one of them")
    values = {
        "kind": arguments.executor,
        "workers": arguments.workers,
        "devices": 1,
        "scheduler": arguments.scheduler,
        "slurm": slurm,
    }
    return _checked(Executor, values, "--")


def _checked(kind: "type[AnySection]", values: dict[str, Any], prefix: str) -> "AnySection":
    """Check the values of options, which are those of a section of params.yaml."""
    from pydantic import ValidationError

    from histocae import params_file
    from histocae.errors import ParamsError

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ParamsError(f"{prefix}{params_file.explain_all(error, kind)}") from None
