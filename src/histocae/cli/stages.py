"""The commands that run stages: those of dvc.yaml and those of examples/mnist/dvc.yaml."""

import argparse
import atexit
import gc
import importlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from histocae.cli.completion import add_params

if TYPE_CHECKING:  # argparse has no public name for it
    from argparse import _SubParsersAction

    Commands = _SubParsersAction[argparse.ArgumentParser]

log = logging.getLogger(__name__)


class Command(NamedTuple):
    """A stage as the command line describes it.

    Attributes:
        help: what it does.
        by_model: whether it works on one model, which the command line names.

    """

    help: str
    by_model: bool


COMMANDS = {
    "inventory": Command("list what DVC cannot see, with hashes: the user's own files and each stage's code", False),
    "metadata": Command("read and check the table of slides", False),
    "slides": Command("make or find the slides and check that they open", False),
    "patches": Command("extract patches from the slides' tissue", False),
    "split": Command("assign the cases to train, validation and test", False),
    "train": Command("train one model", True),
    "evaluate": Command("measure one model's reconstructions of train, validation and test patches", True),
    "latent": Command("analyze the latents of one model", True),
    "tissue": Command("test whether the tumor and the normal model reconstruct tissue differently", False),
    "crossvalidate": Command("cross-validate the tumor and the normal model over folds of cases", False),
    "codecs": Command("compare models with image codecs at equal bytes per patch", False),
    "compare": Command("write the table and the page that compare all models", False),
    "register": Command("register the best model of each cohort in MLflow's registry", False),
    "publish": Command("deliver runs of trained models that the tracking server lacks", False),
    "verify": Command("read all outputs and name those that are not as they were written", False),
}

# of the pipeline of examples/mnist
MNIST = {
    "data": Command("read, check and split MNIST", False),
    "train": Command("train one model on all classes", True),
    "evaluate": Command("measure one model's reconstructions, and classify by its latents", True),
    "latent": Command("map and cluster one model's latents", True),
    "pixels": Command("classify by pixels alone, as a baseline", False),
    "classes": Command("train one model per class, and classify by the smallest reconstruction error", False),
    "compare": Command("write the table, the figures and the page", False),
    "publish": Command("deliver all runs to the tracking server", False),
}


def add(commands: "Commands") -> None:
    """Add the stages of dvc.yaml to the command line."""
    for name, command in COMMANDS.items():
        stage = _add_stage(commands, name, command)
        handler = run_inventory if name == "inventory" else run_stage
        stage.set_defaults(command=name, package="histocae", handler=handler)


def add_mnist(commands: "Commands") -> None:
    """Add the stages of examples/mnist/dvc.yaml to the command line, as `histocae mnist STAGE`."""
    mnist = commands.add_parser(
        "mnist", help="a stage of examples/mnist/dvc.yaml", description="The stages of examples/mnist/dvc.yaml."
    )
    stages = mnist.add_subparsers(required=True, metavar="stage")
    for name, command in MNIST.items():
        stage = _add_stage(stages, name, command)
        stage.set_defaults(command=f"mnist {name}", package="histocae.mnist", handler=run_stage)


def _add_stage(commands: "Commands", name: str, command: Command) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=command.help, description=f"{command.help[0].upper()}{command.help[1:]}.")
    parser.set_defaults(stage=name, model=None)
    if command.by_model:
        parser.add_argument("model", help="an entry of `models` in params.yaml")
    add_params(parser)
    return parser


def run_inventory(arguments: argparse.Namespace) -> int:
    """Run the stage inventory, unless nothing has changed since it last ran; return the exit code."""
    from histocae.pipeline.watch import Watch

    watch = Watch(arguments.params)
    if watch.unchanged():
        log.info("nothing changed since the last inventory")
        return 0
    params, stage = load_params(arguments), _module(arguments)
    with _locked(arguments.command):
        if (files := stage.run(params)) is not None:
            watch.remember(*files)
    return 0


def run_stage(arguments: argparse.Namespace) -> int:
    """Run any other stage; return the exit code."""
    params = load_params(arguments)
    if arguments.package == "histocae" and "DVC_STAGE" in os.environ:
        from histocae import paths
        from histocae.pipeline import lineage

        if arguments.stage in lineage.STAGES:
            lineage.check_code(arguments.stage, paths.CODE)
        if arguments.stage in ("train", "crossvalidate"):
            for name in (params.pair or ()) if arguments.model is None else (arguments.model,):
                lineage.check_networks(params, name, paths.LINEAGE)
    stage = _module(arguments)
    if arguments.model is None:
        with _locked(arguments.command):
            stage.run(params)
        return 0
    params.model(arguments.model)
    with _locked(f"{arguments.command}@{arguments.model}") as since:
        if hasattr(stage, "is_done") and stage.is_done(params, arguments.model, since):
            log.info("done already, by another process or before dvc was killed; that result is used")
        else:
            stage.run(params, arguments.model)
    return 0


def load_params(arguments: argparse.Namespace) -> Any:
    """Read params.yaml of the pipeline that a command belongs to: an instance of its package's `Params`."""
    # the interpreter's end would otherwise search all loaded objects for garbage, for up to a second
    atexit.register(gc.freeze)
    from histocae import params_file

    kind = importlib.import_module(f"{arguments.package}.params").Params
    return params_file.load_as(arguments.params, kind)


def _module(arguments: argparse.Namespace) -> Any:
    return importlib.import_module(f"{arguments.package}.stages.{arguments.stage}")


@contextmanager
def _locked(name: str) -> Iterator[float | None]:
    """Hold the lock of a stage, and log how long the stage took if it went well.

    Yields:
        Since when this process waited for another one to end the same stage; None where it did not wait.

    """
    from histocae.pipeline.locks import stage_lock

    start = time.perf_counter()
    with stage_lock(name) as since:
        yield since
    log.info("done in %.1f s", time.perf_counter() - start)
