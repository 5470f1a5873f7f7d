"""Which samples and sites the cases of the demo cohort have, without drawing any of them."""

from histocae.identifiers import PRIMARY_TUMOR, SOLID_TISSUE_NORMAL

SITES = ("S1", "S2", "S3", "S4")
# tumor only, normal only, both: every site gets each kind of case before it gets a kind again, so that the classes
# have equal shares at every site
_KINDS = ((PRIMARY_TUMOR,), (SOLID_TISSUE_NORMAL,), (PRIMARY_TUMOR, SOLID_TISSUE_NORMAL))


def samples_of(position: int) -> tuple[int, tuple[str, ...]]:
    """Return the site of a case, as a position in `SITES`, and the types of its samples.

    >>> samples_of(0)
    (0, ('Primary Tumor',))
    """
    return (position // len(_KINDS)) % len(SITES), _KINDS[position % len(_KINDS)]


def count_slides(cases: int) -> int:
    """Count the slides of a demo cohort: one of each sample, and a second one per site and sample type."""
    samples = [(site, sample_type) for site, types in map(samples_of, range(cases)) for sample_type in types]
    return len(samples) + len(set(samples))
