"""A client of the tracking server that gives up a slow server: the end of a training should not wait for it."""

import time
from typing import Any, cast

from mlflow import MlflowClient

from histocae.errors import TrackingError

MOST_SECONDS = 20  # waiting for answers, without the time that files take


class _Impatient:
    """An MlflowClient whose calls fail once all calls together have waited too long."""

    def __init__(self, api: MlflowClient, most: float):
        self._api, self._most, self._waited, self._calls = api, most, 0.0, 0

    def __getattr__(self, name: str) -> Any:
        """Return a method of the client, which is timed unless it sends files: those may be large."""
        call = getattr(self._api, name)
        if name.startswith("log_artifact"):
            return call

        def timed(*arguments: Any, **named: Any) -> Any:
            if self._waited > self._most:
                raise TrackingError(f"tracking server: too slow, {self._calls} calls took {self._waited:.0f} s")
            start = time.monotonic()
            try:
                return call(*arguments, **named)
            finally:
                self._calls += 1
                self._waited += time.monotonic() - start

        return timed


def impatient(api: MlflowClient, most: float = MOST_SECONDS) -> MlflowClient:
    """Return a client whose calls raise a TrackingError once all calls together have waited too long.

    Args:
        api: the client that makes the calls.
        most: seconds to wait for answers, over all calls but those that send files.

    Returns:
        The client.

    """
    return cast(MlflowClient, _Impatient(api, most))
