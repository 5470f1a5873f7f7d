"""The commands for jobs on other machines: `histocae jobs` and `histocae sweep`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from histocae.cli.completion import add_params, complete_with_files

if TYPE_CHECKING:
    from histocae.cli.stages import Commands


def add(commands: "Commands") -> None:
    """Add the commands to the command line."""
    jobs = commands.add_parser(
        "jobs",
        help="list, follow, cancel and fetch the jobs of mlflow run on other machines",
        description="Without an action: list all jobs of the tracking server; a job that died is marked FAILED.",
    )
    jobs.set_defaults(command="jobs", action="list", handler=run)
    actions = jobs.add_subparsers(metavar="action")
    for name, description in (("log", "show a job's log until the job is over"), ("cancel", "end a job")):
        action = actions.add_parser(name, help=description, description=f"{description[0].upper()}{description[1:]}.")
        action.add_argument("run", help="the id of the job's run, or its first characters")
        action.set_defaults(action=name)
    fetch = actions.add_parser(
        "fetch",
        help="write the results of jobs into dvc.lock",
        description="Take over what finished jobs changed in dvc.lock; dvc pull then brings the files.",
    )
    fetch.add_argument(
        "runs", nargs="*", metavar="run", help="default: all jobs sent from the commit that is checked out"
    )
    fetch.set_defaults(action="fetch")
    _add_sweep(commands)


def _add_sweep(commands: "Commands") -> None:
    sweep = commands.add_parser(
        "sweep",
        help="train every model in a job of its own, all at once",
        description="Train every entry of models in a job of its own, all at once.",
    )
    sweep.add_argument("backend", choices=("histocae-ssh", "histocae-slurm"))
    complete_with_files(sweep.add_argument("config", type=Path, help="backend config (JSON)"))
    add_params(sweep)
    sweep.set_defaults(command="sweep", action="sweep", handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `histocae sweep`, or an action of `histocae jobs`; return the exit code."""
    from histocae.tracking.jobs import commands

    match arguments.action:
        case "list":
            commands.list_jobs()
        case "log":
            commands.show_log(arguments.run)
        case "cancel":
            commands.cancel(arguments.run)
        case "fetch":
            commands.fetch(arguments.runs)
        case "sweep":
            commands.sweep(arguments.params, arguments.backend, arguments.config)
    return 0
