"""The tables of a patch store without images, for cases that a test chooses."""

import pandas as pd

from histocae.files import write_table
from histocae.params import Tissue
from histocae.patches import store
from histocae.sources import given_split
from histocae.sources.tables import SEED_COLUMNS
from support.make_data import NORMAL, TUMOR
from support.workspace import Workspace


def rows_of(sample_types: list[tuple[str, ...]], slides: int = 1, patches: int | list[int] = 1) -> pd.DataFrame:
    """Make index rows with a case per entry.

    `slides` is the number of slides per sample type of a case, `patches` that of each slide: of all, or case by case.
    """
    of_case = [patches] * len(sample_types) if isinstance(patches, int) else patches
    return pd.DataFrame(
        {
            "case_id": f"{case:03d}",
            "sample_type": sample_type,
            "patch_label": sample_type,
            "slide_id": f"{case:03d}-{sample_type[0]}-{slide}",
            "position": patch,
        }
        for case, types in enumerate(sample_types)
        for sample_type in types
        for slide in range(slides)
        for patch in range(of_case[case])
    )


def at_sites(rows: pd.DataFrame, sites: list[str]) -> pd.DataFrame:
    """Rename the cases of `rows_of` to barcodes; case i is from site i."""
    return rows.assign(case_id=[f"TCGA-{sites[int(case)]}-{int(case):04d}" for case in rows["case_id"]])


def write_index(
    project: Workspace,
    sample_types: list[tuple[str, ...]],
    slides: int = 2,
    patches: int | list[int] = 5,
    sites: list[str] | None = None,
    given: list[str] | None = None,
) -> None:
    """Write the index of a patch store and its metadata into a project, without images.

    `sites` and `given` have an entry per case: its site, and its part of a split that the user gives.
    """
    rows = rows_of(sample_types, slides, patches)
    if sites is not None:
        rows = at_sites(rows, sites)
    cases = dict(zip(rows["slide_id"], rows["case_id"], strict=True))
    part_of = {} if given is None else {slide_id: given[int(case[-3:])] for slide_id, case in cases.items()}
    rows = rows.assign(
        shard=rows["slide_id"],
        file=rows["slide_id"] + ".tif",
        row=rows["position"],
        column=0,
        x=0,
        y=rows["position"] * 8,
        mpp=0.5,
        tissue_share=1.0,
        label_share=None,
    )
    store.write_index(project.folder / "data/patches", rows, 8, 0.5)
    metadata = rows.drop_duplicates("slide_id").assign(disease_type="Ductal|x", percent_tumor_cells=50.0)
    metadata = metadata.reindex(columns=[*SEED_COLUMNS, "file_name", "mpp"])
    write_table(metadata, project.folder / "data/slides_metadata.csv")
    given_split.write(part_of, metadata["slide_id"], project.folder / "data/given_split.csv")


MIXED = [(TUMOR,)] * 9 + [(NORMAL,)] * 6 + [(TUMOR, NORMAL)] * 5


def tissue_settings(**changes: object) -> Tissue:
    """Make the section `tissue` of params, with few draws and the log ratio as the score."""
    small = {"score": "log_ratio", "baseline_pair": None, "latents": None, "confidence": 0.95}
    names = {"tumor": "tumor", "normal": "normal", "bootstrap": 200, "permutations": 200}
    return Tissue(**{**small, **names, **changes})
