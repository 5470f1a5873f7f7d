"""How a job that is ready is started on a machine, asked after, and ended: by ssh alone, or by Slurm."""

import shlex
from typing import Protocol

from histocae.remote import config
from histocae.remote.host import Host

# seconds before the end of its time at which a job of Slurm is told, to end in good order
LEAD_SECONDS = 120


class Queue(Protocol):
    """A way to run jobs. All of them start `job.sh` in the job's folder, with its log in `job.log`."""

    def submit(self, host: Host, job: config.Job, folder: str, name: str) -> str:
        """Start a job or have it wait; give the id that it has there."""

    # shell lines that print waiting, running or ended; $1 the job's folder, $2 its id
    ask: str
    # shell lines that end it; the same arguments
    cancel: str


class SshQueue:
    """Processes of the machine itself."""

    # both the script and what watches over the job have the job's folder among their arguments
    _alive = """
alive() { local pid; pid=$(cat "$2" 2>/dev/null) && grep -qsF "$1/job." "/proc/$pid/cmdline" && echo "$pid"; }
"""
    _found = 'pid=$(alive "$1" "$1/job.pid" || alive "$1" "$1/watch.pid")'
    ask = f"{_alive}if {_found}; then echo running; else echo ended; fi"
    cancel = f'{_alive}{_found} && kill -TERM "$pid" || true'

    def submit(self, host: Host, job: config.Job, folder: str, name: str) -> str:
        """Start it; it outlives the connection."""
        script = 'setsid nohup bash "$1/job.sh" </dev/null >>"$1/job.log" 2>&1 & echo $! | tee "$1/job.pid"'
        return host.run(script, folder, setup=job.setup).split()[-1]


class SlurmQueue:
    """A cluster's scheduler."""

    # gone from the queue, or never there: ended
    ask = """
[ -n "$2" ] || { echo ended; exit 0; }
found=$(squeue --noheader --jobs "$2" --format %T 2>&1) || {
  case $found in *"Invalid job id"*) found= ;; *) echo "$found" >&2; exit 1 ;; esac
}
case $found in
  "" | COMPLETED* | CANCELLED* | FAILED* | TIMEOUT* | NODE_FAIL* | OUT_OF_ME* | BOOT_FAIL* | DEADLINE*) echo ended ;;
  PENDING* | CONFIGURING* | REQUEUE* | RESV*) echo waiting ;;
  *) echo running ;;
esac"""
    cancel = '[ -z "$2" ] || scancel "$2"'

    def submit(self, host: Host, job: config.Slurm, folder: str, name: str) -> str:
        """Hand it to sbatch."""
        asked = {
            "job-name": name,
            "chdir": folder,
            "output": f"{folder}/job.log",
            "open-mode": "append",
            "partition": job.partition,
            "account": job.account,
            "qos": job.qos,
            "gres": f"gpu:{job.gpus}" if job.gpus else None,
            "cpus-per-task": job.cpus,
            "mem": job.memory,
            "time": job.time,
            "signal": f"B:USR1@{min(LEAD_SECONDS, job.seconds // 4)}" if job.seconds else None,
        }
        options = [f"--{key}={value}" for key, value in asked.items() if value is not None]
        # begun again by Slurm it would find its run over
        command = shlex.join(["sbatch", "--parsable", "--no-requeue", *options, *job.options])
        return host.run(f'{command} "$1/job.sh"', folder, setup=job.setup).split()[-1].split(";")[0]


QUEUES: dict[str, Queue] = {"histocae-ssh": SshQueue(), "histocae-slurm": SlurmQueue()}
