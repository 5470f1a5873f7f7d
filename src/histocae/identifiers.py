"""TCGA barcodes and the GDC's sample types.

Barcode: TCGA-<site>-<participant>-<sample type><vial>-<portion>[-<slide>]
(GDC Encyclopedia, "TCGA Barcode"). The first three fields name the case, the first four
the sample. The demo cohort uses the same form under the project DEMO.
"""

import re

PRIMARY_TUMOR = "Primary Tumor"
SOLID_TISSUE_NORMAL = "Solid Tissue Normal"
# the two types that are compared; slides of the others are set aside
COMPARED = (PRIMARY_TUMOR, SOLID_TISSUE_NORMAL)
TISSUE_COLORS = {PRIMARY_TUMOR: "#b2364a", SOLID_TISSUE_NORMAL: "#2c6fa6"}  # in figures and annotations
COHORTS = {"all": COMPARED, "tumor": (PRIMARY_TUMOR,), "normal": (SOLID_TISSUE_NORMAL,)}

# GDC data dictionary, node `sample`, property `sample_type` (permissible values)
SAMPLE_TYPES = (
    PRIMARY_TUMOR,
    SOLID_TISSUE_NORMAL,
    "2D Classical Conditionally Reprogrammed Cells",
    "2D Modified Conditionally Reprogrammed Cells",
    "3D Air-Liquid Interface Organoid",
    "3D Neurosphere",
    "3D Organoid",
    "Adherent Cell Line",
    "Liquid Suspension Cell Line",
    "Additional - New Primary",
    "Additional Metastatic",
    "Benign Neoplasms",
    "Blood Derived Cancer - Bone Marrow",
    "Blood Derived Cancer - Bone Marrow, Post-treatment",
    "Blood Derived Cancer - Peripheral Blood",
    "Blood Derived Cancer - Peripheral Blood, Post-treatment",
    "Blood Derived Liquid Biopsy",
    "Blood Derived Normal",
    "Bone Marrow Normal",
    "Buccal Cell Normal",
    "Cell Lines",
    "Cell Line Derived Xenograft Tissue",
    "Control Analyte",
    "DNA",
    "EBV Immortalized Normal",
    "Expanded Next Generation Cancer Model",
    "FFPE Recurrent",
    "FFPE Scrolls",
    "Fibroblasts from Bone Marrow Normal",
    "GenomePlex (Rubicon) Amplified DNA",
    "Granulocytes",
    "Human Tumor Original Cells",
    "In Situ Neoplasms",
    "Lymphoid Normal",
    "Metastatic",
    "Mixed Adherent Suspension",
    "Mononuclear Cells from Bone Marrow Normal",
    "Neoplasms of Uncertain and Unknown Behavior",
    "Next Generation Cancer Model",
    "Next Generation Cancer Model Expanded Under Non-conforming Conditions",
    "Normal Adjacent Tissue",
    "Not Allowed To Collect",
    "Pleural Effusion",
    "Post neo-adjuvant therapy",
    "Primary Blood Derived Cancer - Bone Marrow",
    "Primary Blood Derived Cancer - Peripheral Blood",
    "Primary Xenograft Tissue",
    "Recurrent Blood Derived Cancer - Bone Marrow",
    "Recurrent Blood Derived Cancer - Peripheral Blood",
    "Recurrent Tumor",
    "Repli-G (Qiagen) DNA",
    "Repli-G X (Qiagen) DNA",
    "RNA",
    "Saliva",
    "Slides",
    "Solid Tissue",
    "Tumor",
    "Tumor Adjacent Normal - Post Neo-adjuvant Therapy",
    "Total RNA",
    "Unknown",
    "Not Reported",
    "Xenograft Tissue",
)
# GDC, "Sample Type Codes": the two digits of a TCGA barcode's fourth field
SAMPLE_CODES = {
    "01": PRIMARY_TUMOR,
    "02": "Recurrent Tumor",
    "03": "Primary Blood Derived Cancer - Peripheral Blood",
    "04": "Recurrent Blood Derived Cancer - Bone Marrow",
    "05": "Additional - New Primary",
    "06": "Metastatic",
    "07": "Additional Metastatic",
    "08": "Human Tumor Original Cells",
    "09": "Primary Blood Derived Cancer - Bone Marrow",
    "10": "Blood Derived Normal",
    "11": SOLID_TISSUE_NORMAL,
    "12": "Buccal Cell Normal",
    "13": "EBV Immortalized Normal",
    "14": "Bone Marrow Normal",
    "20": "Control Analyte",
    "40": "Recurrent Blood Derived Cancer - Peripheral Blood",
    "50": "Cell Lines",
    "60": "Primary Xenograft Tissue",
    "61": "Cell Line Derived Xenograft Tissue",
}
# the last field of a slide's barcode: frozen sections of top, middle and bottom, or a diagnostic (FFPE) slide
STRATEGIES = {"TS": "Tissue Slide", "MS": "Tissue Slide", "BS": "Tissue Slide", "DX": "Diagnostic Slide"}
_BY_LOWER = {name.lower(): name for name in SAMPLE_TYPES}

_BARCODE = re.compile(r"(TCGA|DEMO)-[A-Z0-9]{2}-[A-Z0-9]{4}(-[0-9]{2}[A-Z](-.+)?)?", re.IGNORECASE)


def sample_type(word: str) -> str | None:
    """Return the GDC's spelling of a sample type in any case; None for a word that the GDC does not have."""
    return _BY_LOWER.get(" ".join(word.split()).lower())


def sample_of(slide_id: str) -> str | None:
    """Return the sample barcode inside a slide's barcode; None where it is no barcode.

    >>> sample_of("TCGA-A6-2671-01A-01-TS1")
    'TCGA-A6-2671-01A'
    """
    if not _BARCODE.fullmatch(slide_id):
        return None
    fields = slide_id.split("-")
    return "-".join(fields[:4]) if len(fields) >= 4 else None


def slide_of(file_name: str) -> str:
    """Return the slide's barcode in a file name of the form <barcode>.<uuid>.svs."""
    return file_name.split(".", 1)[0]


def case_of(slide_id: str) -> str | None:
    """Return the case's barcode (TCGA-XX-XXXX) inside a slide's barcode; None where it is no barcode."""
    return "-".join(slide_id.split("-")[:3]) if _BARCODE.fullmatch(slide_id) else None


def sample_type_of(slide_id: str) -> str | None:
    """Return the sample type that a slide's barcode encodes; None where it is no barcode or the code is unknown."""
    sample = sample_of(slide_id)
    return SAMPLE_CODES.get(sample.split("-")[3][:2]) if sample else None


def strategy_of(slide_id: str) -> str | None:
    """Return the GDC's experimental strategy that a slide's barcode encodes; None where it encodes none."""
    return STRATEGIES.get(slide_id.rsplit("-", 1)[-1][:2].upper()) if _BARCODE.fullmatch(slide_id) else None


def site_of(case_id: str) -> str | None:
    """Return the tissue source site (XX of TCGA-XX-XXXX) in a case's barcode; None where it is no barcode."""
    return case_id.split("-")[1].upper() if _BARCODE.fullmatch(case_id) else None
