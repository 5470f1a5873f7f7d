"""At the end of a training, a slow server is given up."""

import time
from typing import cast

import pytest
from mlflow import MlflowClient

from histocae.errors import TrackingError
from histocae.tracking.impatient import impatient


class SlowServer:
    """Answers each call after a moment."""

    def set_tag(self, run_id: str, key: str, value: str) -> str:
        time.sleep(0.02)
        return f"{run_id} {key} {value}"

    log_artifact = set_tag


def test_a_client_gives_up_a_server_that_it_waited_for_too_long():
    api = impatient(cast(MlflowClient, SlowServer()), most=0.05)
    for _ in range(3):
        assert api.set_tag("run", "key", value="value") == "run key value"
    with pytest.raises(TrackingError, match=r"^tracking server: too slow, 3 calls took \d+ s$"):
        api.set_tag("run", "key", "value")


def test_the_time_of_sending_files_does_not_count():
    api = impatient(cast(MlflowClient, SlowServer()), most=0.01)
    for _ in range(3):
        api.log_artifact("run", "file", "folder")
    api.set_tag("run", "key", "value")
