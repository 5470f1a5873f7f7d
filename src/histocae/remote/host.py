"""A machine that runs shell scripts for us: one that ssh reaches, or this one."""

import shlex
import shutil
import subprocess
import sys

from histocae.errors import RemoteError

_UNREACHABLE = 255  # ssh's own exit code for what is not the command's
_OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15")
ANSWER_SECONDS = 180  # for what is no work: a scheduler that is away, or a file system that hangs


class UnreachableError(RemoteError):
    """The machine does not answer, or does not let us in."""


class Host:
    """A machine, spoken to by OpenSSH with its own config: aliases, keys, jump hosts."""

    def __init__(self, name: str | None, ssh_config: str | None = None):
        """Name it: an address or alias of ssh; None is this machine."""
        self.name = name
        self._config = ("-F", ssh_config) if ssh_config else ()

    def __str__(self) -> str:
        return self.name or "this machine"

    @property
    def git_ssh(self) -> str:
        """The ssh that git is to use (GIT_SSH_COMMAND)."""
        return shlex.join(["ssh", *_OPTIONS, *self._config])

    def url(self, folder: str) -> str:
        """Give the address by which git pushes into a folder there."""
        return f"{self.name}:{folder}" if self.name else folder

    def run(self, script: str, *arguments: str, setup: str = "", show: bool = False) -> str:
        """Run a bash script there, which gets arguments as $1, $2 ...; it stops at the first command that fails.

        Args:
            script: its lines.
            arguments: whatever they hold, they arrive as they are.
            setup: lines before it, which may fail and use variables that are not set.
            show: what it says on stderr while it runs, however long that is.

        Returns:
            What it printed.

        Raises:
            UnreachableError: ssh could not run it, or it was not done in time.
            RemoteError: a command failed; told by the last line it said.

        """
        bash = ["bash", "-s", "--", *arguments]
        ssh = ["ssh", *_OPTIONS, *self._config, self.name, shlex.join(bash)] if self.name else bash
        if shutil.which(ssh[0]) is None:
            raise RemoteError(f"no program {ssh[0]} on this machine")
        with subprocess.Popen(ssh, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            # read whole before it runs, so that no command of it reads the rest as its input
            text = f"{{\n{setup}\nset -euo pipefail\n{script}\nexit 0; }} </dev/null\n".encode()
            if not show:
                try:
                    out, said = process.communicate(text, timeout=ANSWER_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise UnreachableError(f"{self}: no answer within {ANSWER_SECONDS} s") from None
            else:
                process.stdin.write(text)
                process.stdin.close()
                said = b""
                for line in process.stderr:
                    print(line.decode(errors="replace"), end="", file=sys.stderr, flush=True)
                    said = line if line.strip() else said
                out = process.stdout.read()
        if process.returncode:
            last = (said.decode(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"])[-1]
            kind = UnreachableError if self.name and process.returncode == _UNREACHABLE else RemoteError
            raise kind(f"{self}: {last}")
        return out.decode(errors="replace")
