"""In a pod of Kubernetes, which MLflow's own backend starts: make stages, push them, tell what changed in dvc.lock.

`python -m histocae.remote.pod [stage ...]` in the project's folder; without a stage the whole pipeline.
"""

import os
import subprocess
import sys
from pathlib import Path

from histocae.errors import HistocaeError, RemoteError
from histocae.remote import dvc_locks, tree


def main(stages: list[str]) -> int:
    """Make stages; give an exit code."""
    run_id, here = os.environ.get("MLFLOW_RUN_ID"), Path.cwd()
    try:
        if run_id is None:
            raise RemoteError("MLFLOW_RUN_ID is not set; this is for mlflow run with the backend kubernetes")
        before = dvc_locks.read(here)
        code = subprocess.run(["dvc", "repro", "--pull", "--allow-missing", *stages], check=False).returncode
        # what was finished before a failure is finished
        changed = dvc_locks.changes(before, dvc_locks.read(here))
        if changed:
            code = subprocess.run(["dvc", "push", *dvc_locks.targets(changed)], check=False).returncode or code
        from histocae.tracking import jobs

        jobs.hand_on(run_id, changed, tree.head(here))
    except HistocaeError as error:
        print(f"histocae.remote.pod: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
