"""Options of `histocae plan`; nothing that takes time is imported, since every command makes its parser."""

import argparse
import math

from histocae.errors import ParamsError

# option: what it says, whether it is a whole number, whether it may be 0
NUMBERS = {
    "slides": ("so many slides, in place of those of params.yaml", True, False),
    "patches_per_slide": ("so many patches of a slide", False, False),
    "slide_mb": ("10^6 bytes of a slide", False, False),
    "cores": ("of each machine; default: those of this one", True, False),
    "jobs": ("machines that share the work; default: 1", True, False),
    "gpu_patches_per_s": ("train on graphics cards, of which each learns from so many a second", False, False),
    "core_hour": ("price of a core for an hour", False, True),
    "gpu_hour": ("price of a graphics card for an hour", False, True),
    "gb_month": ("price of 10^9 bytes on a disk for a month", False, True),
    "months": ("that the disk is kept", False, True),
    "download_mb_s": ("10^6 bytes a second that all downloads bring together", False, False),
}
MOST = 1e15


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command plan."""
    for name, (about, _, _) in NUMBERS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="N", help=about)
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")


def numbers(given: argparse.Namespace) -> dict[str, float]:
    """Give the numbers among the options, by name, those that were given.

    Raises:
        ParamsError: one is no number, or not in its range.

    """
    found = {}
    for name, (_, whole, zero) in NUMBERS.items():
        text = getattr(given, name)
        if text is None:
            continue
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            value = math.nan
        if not (0 < value <= MOST or (zero and value == 0)):
            kind = f"{'a whole' if whole else 'a'} number {'of 0 or more' if zero else 'above 0'}"
            raise ParamsError(f"--{name.replace('_', '-')}: expected {kind}, got {text!r}")
        found[name] = value
    return found
