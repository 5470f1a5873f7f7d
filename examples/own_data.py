"""Write a table for one of three public data sets and set params.yaml to it.

    python examples/own_data.py slides|lung|paad FOLDER

FOLDER holds slides/CMU-1-Small-Region.svs, lc25000_lung_tiles/ (with groups.csv) and
tcga_paad_crops/ (with crops.csv). The tables go to data/own/; for `slides` the demo
cohort is drawn into data/own/slides and the real slide is linked among it.
"""

import os
import sys
from pathlib import Path

import pandas as pd
from apply import PARAMS, commented

from histocae.identifiers import PRIMARY_TUMOR, SOLID_TISSUE_NORMAL
from histocae.sources import demo

OWN = Path("data/own")


def slides(folder: Path, params: dict) -> None:
    """Draw the demo's slides, link the real one among them, and list them all."""
    place = OWN / "slides"
    place.mkdir(parents=True, exist_ok=True)
    spec = demo.DemoSpec(params["seed"], params["data"]["demo"]["cases"], params["data"]["demo"]["side_microns"])
    table = demo.cohort(spec)
    for slide_id in table["slide_id"]:
        demo.write_slide(spec, slide_id, place)
    real = folder / "slides" / "CMU-1-Small-Region.svs"
    (place / real.name).unlink(missing_ok=True)
    (place / real.name).symlink_to(real.resolve())
    # no diagnosis comes with it; it is healthy-looking skin, and only shows that a real file is read
    about = {"slide_id": "CMU-1", "case_id": "CMU-1", "sample_type": SOLID_TISSUE_NORMAL, "file_name": real.name}
    table = pd.concat([table.drop(columns="mpp"), pd.DataFrame([about])])
    table.to_csv(place / "slides.csv", index=False)
    params["data"].update(source="slides", path=place.as_posix(), table="slides.csv")
    params["patches"]["tiles"] = "reduce"


def lung(folder: Path, params: dict) -> None:
    """List the lung tiles; the picture that a tile was made from is its slide and case."""
    tiles = folder / "lc25000_lung_tiles"
    groups = pd.read_csv(tiles / "groups.csv")
    types = {"lung_aca": PRIMARY_TUMOR, "lung_n": SOLID_TISSUE_NORMAL}
    _tiles(
        pd.DataFrame(
            {
                "path": groups["path"],
                "slide_id": groups["source_group"],
                "case_id": groups["source_group"],
                "sample_type": groups["class"].map(types),
            }
        ),
        tiles,
        "lung.csv",
        params,
    )
    params["patches"]["tiles"] = "reduce"


def paad(folder: Path, params: dict) -> None:
    """List the crops, to be cut into patches; they are of tumor only, so models of cohort all are left."""
    crops = folder / "tcga_paad_crops"
    table = pd.read_csv(crops / "crops.csv")
    _tiles(
        pd.DataFrame(
            {"path": table["file"], "slide_id": table["case"], "case_id": table["case"], "sample_type": PRIMARY_TUMOR}
        ),
        crops,
        "paad.csv",
        params,
    )
    params["patches"]["tiles"] = "cut"
    for name in [name for name, model in params["models"].items() if model.get("cohort", "all") != "all"]:
        del params["models"][name]


def _tiles(table: pd.DataFrame, folder: Path, name: str, params: dict) -> None:
    OWN.mkdir(parents=True, exist_ok=True)
    table.to_csv(OWN / name, index=False)
    params["data"].update(source="tiles", path=folder.as_posix(), table=(OWN / name).resolve().as_posix())


def main(kind: str, folder: str) -> None:
    """Write the table and params.yaml, whose comments stay."""
    needed = {"slides": "slides/CMU-1-Small-Region.svs", "lung": "lc25000_lung_tiles/groups.csv"}
    if not (missing := Path(folder) / needed.get(kind, "tcga_paad_crops/crops.csv")).is_file():
        sys.exit(f"{missing}: no such file")
    yaml = commented()
    params = yaml.load(PARAMS)
    {"slides": slides, "lung": lung, "paad": paad}[kind](Path(folder), params)
    aside = PARAMS.with_suffix(".yaml.part")
    yaml.dump(params, aside)
    os.replace(aside, PARAMS)
    print(f"params.yaml now names {params['data']['path']}; dvc repro runs the pipeline on it")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("slides", "lung", "paad"):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
