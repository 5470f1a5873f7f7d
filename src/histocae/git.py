"""The program git: one command at a time."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from histocae.errors import RemoteError, shortened


class GitError(RemoteError):
    """git is not installed, or a command of it failed."""


def run(*arguments: str, folder: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Run a git command.

    Args:
        arguments: of git: the command first.
        folder: where it runs; None for the working directory.
        environment: variables to set beside those of this process.

    Returns:
        What it prints, without the last line break.

    Raises:
        GitError: git is not installed, or the command fails; the message has git's reason.

    """
    if shutil.which("git") is None:
        raise GitError("no program git on this machine")
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env=os.environ | dict(environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        reasons = [line for line in lines if line.startswith(("fatal:", "remote:", " ! "))]
        raise GitError(f"git {arguments[0]}: {shortened(reasons or lines[-1:])}")
    return done.stdout.removesuffix("\n")
