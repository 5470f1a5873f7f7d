"""Send the exact commit of a project to another machine by git."""

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
    """A commit to send.

    Attributes:
        sent: its hash.
        head: hash of the commit that is checked out here; differs from `sent` where uncommitted changes are sent too.
        prefix: the project's folder within its repository; empty where it is the repository's top folder.

    """

    sent: str
    head: str
    prefix: str


def head(folder: Path) -> str:
    """Return the hash of the commit that is checked out in a folder.

    Raises:
        RemoteError: the folder is in no repository, or the repository has no commit.

    """
    try:
        return _git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    except RemoteError:
        raise RemoteError(f"{folder}: no commit of a git repository; git init and commit first") from None


def commit_of(folder: Path, dirty: str, locks: bool = False) -> Commit:
    """Return the commit to send; uncommitted changes that are sent too get a commit on no branch.

    Args:
        folder: of the project, in a git repository.
        dirty: `refuse` uncommitted changes, or `send` them too: those of tracked files, and new files that git
            does not ignore.
        locks: whether uncommitted changes of DVC's lock files are sent in any case.

    Returns:
        The commit.

    Raises:
        RemoteError: the folder is in no repository, or the repository has no commit or refused changes.

    """
    here = head(folder)
    prefix = _git(folder, "rev-parse", "--show-prefix")
    changed = [line[3:] for line in _git(folder, "status", "--porcelain").splitlines()]
    if locks and dirty == "refuse":
        return Commit(_snapshot(folder, here, *_LOCKS), here, prefix)
    if not changed:
        return Commit(here, here, prefix)
    if dirty == "refuse":
        raise RemoteError(
            f'uncommitted changes: {shortened(changed)}; commit them, or set "dirty": "send" in the backend config'
        )
    return Commit(_snapshot(folder, here), here, prefix)


def _snapshot(folder: Path, parent: str, *patterns: str) -> str:
    """Commit the working tree, or the files that match patterns; tree, index and branch stay as they are."""
    top = Path(_git(folder, "rev-parse", "--show-toplevel"))
    with tempfile.TemporaryDirectory() as temporary:
        index = Path(temporary) / "index"
        shutil.copy(_git(folder, "rev-parse", "--path-format=absolute", "--git-path", "index"), index)
        env = {"GIT_INDEX_FILE": str(index)}
        for role in ("AUTHOR", "COMMITTER"):  # a commit on no branch has no author
            env |= {f"GIT_{role}_NAME": "histocae", f"GIT_{role}_EMAIL": "histocae@localhost"}
        if patterns:
            _git(top, "read-tree", parent, **env)
        _git(top, "add", "--all", "--", *patterns, **env)
        tree = _git(top, "write-tree", **env)
        return _git(top, "commit-tree", tree, "-p", parent, "-m", "uncommitted changes", **env)


def has_file(folder: Path, commit: Commit, path: str) -> bool:
    """Check whether a commit has a file.

    Args:
        folder: of the project, in a git repository.
        commit: of the project.
        path: of the file, relative to the project.

    Returns:
        Whether it is there.

    """
    return bool(_git(folder, "ls-tree", "--full-tree", commit.sent, commit.prefix + path))


def push(folder: Path, commit: Commit, host: Host, repository: str, name: str) -> None:
    """Push a commit into a bare repository of another machine; git sends only objects that are missing there.

    Args:
        folder: of the project here.
        commit: to send.
        host: the machine.
        repository: its folder on the machine.
        name: of the job; the branch becomes jobs/<name>.

    Raises:
        RemoteError: git failed.

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


def has_commit(folder: Path, commit: str) -> bool:
    """Say whether a repository has a commit.

    Args:
        folder: in the repository.
        commit: hash.

    Returns:
        Whether it is there.

    """
    try:
        _git(folder, "cat-file", "-e", f"{commit}^{{commit}}")
    except RemoteError:
        return False
    return True


def _git(folder: Path, *arguments: str, **environment: str) -> str:
    return git.run(*arguments, folder=folder, environment=environment)
