"""A machine that runs shell scripts: one that ssh reaches, or this one."""

import shlex
import shutil
import subprocess
import sys
from typing import IO, cast

from histocae.address import without_credentials
from histocae.errors import RemoteError

_UNREACHABLE = 255  # ssh's own exit code: the failure is not the command's
_OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15")
ANSWER_SECONDS = 180  # after that a scheduler is unreachable, or a file system hangs


class UnreachableError(RemoteError):
    """The machine does not answer, or refuses the login."""


class Host:
    """A machine that OpenSSH reaches with its own config: aliases, keys, jump hosts."""

    def __init__(self, name: str | None, ssh_config: str | None = None):
        """Name the machine; nothing is contacted.

        Args:
            name: an address or an alias of ssh; None is this machine.
            ssh_config: a file to use in place of ssh's own config.

        """
        self.name = name
        self._config = ("-F", ssh_config) if ssh_config else ()

    def __str__(self) -> str:
        return self.name or "this machine"

    @property
    def git_ssh(self) -> str:
        """The ssh command that git uses (GIT_SSH_COMMAND)."""
        return shlex.join(["ssh", *_OPTIONS, *self._config])

    def url(self, folder: str) -> str:
        """Return the address by which git pushes into a folder of the machine."""
        return f"{self.name}:{folder}" if self.name else folder

    def run(self, script: str, *arguments: str, setup: str = "", show: bool = False) -> str:
        """Run a bash script on the machine; it stops at the first command that fails.

        Args:
            script: lines of bash.
            arguments: $1, $2 ... of the script; any text arrives unchanged.
            setup: lines before the script, which may fail and use unset variables.
            show: whether stderr is shown while the script runs; there is no time limit then.

        Returns:
            What the script printed.

        Raises:
            UnreachableError: ssh failed, or the script took too long.
            RemoteError: a command failed; the message is the last line of stderr.

        """
        bash = ["bash", "-s", "--", *arguments]
        command = ["ssh", *_OPTIONS, *self._config, self.name, shlex.join(bash)] if self.name else bash
        if shutil.which(command[0]) is None:
            raise RemoteError(f"no program {command[0]} on this machine")
        # bash reads the braces whole before it runs them, so that no command in them reads the rest as its input
        text = f"{{\n{setup}\nset -euo pipefail\n{script}\nexit 0; }} </dev/null\n".encode()
        if show:
            code, out, message = _run_and_show(command, text)
        else:
            try:
                done = subprocess.run(command, input=text, capture_output=True, timeout=ANSWER_SECONDS, check=False)
            except subprocess.TimeoutExpired:
                raise UnreachableError(f"{self}: no answer within {ANSWER_SECONDS} s") from None
            code, out, message = done.returncode, done.stdout, done.stderr
        if code:
            last = (message.decode(errors="replace").strip().splitlines() or [f"exit code {code}"])[-1]
            kind = UnreachableError if self.name and code == _UNREACHABLE else RemoteError
            raise kind(without_credentials(f"{self}: {last}"))
        return out.decode(errors="replace")


def _run_and_show(command: list[str], text: bytes) -> tuple[int, bytes, bytes]:
    """Run a command and show its stderr meanwhile; return exit code, stdout and the last line of stderr."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        pipes = (process.stdin, process.stdout, process.stderr)
        stdin, stdout, stderr = cast("tuple[IO[bytes], IO[bytes], IO[bytes]]", pipes)  # pipes, so none is None
        stdin.write(text)
        stdin.close()
        last = b""
        for line in stderr:
            print(line.decode(errors="replace"), end="", file=sys.stderr, flush=True)
            last = line if line.strip() else last
        out = stdout.read()
    return process.returncode, out, last
