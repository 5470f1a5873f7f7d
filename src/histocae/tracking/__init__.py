"""MLflow: the only package that imports it.

DVC's outputs are the record of a training, and its run is made from them. While a training is running, its epochs
appear live. An unreachable server never makes a training fail or wait: its run is completed at the
end of the training, by the register stage or by `histocae publish`.
"""

from histocae.tracking import environment  # before MLflow, whichever module imports that  # noqa: F401
