"""The lists of the user's own files, which the stage inventory writes. Nothing heavy is imported here."""

from pathlib import Path

from histocae import paths
from histocae.params import Params


def lists(params: Params) -> dict[Path, bool]:
    """Name the lists: of slides or tiles, of regions, and of features by another program.

    Args:
        params: of the pipeline.

    Returns:
        By the path of each list, whether it has files of the user; the others can be written on any machine.

    """
    data = params.data
    return {
        paths.INVENTORY: data.source in ("slides", "tiles"),
        paths.ANNOTATIONS: data.annotations is not None and data.source != "demo",  # which writes its own
        paths.FEATURES: params.baselines.features is not None,
    }
