"""Let this process be short of something for a while."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def file_handles() -> Iterator[None]:
    """Let no file be opened; what is imported in the block must have been imported before."""
    former = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, former)
