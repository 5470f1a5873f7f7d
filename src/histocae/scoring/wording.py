"""Reasons why a slide can't be scored, in the words of a command that has no params.yaml."""

import re

from histocae.contrast.contract import Contract
from histocae.errors import SlideError

# words of the pipeline's messages about slides, and words in their place where there is no params.yaml
WORDS = {
    "give it in the table's column mpp, or set data.mpp": "give --mpp, or a table with a column mpp",
    "the {mpp:g} of patches.mpp": "the {mpp:g} of the model's patches",
    "patches.bounds.": "--bound ",
    "; set patches.max_per_slide to draw a sample": "",
    "scan it in color, or set patches.tissue_share to 0 to keep all of it": "scan it in color",
    "use tiles in color, or set patches.tissue_share to 0": "use tiles in color",
    "; patches.color rgb or grey keeps this slide": "; a model with patches.color rgb or grey takes it",
    "run dvc repro again": "score it again",
}


def in_words(error: SlideError | str, contract: Contract) -> str:
    """Give the reason why a slide can't be scored, without the names of params that only a project has.

    Args:
        error: about the slide, or its text.
        contract: of the model.

    Returns:
        The reason.

    """
    smaller = f"smaller than a patch of {contract.patches.pixels} pixels"
    reason = re.sub(r"smaller than a patch; set patches\.pixels to \d+ or less", smaller, str(error))
    for name, word in WORDS.items():
        mpp = contract.patches.mpp or 0
        reason = reason.replace(name.format(mpp=mpp), word.format(mpp=mpp))
    return reason
