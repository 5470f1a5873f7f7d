"""In a pod of Kubernetes, which MLflow's own backend starts: make stages, push them, tell what changed in dvc.lock.

`python -m histocae.tracking.jobs.pod [stage ...]` in the project's folder; without a stage the whole pipeline.
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
        environment = dict(os.environ)
        needed = [one for stage in stages for one in dvc_locks.trainings_before(here, stage.partition("@")[2])]
        if dvc_locks.files_are_elsewhere(here):
            environment["HISTOCAE_FILES"] = "elsewhere"
            needed.append("data/inventory.csv")
        if needed and subprocess.run(["dvc", "pull", *needed], check=False).returncode:
            raise RemoteError(f"dvc pull {' '.join(needed)} failed")
        repro = ["dvc", "repro", "--pull", "--allow-missing", *stages]
        code = subprocess.run(repro, env=environment, check=False).returncode
        # what was finished before a failure is finished
        changed = dvc_locks.changes(before, dvc_locks.read(here))
        if changed:
            code = subprocess.run(["dvc", "push", *dvc_locks.targets(changed)], check=False).returncode or code
        from histocae.tracking.jobs import job_runs

        job_runs.hand_on(run_id, changed, tree.head(here))
    except HistocaeError as error:
        print(f"histocae.tracking.jobs.pod: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
