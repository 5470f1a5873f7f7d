"""Options of `histocae plan`. Every command builds this parser, so nothing heavy is imported here."""

import argparse
import math

from histocae.errors import ParamsError

# option: its help, whether it is a whole number, whether it may be 0
NUMBERS = {
    "slides": ("number of slides, in place of those of params.yaml", True, False),
    "patches_per_slide": ("number of patches of a slide", False, False),
    "slide_mb": ("size of a slide in 10^6 bytes", False, False),
    "cores": ("cores of each machine; default: those of this machine", True, False),
    "jobs": ("machines that share the work; default: 1", True, False),
    "gpu_patches_per_s": ("train on GPUs; patches a second that one of them learns from", False, False),
    "core_hour": ("price of a core for an hour", False, True),
    "gpu_hour": ("price of a GPU for an hour", False, True),
    "gb_month": ("price of 10^9 bytes on a disk for a month", False, True),
    "months": ("number of months that the disk is kept", False, True),
    "download_mb_s": ("10^6 bytes a second of all downloads together", False, False),
}
MOST = 1e15


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command plan."""
    for name, (help_text, _, _) in NUMBERS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="N", help=help_text)
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")


def numbers(arguments: argparse.Namespace) -> dict[str, float]:
    """Return the numbers among the options that were set, by name.

    Raises:
        ParamsError: an option is no number, or not in its range.

    """
    values: dict[str, float] = {}
    for name, (_, whole, zero) in NUMBERS.items():
        text = getattr(arguments, name)
        if text is None:
            continue
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            value = math.nan
        if not (0 < value <= MOST or (zero and value == 0)):
            kind = f"{'a whole' if whole else 'a'} number {'of 0 or more' if zero else 'above 0'}"
            raise ParamsError(f"--{name.replace('_', '-')}: expected {kind}, got {text!r}")
        values[name] = value
    return values
