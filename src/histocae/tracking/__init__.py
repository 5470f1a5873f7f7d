"""MLflow, and nothing else of the package knows it.

DVC's outputs are the record; a run is delivered from them. While a training goes on its
epochs appear live, but a server that is away never fails or delays it: what was not
delivered then is delivered at the end, by the register stage or by `histocae publish`.
"""

from histocae.tracking import environment  # before MLflow, whichever module imports that  # noqa: F401
