"""Real services on this machine, for tests of remote machines: sshd, Slurm, S3, an MLflow server.

`make test-remote` calls `python tests/support/services.py COMMAND ...`. As root, on Debian or Ubuntu, this installs
missing programs, starts Slurm and runs a command with it. The tests themselves start the services that need no root.
Without root, nothing is installed and the tests of Slurm are skipped.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

PACKAGES = {"sshd": "openssh-server", "slurmctld": "slurm-wlm", "munged": "munge", "make": "make"}
SLURM = "HISTOCAE_TESTS_SLURM"  # an environment variable, set where Slurm runs: the folder of Slurm
WAIT_SECONDS = 60


def program(name: str) -> str | None:
    """Find a program, also in folders that only root has in its PATH."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def install() -> None:
    """Install missing programs."""
    missing = [package for name, package in PACKAGES.items() if program(name) is None]
    if not missing:
        return
    options = {"env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, "check": True}
    subprocess.run(["apt-get", "update", "-qq"], **options)
    subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], **options)


def free_port() -> int:
    """Find a port on which no server listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(ready: Callable[[], bool], name: str, process: subprocess.Popen | None = None) -> None:
    """Wait until a service answers."""
    start = time.monotonic()
    while not ready():
        if time.monotonic() - start > WAIT_SECONDS or (process is not None and process.poll() is not None):
            raise RuntimeError(f"{name} does not start")
        time.sleep(0.1)


def is_listening(port: int) -> bool:
    """Return whether a server listens on a port."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(command: list[str], folder: Path, name: str, **env: str) -> Iterator[subprocess.Popen]:
    """Run a service and end it with all its children; its output goes to <name>.log."""
    with open(folder / f"{name}.log", "ab") as out:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | env,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(10)
            os.killpg(process.pid, signal.SIGKILL)  # children that outlived the server
        except ProcessLookupError:
            pass
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Sshd:
    """This machine as a host of ssh; `config` is the file for ssh -F, `alias` the host's name in that file."""

    alias = "gpu-box"

    def __init__(self, folder: Path, port: int):
        self.folder, self.port, self.config = folder, port, folder / "config"


@contextmanager
def sshd(folder: Path) -> Iterator[Sshd]:
    """Start sshd, which needs no root, for the user who runs the tests."""
    folder.mkdir(parents=True)
    server = Sshd(folder, free_port())
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    (folder / "sshd_config").write_text(
        f"Port {server.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nMaxStartups 100\n"
        "Subsystem sftp internal-sftp\n"
    )
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {(folder / 'host.pub').read_text()}")
    server.config.write_text(
        f"Host {server.alias}\n  HostName 127.0.0.1\n  Port {server.port}\n  User {getpass.getuser()}\n"
        f"  IdentityFile {folder}/user\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known_hosts\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd's chroot
    command = [program("sshd"), "-D", "-e", "-f", str(folder / "sshd_config")]
    with running(command, folder, "sshd") as process:
        wait_for(lambda: is_listening(server.port), "sshd", process)
        yield server


@contextmanager
def tracking(folder: Path, port: int | None = None, **env: str) -> Iterator[str]:
    """Start an MLflow server that keeps runs and artifacts in a folder; yield its address."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    env = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", **env}
    address = f"http://127.0.0.1:{port}"
    with running(command, folder, "mlflow", **env) as process:
        wait_for(lambda: _healthy(address), "mlflow server", process)
        yield address


@contextmanager
def tracking_with_users(folder: Path) -> Iterator[tuple[str, str]]:
    """Start examples/tracking_server.sh, a server with users; yield its address and the admin's password."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [
        str(Path(__file__).parents[2] / "examples/tracking_server.sh"),
        str(folder / "data"),
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with running(command, folder, "server", PATH=path, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false") as process:
        address = f"http://127.0.0.1:{port}"
        wait_for(lambda: _healthy(address), "examples/tracking_server.sh", process)
        yield address, (folder / "data/admin_password").read_text().strip()


def group_at(port: int) -> int:
    """Return the id of the group of processes that listens on a port, to kill or stop it."""
    for connection in psutil.net_connections("tcp4"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            return os.getpgid(connection.pid)
    raise RuntimeError(f"no server listens on port {port}")


def _healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def bucket(folder: Path, name: str) -> Iterator[str]:
    """Start an S3 server with an empty bucket; yield its address."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with running([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], folder, "s3") as process:
        wait_for(lambda: is_listening(port), "moto's server", process)
        address = f"http://127.0.0.1:{port}"
        request = urllib.request.Request(f"{address}/{name}", method="PUT")
        with urllib.request.urlopen(request, timeout=10) as response:
            assert response.status == 200
        yield address


@contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """Start munge and a Slurm of one node that can run several jobs at once; needs root."""
    folder.mkdir(parents=True, exist_ok=True)
    node, cores = socket.gethostname().split(".")[0], os.cpu_count()
    (folder / "gres.conf").write_text(f"NodeName={node} Name=gpu File=/dev/null\n")
    (folder / "slurm.conf").write_text(
        f"ClusterName=tests\nSlurmctldHost={node}(127.0.0.1)\nSlurmUser=root\nSlurmdUser=root\n"
        f"SlurmctldPort={free_port()}\nSlurmdPort={free_port()}\nAuthType=auth/munge\n"
        f"AuthInfo=socket={folder}/munge.socket\nStateSaveLocation={folder}/state\nSlurmdSpoolDir={folder}/spool\n"
        f"SlurmctldPidFile={folder}/slurmctld.pid\nSlurmdPidFile={folder}/slurmd.pid\n"
        "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nMpiDefault=none\nReturnToService=2\n"
        "SchedulerType=sched/backfill\nSelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\nKillWait=10\n"
        "SlurmctldTimeout=30\nSlurmdTimeout=60\nInactiveLimit=0\nMinJobAge=20\nGresTypes=gpu\n"
        "SlurmdParameters=config_overrides\n"
        "SchedulerParameters=sched_interval=2,bf_interval=2\n"
        # more cores than the machine has, so that two jobs and their workers fit on a small machine
        f"NodeName={node} NodeAddr=127.0.0.1 CPUs={4 * cores} RealMemory=8000 Gres=gpu:1 State=UNKNOWN\n"
        f"PartitionName=main Nodes={node} Default=YES MaxTime=60 State=UP OverSubscribe=NO\n"
    )
    for name in ("state", "spool"):
        (folder / name).mkdir(exist_ok=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    folder.chmod(0o755)
    munge = [
        program("munged"),
        "--foreground",
        "--force",
        f"--key-file={key}",
        f"--socket={folder}/munge.socket",
        f"--pid-file={folder}/munged.pid",
        f"--seed-file={folder}/munge.seed",
        f"--log-file={folder}/munged.txt",
    ]
    config = {"SLURM_CONF": str(folder / "slurm.conf")}
    with ExitStack() as daemons:
        daemons.enter_context(running(munge, folder, "munged"))
        wait_for((folder / "munge.socket").exists, "munged")
        for name in ("slurmctld", "slurmd"):
            daemons.enter_context(running([program(name), "-D", "-c"], folder, name, **config))
        wait_for(lambda: b"idle" in _sinfo(config), "Slurm")
        yield


def _sinfo(config: dict[str, str]) -> bytes:
    return subprocess.run(
        ["sinfo", "--noheader", "--format", "%T"], env=os.environ | config, capture_output=True, check=False
    ).stdout


def main(command: list[str]) -> int:
    """Install and start Slurm, run a command, stop Slurm; return the exit code of the command."""
    if os.geteuid() != 0:
        print("only root can install and start Slurm; the tests of Slurm are skipped", file=sys.stderr)
        return subprocess.run(command, check=False).returncode
    install()
    with tempfile.TemporaryDirectory(prefix="histocae-") as folder, slurm(Path(folder) / "slurm"):
        slurm_folder = Path(folder) / "slurm"
        env = os.environ | {"SLURM_CONF": str(slurm_folder / "slurm.conf"), SLURM: str(slurm_folder)}
        return subprocess.run(command, env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
