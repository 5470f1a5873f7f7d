"""The model that a user names: a registered model, the model of a run, or a folder under models/trained."""

import logging
from pathlib import Path

from histocae.errors import DataError
from histocae.scoring.model import CONTRACT, Source, of_folder

DEFAULT = "models:/histocae-pair@champion"
log = logging.getLogger(__name__)


def find(name: str, cache: Path) -> Source:
    """Find a model, and fetch it where it is not here.

    Args:
        name: a folder under models/trained, or a name that `registered.find` takes.
        cache: folder for fetched models; one that was fetched before is taken again.

    Returns:
        The model's source.

    Raises:
        HistocaeError: there is no such model, or it is damaged, or has no contract.

    """
    folder = Path(name)
    if folder.is_dir():
        from histocae.tracking import contracts

        return Source(folder.resolve(), str(folder), contracts.read_trained(folder))
    from histocae.tracking import registered  # MLflow, which a folder does not need

    found = registered.find(name)
    fetched = cache.resolve() / found.model_id
    if (fetched / CONTRACT).is_file():
        try:
            return of_folder(fetched, found.label)
        except DataError as error:
            log.warning("%s: it is downloaded again", error)
    registered.fetch(found, fetched)
    return of_folder(fetched, found.label)
