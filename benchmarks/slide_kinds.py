"""Reading patches of several kinds of slides, compared with read_region in time and in every pixel."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import slides
from harness import in_turn, record
from patching import cores
from reading import by_histocae, by_read_region, count_differing, every_cell, seconds

from histocae.slides.slide import Slide

# of the slides, in pixels: as wide as real slides, whose rows of tiles exceed the cache of OpenSlide, and less high,
# which saves time; rows TOP to BOTTOM of the drawn tissue
WIDTH, TOP, BOTTOM = 24600, 640, 1152
ROUNDS = 3


def main() -> int:
    """Measure; the exit code is the number of kinds with pixels that differ from OpenSlide's."""
    wrong_kinds, threads = 0, cores()
    with tempfile.TemporaryDirectory() as folder:
        image = np.ascontiguousarray(slides.repeat_tissue(WIDTH, BOTTOM)[TOP:])
        kinds = {
            "generic_jpeg": slides.generic(Path(folder) / "generic.tif", image),
            "aperio_jpeg": slides.aperio(Path(folder) / "jpeg.svs", image, slides.JPEG),
            "aperio_33003": slides.aperio(Path(folder) / "33003.svs", image, slides.JPEG_2000_YCBCR),
            "aperio_33005": slides.aperio(Path(folder) / "33005.svs", image, slides.JPEG_2000_RGB),
        }
        if real_slide := slides.real():
            kinds["aperio_real"] = real_slide
        for kind, path in kinds.items():
            print(f"\n{kind}")
            with Slide(path) as slide:
                _, plan = every_cell(slide, 0)
            ways = {
                "read_region": lambda path=path, plan=plan: seconds(lambda: by_read_region(path, 0, plan)),
                "histocae, one thread": lambda path=path: seconds(lambda: by_histocae(path, 0, 1)),
                "histocae": lambda path=path: seconds(lambda: by_histocae(path, 0, threads)),
            }
            medians = in_turn(ways, ROUNDS, len(plan.rows), "patches")
            for name, way, description in (
                (f"kind_{kind}_one_thread", "histocae, one thread", "one thread, as with a slide for each core"),
                (f"kind_{kind}_vs_read_region", "histocae", f"{threads} threads"),
            ):
                record(
                    name,
                    medians["read_region"] / medians[way],
                    1,
                    "higher",
                    f"patches at level 0: read_region of each patch / histocae with {description}",
                    reason="histocae too reads this kind with OpenSlide's read_region: both sides do the same work",
                )
            count = count_differing(path, 0, threads)
            compared = "pixels of these patches that differ from OpenSlide's"
            record(f"kind_{kind}_differing", count, 0, "lower", compared, "pixels")
            wrong_kinds += count > 0
    return wrong_kinds


if __name__ == "__main__":
    sys.exit(main())
