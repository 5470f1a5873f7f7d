"""The command `histocae`: one subcommand per stage of dvc.yaml, and a few for people.

Nothing heavy is imported before a command is known: `--help` answers at once.
"""

import argparse
import atexit
import gc
import importlib
import logging
import os
import sys
import time
from pathlib import Path

from histocae import __version__
from histocae.errors import HistocaeError
from histocae.planning import options

# command -> (what it does, whether it works on one model)
COMMANDS = {
    "inventory": ("list the user's own files and each stage's code with their hashes: what DVC can't see", False),
    "metadata": ("read and check the table of slides", False),
    "slides": ("make or find the slides and check that they open", False),
    "patches": ("cut the slides' tissue into patches", False),
    "split": ("divide the cases into train, validation and test", False),
    "train": ("train one model", True),
    "evaluate": ("measure one model's reconstructions on train, validation and test patches", True),
    "latent": ("study the latents of one model", True),
    "tissue": ("ask whether the tumor and the normal model reconstruct differently", False),
    "crossvalidate": ("train and test that pair on folds of cases", False),
    "compare": ("write the table and the page that compare all models", False),
    "register": ("put the best model of each cohort into the MLflow registry", False),
    "publish": ("deliver the runs of trained models to the tracking server, where it lacks them", False),
    "plan": ("tell what disk, hours and money a run will take, from what is known so far; changes nothing", False),
}


# of the pipeline of examples/mnist
MNIST = {
    "data": ("read, check and split MNIST", False),
    "train": ("train one model of all digits", True),
    "evaluate": ("measure one model's reconstructions, and tell the digits by its latents", True),
    "latent": ("map and cluster one model's latents", True),
    "pixels": ("tell the digits by their pixels alone, as a baseline", False),
    "classes": ("train one model per digit, and tell the digits by which errs least", False),
    "compare": ("write the table, the figures and the page", False),
    "publish": ("deliver all runs to the tracking server", False),
}


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="histocae",
        description="Experiment-tracked convolutional autoencoders on histology slides. "
        "The commands are the stages of dvc.yaml: `dvc repro` runs them in order.",
    )
    top.add_argument("--version", action="version", version=f"histocae {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    _add(commands, COMMANDS, "", "histocae")
    digits = commands.add_parser(
        "mnist", help="a stage of examples/mnist/dvc.yaml", description="The stages of examples/mnist/dvc.yaml."
    )
    _add(digits.add_subparsers(required=True, metavar="stage"), MNIST, "mnist ", "histocae.mnist")
    _add_jobs(commands)
    return top


def _add_jobs(commands: argparse._SubParsersAction) -> None:
    """Add what is asked of jobs on other machines."""
    jobs = commands.add_parser(
        "jobs",
        help="list, follow, cancel and fetch the jobs of mlflow run on other machines",
        description="Without an action: list all jobs of the tracking server; one that died is marked FAILED.",
    )
    jobs.set_defaults(command="jobs", call="list")
    actions = jobs.add_subparsers(metavar="action")
    for name, about in (("log", "show a job's log until it is over"), ("cancel", "end a job")):
        one = actions.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
        one.add_argument("run", help="the run's id, or its first characters")
        one.set_defaults(call=name)
    fetch = actions.add_parser(
        "fetch",
        help="take over what jobs changed in dvc.lock",
        description="Take over what jobs that are over changed in dvc.lock; dvc pull then brings the files.",
    )
    fetch.add_argument("runs", nargs="*", metavar="run", help="default: all jobs sent from the commit that is here")
    fetch.set_defaults(call="fetch")
    sweep = commands.add_parser(
        "sweep",
        help="train every model by a job of its own, all at once",
        description="Train every entry of models by a job of its own, all at once.",
    )
    sweep.add_argument("backend", choices=("histocae-ssh", "histocae-slurm"))
    sweep.add_argument("config", type=Path, help="backend config (JSON)")
    sweep.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: params.yaml here")
    sweep.set_defaults(command="sweep", call="sweep")


def _add(commands: argparse._SubParsersAction, known: dict[str, tuple[str, bool]], prefix: str, package: str) -> None:
    """Add the stages of a pipeline, whose params and stages lie in a package."""
    for name, (about, by_model) in known.items():
        one = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
        one.set_defaults(command=prefix + name, package=package, stage=name)
        if by_model:
            one.add_argument("model", help="an entry of `models` in params.yaml")
        one.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: params.yaml here")
        if prefix + name == "plan":
            options.add(one)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; exit with 1 and one line for what a user can mend."""
    given = parser().parse_args(arguments)
    # INFO for what is ours, warnings for the rest
    logging.basicConfig(format=f"%(asctime)s {given.command}: %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("histocae").setLevel(logging.INFO)
    model = getattr(given, "model", None)
    try:
        return _run(given, model)
    except HistocaeError as error:
        # one line, whatever a library's message inside it looks like
        print(f"histocae {given.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"histocae {given.command}: interrupted", file=sys.stderr)
        return 130


def _run(given: argparse.Namespace, model: str | None) -> int:
    if hasattr(given, "call"):
        from histocae.tracking.jobs import commands

        commands.call(given)
        return 0
    watch = None
    if given.command == "inventory":
        from histocae.pipeline.watch import Watch

        watch = Watch(given.params)
        if watch.unchanged():
            logging.getLogger(__name__).info("nothing changed since the last one")
            return 0
    # the interpreter's end would look through all that was loaded, for up to a second
    atexit.register(gc.freeze)
    from histocae import params_file
    from histocae.pipeline.locks import stage_lock

    kind = importlib.import_module(f"{given.package}.params").Params
    params = params_file.load_as(given.params, kind)
    if given.command == "plan":  # no lock and no log of its time: it reads, and its output may be JSON
        from histocae.planning import command

        command.run(params, given)
        return 0
    if given.package == "histocae" and "DVC_STAGE" in os.environ:
        from histocae import paths
        from histocae.pipeline import lineage

        if given.stage in lineage.STAGES:
            lineage.check_code(given.stage, paths.CODE)
    stage = importlib.import_module(f"{given.package}.stages.{given.stage}")
    if model is not None:
        params.model(model)
    start = time.perf_counter()
    with stage_lock(given.command if model is None else f"{given.command}@{model}"):
        if watch is not None:
            if (seen := stage.run(params)) is not None:
                watch.remember(*seen)
        elif model is None:
            stage.run(params)
        else:
            stage.run(params, model)
    logging.getLogger(__name__).info("done in %.1f s", time.perf_counter() - start)
    return 0
