"""Score the test slides of the project in the working directory, and count how many get which warning.

They are of the cohort that the model learned from, so a warning "unlike the training slides" is a false alarm.
Run `dvc repro` first; MLFLOW_TRACKING_URI as there.
"""

import sys
import tempfile
from pathlib import Path

import pandas as pd

from histocae import params_file, paths
from histocae.cohort.balance import read_split
from histocae.files import read_table
from histocae.scoring import command
from histocae.scoring.given import Given
from histocae.sources import slide_source

WARNINGS = {"by error": "reconstruct", "by color": "the colors of", "few patches": "few patches"}


def main() -> int:
    """Print the counts."""
    params = params_file.load(Path("params.yaml"))
    source = slide_source.from_params(params.data, params.seed, paths.SLIDE_FILES)
    test = read_split(paths.SPLITS / "test.csv")
    files = read_table(paths.SLIDES, ("slide_id", "file"), needed=("slide_id", "file"))
    types = test.groupby("slide_id")["sample_type"].first()
    given = [
        Given(slide_id=slide_id, folder=source.folder, files=tuple(rows["file"]), tiles=source.tiles)
        for slide_id, rows in files[files["slide_id"].isin(types.index)].groupby("slide_id")
    ]
    with tempfile.TemporaryDirectory() as out:
        command.inputs.find = lambda *_: given
        found = pd.DataFrame(command.run(command.Request(given=[], out=Path(out)))["slides"]).set_index("slide_id")
    texts = found["warnings"].map("; ".join)
    print(f"{len(found)} test slides, {(found['class'] == types[found.index]).mean():.0%} of them called as labeled")
    print(f"unlike the training slides: {texts.str.contains('unlike').sum()}")
    for name, words in WARNINGS.items():
        print(f"{name}: {texts.str.contains(words).sum()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
