"""Run stages in a pod of Kubernetes that MLflow's own backend started, and push their outputs.

`python -m histocae.tracking.jobs.pod [stage ...]` in the project's folder; without a stage the whole pipeline.
"""

import os
import subprocess
import sys
from pathlib import Path

from histocae.errors import HistocaeError, RemoteError
from histocae.remote import dvc_locks, tree


def main(stages: list[str]) -> int:
    """Run stages; return the exit code."""
    try:
        return _run(stages)
    except HistocaeError as error:
        print(f"histocae.tracking.jobs.pod: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


def _run(stages: list[str]) -> int:
    run_id, project = os.environ.get("MLFLOW_RUN_ID"), Path.cwd()
    if run_id is None:
        raise RemoteError("MLFLOW_RUN_ID is not set; this is for mlflow run with the backend kubernetes")
    before = dvc_locks.read(project)
    environment = dict(os.environ)
    models = [stage.partition("@")[2] for stage in stages]
    needed = [training for model in models for training in dvc_locks.trainings_before(project, model)]
    if lists := dvc_locks.lists_of_files_elsewhere(project):
        environment["HISTOCAE_FILES"] = "elsewhere"
        needed += lists
    if needed and subprocess.run(["dvc", "pull", *needed], check=False).returncode:
        raise RemoteError(f"dvc pull {' '.join(needed)} failed")
    repro = ["dvc", "repro", "--pull", "--allow-missing", *stages]
    code = subprocess.run(repro, env=environment, check=False).returncode
    # stages that finished before a failure are results too
    changed = dvc_locks.changes(before, dvc_locks.read(project))
    if changed:
        code = subprocess.run(["dvc", "push", *dvc_locks.targets(changed)], check=False).returncode or code
    from histocae.tracking.jobs import job_runs

    job_runs.attach_changes(run_id, changed, tree.head(project))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
