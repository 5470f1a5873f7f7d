"""The exact commit of a project, sent to another machine by git."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from histocae import git
from histocae.errors import RemoteError, shortened
from histocae.remote.host import Host

_LOCKS = (":(glob)**/dvc.lock",)


@dataclass(frozen=True)
class Commit:
    """What is sent.

    Attributes:
        sent: the commit that goes over.
        head: the one that is checked out here; another than `sent` where uncommitted changes go along.
        prefix: the project's folder within its repository; empty where it is the repository.

    """

    sent: str
    head: str
    prefix: str


def head(folder: Path) -> str:
    """Tell the commit that is checked out.

    Raises:
        RemoteError: it is in no repository, or has no commit.

    """
    try:
        return _git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    except RemoteError:
        raise RemoteError(f"{folder}: no commit of a git repository; git init and commit first") from None


def commit_of(folder: Path, dirty: str, locks: bool = False) -> Commit:
    """Tell what is to be sent.

    Args:
        folder: of the project, in a git repository.
        dirty: `refuse` uncommitted changes, or `send` them along: those of tracked files, and new files that git
            does not ignore.
        locks: what changed in DVC's lock files goes along in any case.

    Raises:
        RemoteError: it is in no repository, has no commit, or changes that are refused.

    """
    here = head(folder)
    prefix = _git(folder, "rev-parse", "--show-prefix")
    changed = [line[3:] for line in _git(folder, "status", "--porcelain").splitlines()]
    if locks and dirty == "refuse":
        return Commit(_snapshot(folder, here, *_LOCKS), here, prefix)
    if not changed:
        return Commit(here, here, prefix)
    if dirty == "refuse":
        told = shortened([f"{one}" for one in changed])
        raise RemoteError(f'uncommitted changes: {told}; commit them, or set "dirty": "send" in the backend config')
    return Commit(_snapshot(folder, here), here, prefix)


def _snapshot(folder: Path, above: str, *only: str) -> str:
    """Commit what lies in the working tree, all or some of it, and leave tree, index and branch as they are."""
    top = Path(_git(folder, "rev-parse", "--show-toplevel"))
    with tempfile.TemporaryDirectory() as aside:
        index = Path(aside) / "index"
        shutil.copy(_git(folder, "rev-parse", "--path-format=absolute", "--git-path", "index"), index)
        env = {"GIT_INDEX_FILE": str(index)}
        for role in ("AUTHOR", "COMMITTER"):  # nobody's, on no branch
            env |= {f"GIT_{role}_NAME": "histocae", f"GIT_{role}_EMAIL": "histocae@localhost"}
        if only:
            _git(top, "read-tree", above, **env)
        _git(top, "add", "--all", "--", *only, **env)
        tree = _git(top, "write-tree", **env)
        return _git(top, "commit-tree", tree, "-p", above, "-m", "uncommitted changes", **env)


def push(folder: Path, commit: Commit, host: Host, repository: str, name: str) -> None:
    """Send a commit into a bare repository there; only what that lacks goes over.

    Raises:
        RemoteError: git could not.

    """
    _git(
        folder,
        "push",
        "--quiet",
        "--force",
        "--no-verify",
        host.url(repository),
        f"{commit.sent}:refs/heads/jobs/{name}",
        GIT_SSH_COMMAND=host.git_ssh,
    )


def has(folder: Path, commit: str) -> bool:
    """Tell whether a commit is of this repository."""
    try:
        _git(folder, "cat-file", "-e", f"{commit}^{{commit}}")
    except RemoteError:
        return False
    return True


def _git(folder: Path, *arguments: str, **environment: str) -> str:
    return git.run(*arguments, folder=folder, environment=environment)
