"""The forms in which patches and latents are exported, and the names of their files."""

from histocae.exports.features import Reader

FILES = {"h5ad": "latents.h5ad", "parquet": "latents.parquet"}
# a file per slide; `h5_files` is the name that CLAM looks for
FOLDERS: dict[str, tuple[str, Reader]] = {"h5": ("h5_files", "clam"), "stamp": ("h5_stamp", "stamp")}
FORMS = (*FILES, *FOLDERS)
