"""Write a table of slides or tiles for one of five public data sets, and set params.yaml to it.

    python examples/own_data.py slides|lung|biopsies|paad|bmad FOLDER

FOLDER contains slides/CMU-1-Small-Region.svs, lc25000_lung_tiles/ (with groups.csv), ebhi_colorectal/ (with
table.csv) and tcga_paad_crops/ (with crops.csv). For `bmad`, it contains BMAD's camelyon16/ (or is that folder), with
train/good/, valid/good/, valid/Ungood/, test/good/ and test/Ungood/. The tables are written to data/own/. For
`slides`, the demo cohort is drawn into data/own/slides, with a link to the real slide beside it.
"""

import os
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from apply import PARAMS, commented

from histocae.identifiers import PRIMARY_TUMOR, SOLID_TISSUE_NORMAL
from histocae.sources import demo

OWN = Path("data/own")


def slides(folder: Path, params: dict[str, Any]) -> None:
    """Draw the demo's slides, add a link to the real one, and write a table of all."""
    target = OWN / "slides"
    target.mkdir(parents=True, exist_ok=True)
    spec = demo.DemoSpec(params["seed"], **params["data"]["demo"])
    table = demo.cohort(spec)
    for slide_id in table["slide_id"]:
        demo.write_slide(spec, slide_id, target)
    real = folder / "slides" / "CMU-1-Small-Region.svs"
    (target / real.name).unlink(missing_ok=True)
    (target / real.name).symlink_to(real.resolve())
    # the slide comes without a diagnosis; it looks like healthy skin, and only shows that a real file is read
    row = {"slide_id": "CMU-1", "case_id": "CMU-1", "sample_type": SOLID_TISSUE_NORMAL, "file_name": real.name}
    table = pd.concat([table.drop(columns="mpp"), pd.DataFrame([row])])
    table.to_csv(target / "slides.csv", index=False)
    params["data"].update(source="slides", path=target.as_posix(), table="slides.csv")
    params["patches"]["tiles"] = "reduce"


def lung(folder: Path, params: dict[str, Any]) -> None:
    """Write a table of the lung tiles; the image from which a tile was made counts as its slide and case."""
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


def biopsies(folder: Path, params: dict[str, Any]) -> None:
    """Write a table of the colorectal biopsies, without the slides that have pictures of both tissues."""
    pictures = folder / "ebhi_colorectal"
    table = pd.read_csv(pictures / "table.csv")[["path", "slide_id", "case_id", "sample_type"]]
    mixed = table.groupby("slide_id")["sample_type"].transform("nunique") > 1  # a slide has one sample type
    _tiles(table[~mixed], pictures, "biopsies.csv", params)
    params["patches"]["tiles"] = "reduce"


def paad(folder: Path, params: dict[str, Any]) -> None:
    """Write a table of the crops, from which patches are extracted.

    They show tumor only, so that all models but those of cohort all are removed from params.yaml.
    """
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


def bmad(folder: Path, params: dict[str, Any]) -> None:
    """Write a table of BMAD's patches of Camelyon16 with BMAD's split, and keep models of normal tissue only.

    Names of patches do not tell their slides: each patch counts as its own slide and case.
    """
    patches = _camelyon(folder)
    parts = {"train": "train", "valid": "validation", "test": "test"}
    types = {"good": SOLID_TISSUE_NORMAL, "ungood": PRIMARY_TUMOR}
    rows = []
    for path in sorted(patches.rglob("*.png")):
        part, kind, *below = path.relative_to(patches).with_suffix("").parts
        if part in parts and kind.lower() in types and below and "label" not in below:  # label: masks, not patches
            name = "-".join((part, kind, *below))
            rows.append((path.relative_to(patches).as_posix(), name, name, types[kind.lower()], parts[part]))
    table = pd.DataFrame(rows, columns=["path", "slide_id", "case_id", "sample_type", "split"])
    _tiles(table, patches, "bmad.csv", params)
    params["patches"]["tiles"] = "reduce"
    params["training"]["balance"] = "none"  # there is no tumor to train on, with which to balance normal tissue
    models = params["models"]
    for name in [name for name, model in models.items() if name != "normal"]:
        del models[name]
    models["pca-normal"] = {"cohort": "normal", "architecture": "pca", "latent_features": 16}
    params["tissue"].update(normal="normal", baseline_pair=None, latents=None)


def _camelyon(folder: Path) -> Path:
    """Find BMAD's folder of Camelyon16: `folder` itself, or one in it."""
    name = "[Cc]amelyon16*"  # camelyon16_256 in some copies
    for found in (folder, *sorted(folder.glob(name)), *sorted(folder.glob(f"{name}/{name}"))):
        if (found / "train" / "good").is_dir():
            return found
    sys.exit(f"{folder}: no train/good in it, nor in a folder camelyon16 in it")


def _tiles(table: pd.DataFrame, folder: Path, name: str, params: dict[str, Any]) -> None:
    OWN.mkdir(parents=True, exist_ok=True)
    table.to_csv(OWN / name, index=False)
    params["data"].update(source="tiles", path=folder.as_posix(), table=(OWN / name).resolve().as_posix())
    params["quality"]["pen"] = None  # the authors of these sets chose tiles of tissue; on none of them is ink


WRITE = {"slides": slides, "lung": lung, "biopsies": biopsies, "paad": paad, "bmad": bmad}
NEEDED = {
    "slides": "slides/CMU-1-Small-Region.svs",
    "lung": "lc25000_lung_tiles/groups.csv",
    "biopsies": "ebhi_colorectal/table.csv",
    "paad": "tcga_paad_crops/crops.csv",
}


def main(kind: str, folder: str) -> None:
    """Write the table, and set params.yaml to it; its comments stay."""
    if kind in NEEDED and not (missing := Path(folder) / NEEDED[kind]).is_file():
        sys.exit(f"{missing}: no such file")
    yaml = commented()
    params = yaml.load(PARAMS)
    WRITE[kind](Path(folder), params)
    aside = PARAMS.with_suffix(".yaml.part")
    yaml.dump(params, aside)
    os.replace(aside, PARAMS)
    print(f"params.yaml now names {params['data']['path']}; dvc repro runs the pipeline on it")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in WRITE:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
