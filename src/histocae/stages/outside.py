"""Outside features in stages: the folder that params.yaml names, as the inventory lists it."""

from pathlib import Path

from histocae import paths
from histocae.params import Params
from histocae.patches import outside
from histocae.patches.store import PatchStore
from histocae.sources.hashes import Hashes


def open_features(params: Params, store: PatchStore) -> outside.Folder | None:
    """Find the user's files of features.

    Args:
        params: of the pipeline.
        store: the patches.

    Returns:
        The files; None where no folder is named.

    Raises:
        DataError: a file is missing, changed since the inventory, or is of the same slide as another.

    """
    if params.baselines.features is None:
        return None
    return outside.open_folder(
        Path(params.baselines.features),
        paths.FEATURES,
        Hashes(paths.HASHES),
        paths.PATCHING_REPORT / "counts.csv",
        store.pixels,
    )
