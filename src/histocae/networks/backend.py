"""Start Keras' backend quietly and make it repeatable. Import this module before keras."""

import gc
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

# TensorFlow's messages about the machine when it starts; a user can do nothing about them
_START_MESSAGES = (
    "WARNING: All log messages before absl::InitializeLog()",
    "I0000 ",
    "W0000 ",
    "To enable the following",
)
# TensorFlow's message on each machine without a GPU; `start` logs the devices instead
_NO_GPU = "cuInit"
log = logging.getLogger(__name__)


def start() -> None:
    """Load the backend without its start messages, and log its devices."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    keras_is_new = "keras" not in sys.modules
    with _without_start_messages():
        with uncollected():
            import keras
        if keras_is_new:
            gc.freeze()  # the loaded modules stay; scanning them takes a tenth of a second per collection

        keras.ops.zeros(1)  # the first operation detects the devices
        devices = keras.distribution.list_devices()
    # silences warnings of functions that are traced again, which is intended: each model has its own
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    log.info("%s on %s", keras.backend.backend(), ", ".join(devices))


def repeatable(seed: int) -> None:
    """Seed Python, NumPy and the backend, and make its operations deterministic."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow

        tensorflow.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed)


@contextmanager
def uncollected() -> Iterator[None]:
    """Switch garbage collection off while libraries load: it finds nothing and takes a quarter of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def _without_start_messages() -> Iterator[None]:
    """Capture what native code writes to stderr, and print all of it but the start messages."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            captured.seek(0)
            for line in captured.read().decode(errors="replace").splitlines():
                if not line.startswith(_START_MESSAGES) and _NO_GPU not in line:
                    print(line, file=sys.stderr)
