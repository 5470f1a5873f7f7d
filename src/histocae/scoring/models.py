"""The model that a user names: a registered model, the model of a run, or a folder under models/trained."""

import logging
from pathlib import Path

from histocae.contrast.contract import CONTRACT
from histocae.errors import DataError
from histocae.networks import saved
from histocae.scoring import default, outputs
from histocae.scoring.model import Source, of_folder

DEFAULT = default.MODEL
log = logging.getLogger(__name__)


def find(name: str, cache: Path) -> Source:
    """Find a model, and download it from the server unless it was downloaded before.

    Args:
        name: a folder under models/trained, or a name that `registered.find` takes. A folder without a trained model
            is meant only if a path leads to it: results may be in a folder that is named as a registered model.
        cache: folder for downloaded models.

    Returns:
        The model's source.

    Raises:
        HistocaeError: there is no such model, or the model is damaged or has no contract.

    """
    folder = Path(name)
    if name and folder.is_dir() and (name != folder.name or (folder / saved.RECORD_FILE).is_file()):
        return _of_trained(folder)
    from histocae.tracking import registered  # MLflow, which a folder does not need

    found = registered.find(name)
    fetched = cache.resolve() / found.model_id
    with outputs.alone(cache.resolve().parent):
        if (fetched / CONTRACT).is_file():
            try:
                return of_folder(fetched, found.label, "the model is downloaded again")
            except DataError as error:
                log.warning("%s", error)
        registered.fetch(found, fetched)
        return of_folder(fetched, found.label, "the model is damaged on the server; restore it or register it again")


def _of_trained(folder: Path) -> Source:
    from histocae.tracking import contracts

    trained = folder.resolve()
    if not (trained / saved.RECORD_FILE).is_file():
        raise DataError(
            f"{folder}: no trained model (it has no {saved.RECORD_FILE}); name a folder under models/trained"
        )
    return Source(trained, str(folder), contracts.read_trained(trained))
