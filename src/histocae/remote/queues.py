"""How a prepared job is started on its machine, polled and ended: by ssh alone, or by Slurm."""

import shlex
from typing import Any, Protocol, TypeVar

from histocae.remote.config import JobConfig, SlurmConfig
from histocae.remote.host import Host

LEAD_SECONDS = 120  # Slurm signals a job so long before its end of time: the job then ends itself in good order
AnyConfig = TypeVar("AnyConfig", bound=JobConfig, contravariant=True)


class Queue(Protocol[AnyConfig]):
    """A way to run jobs. Each starts `job.sh` in the job's folder, with its output in `job.log`."""

    def submit(self, host: Host, config: AnyConfig, folder: str, name: str) -> str:
        """Start a job, or put it into a queue.

        Args:
            host: the job's machine, or the one on which sbatch runs.
            config: of the job.
            folder: of the job on that machine.
            name: of the job for people.

        Returns:
            The job's id on that machine.

        """

    # shell lines that print waiting, running or ended; $1 is the job's folder, $2 its id
    poll: str
    # shell lines that end the job; the same arguments
    cancel: str


class SshQueue:
    """Processes of the machine itself."""

    # both job.sh and the supervisor have the job's folder among their arguments
    _alive = """
alive() { local pid; pid=$(cat "$2" 2>/dev/null) && grep -qsF "$1/job." "/proc/$pid/cmdline" && echo "$pid"; }
"""
    _find = 'pid=$(alive "$1" "$1/job.pid" || alive "$1" "$1/supervisor.pid")'
    poll = f"{_alive}if {_find}; then echo running; else echo ended; fi"
    cancel = f'{_alive}{_find} && kill -TERM "$pid" || true'

    def submit(self, host: Host, config: JobConfig, folder: str, name: str) -> str:
        """Start the job as a process that outlives the connection.

        Args:
            host: the job's machine.
            config: of the job.
            folder: of the job on that machine.
            name: not used.

        Returns:
            The id of the process.

        """
        script = 'setsid nohup bash "$1/job.sh" </dev/null >>"$1/job.log" 2>&1 & echo $! | tee "$1/job.pid"'
        return host.run(script, folder, setup=config.setup).split()[-1]


class SlurmQueue:
    """A cluster's scheduler."""

    # a job that is not in the queue has ended
    poll = """
[ -n "$2" ] || { echo ended; exit 0; }
state=$(squeue --noheader --jobs "$2" --format %T 2>&1) || {
  case $state in *"Invalid job id"*) state= ;; *) echo "$state" >&2; exit 1 ;; esac
}
case $state in
  "" | COMPLETED* | CANCELLED* | FAILED* | TIMEOUT* | NODE_FAIL* | OUT_OF_ME* | BOOT_FAIL* | DEADLINE*) echo ended ;;
  PENDING* | CONFIGURING* | REQUEUE* | RESV*) echo waiting ;;
  *) echo running ;;
esac"""
    cancel = '[ -z "$2" ] || scancel "$2"'

    def submit(self, host: Host, config: SlurmConfig, folder: str, name: str) -> str:
        """Submit the job by sbatch.

        Args:
            host: the machine on which sbatch runs.
            config: of the job.
            folder: of the job, which all machines of the cluster see.
            name: of the job for people.

        Returns:
            Slurm's id of the job.

        """
        values = {
            "job-name": name,
            "chdir": folder,
            "output": f"{folder}/job.log",
            "open-mode": "append",
            "partition": config.partition,
            "account": config.account,
            "qos": config.qos,
            "gres": f"gpu:{config.gpus}" if config.gpus else None,
            "cpus-per-task": config.cpus,
            "mem": config.memory,
            "time": config.time,
            "signal": f"B:USR1@{min(LEAD_SECONDS, config.seconds // 4)}" if config.seconds else None,
        }
        options = [f"--{key}={value}" for key, value in values.items() if value is not None]
        # if Slurm started a job a second time, its run would already have a final status
        command = shlex.join(["sbatch", "--parsable", "--no-requeue", *options, *config.options])
        return host.run(f'{command} "$1/job.sh"', folder, setup=config.setup).split()[-1].split(";")[0]


QUEUES: dict[str, Queue[Any]] = {"histocae-ssh": SshQueue(), "histocae-slurm": SlurmQueue()}
