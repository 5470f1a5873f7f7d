"""Reasons why a slide can't be scored, in the words of a command that has no params.yaml."""

import re

from histocae.contrast.contract import Contract
from histocae.errors import SlideError

# words of the pipeline's messages, and in their place those of the command and of the function `histocae.score`
WORDS = {
    "give it in the table's column mpp, or set data.mpp": ("give --mpp, or a table with a column mpp", "give mpp"),
    "the {mpp:g} of patches.mpp": ("the {mpp:g} of the model's patches",) * 2,
    "raise patches.bounds.seconds": ("raise --bound seconds", "run histocae score with a larger --bound seconds"),
    "patches.bounds.": ("--bound ", "the bound "),
    "; set patches.max_per_slide to draw a sample": ("", ""),
    "scan it in color, or set patches.tissue_share to 0 to keep all of it": ("scan it in color",) * 2,
    "use tiles in color, or set patches.tissue_share to 0": ("use tiles in color",) * 2,
    "; patches.color rgb or grey keeps this slide": ("; a model with patches.color rgb or grey takes it",) * 2,
    "run dvc repro again": ("score it again",) * 2,
}


def in_words(error: SlideError | str, contract: Contract, python: bool = False) -> str:
    """Give the reason why a slide can't be scored, without the names of params that only a project has.

    Args:
        error: about the slide, or its text.
        contract: of the model.
        python: for callers of `histocae.score`, which has no options.

    Returns:
        The reason.

    """
    smaller = f"smaller than a patch of {contract.patches.pixels} pixels"
    reason = re.sub(r"smaller than a patch; set patches\.pixels to \d+ or less", smaller, str(error))
    mpp = contract.patches.mpp or 0
    for name, words in WORDS.items():
        reason = reason.replace(name.format(mpp=mpp), words[python].format(mpp=mpp))
    return reason
