"""Reading patches of several kinds of slides: never slower than read_region, and equal in every pixel."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import slides
from harness import in_turn, record
from patching import cores
from reading import by_read_region, by_us, differing, every_cell, seconds

from histocae.slides.slide import Slide

# of the slides, in pixels: as wide as real slides, whose rows of tiles exceed the cache of OpenSlide; as high as the
# time allows
WIDTH, TOP, BOTTOM = 24600, 640, 1152
ROUNDS = 3


def main() -> int:
    """Measure; the exit code is the number of kinds whose pixels are not OpenSlide's."""
    wrong, threads = 0, cores()
    with tempfile.TemporaryDirectory() as folder:
        picture = np.ascontiguousarray(slides.laid_out(WIDTH, BOTTOM)[TOP:])
        kinds = {
            "generic_jpeg": slides.generic(Path(folder) / "generic.tif", picture),
            "aperio_jpeg": slides.aperio(Path(folder) / "jpeg.svs", picture, slides.JPEG),
            "aperio_33003": slides.aperio(Path(folder) / "33003.svs", picture, slides.JPEG_2000_YCBCR),
            "aperio_33005": slides.aperio(Path(folder) / "33005.svs", picture, slides.JPEG_2000_RGB),
        }
        if real := slides.real():
            kinds["aperio_real"] = real
        for kind, path in kinds.items():
            print(f"\n{kind}")
            with Slide(path) as slide:
                _, plan = every_cell(slide, 0)
            ways = {
                "read_region": lambda path=path, plan=plan: seconds(lambda: by_read_region(path, 0, plan)),
                "ours, one thread": lambda path=path: seconds(lambda: by_us(path, 0, 1)),
                "ours": lambda path=path: seconds(lambda: by_us(path, 0, threads)),
            }
            taken = in_turn(ways, ROUNDS, len(plan.rows), "patches")
            for name, way, about in (
                (f"kind_{kind}_one_thread", "ours, one thread", "one thread, as with a slide for each core"),
                (f"kind_{kind}_vs_read_region", "ours", f"{threads} threads"),
            ):
                record(
                    name,
                    taken["read_region"] / taken[way],
                    1,
                    "higher",
                    f"patches at level 0: read_region of each / ours with {about}",
                    reason="it is OpenSlide's read_region here too, patch by patch: the ratio of one with itself",
                )
            count = differing(path, 0, threads)
            record(f"kind_{kind}_differing", count, 0, "lower", "pixels of those unlike OpenSlide's", "pixels")
            wrong += count > 0
    return wrong


if __name__ == "__main__":
    sys.exit(main())
