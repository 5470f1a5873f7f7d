"""Keras' backend made quiet and repeatable. Import this before keras."""

import gc
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

# what TensorFlow says at its start of the machine it finds; nothing a user can act on
_CHATTER = (
    "WARNING: All log messages before absl::InitializeLog()",
    "I0000 ",
    "W0000 ",
    "To enable the following",
)
# said on every machine without a graphics card; which device is used is logged instead
_NO_CARD = "cuInit"
log = logging.getLogger(__name__)


def start() -> None:
    """Load the backend without its chatter and say what it computes on."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    first = "keras" not in sys.modules
    with _without_chatter():
        with uncollected():
            import keras
        if first:
            gc.freeze()  # what was loaded stays; looking through it takes a tenth of a second each time

        keras.ops.zeros(1)  # the devices are looked for at the first operation
        devices = keras.distribution.list_devices()
    # of functions traced anew for another model, which is meant
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
    """Load libraries without looking for garbage on the way: there is none, and that takes a quarter of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Hold back what native code writes to stderr, and pass on all but the chatter."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            for line in held.read().decode(errors="replace").splitlines():
                if not line.startswith(_CHATTER) and _NO_CARD not in line:
                    print(line, file=sys.stderr)
