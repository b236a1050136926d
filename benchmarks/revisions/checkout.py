"""Copies of the package as it is in a revision or in the working tree, with the benchmarks of the working tree."""

from __future__ import annotations

import io
import shutil
import subprocess
import zipfile
from pathlib import Path

from benchmarks.catalogue import PROJECT

PACKAGE = "humphrey_trio"
WORKING_TREE = ""  # instead of a revision


class UnknownRevisionError(Exception):
    """git does not know the revision, or it has no package."""


def described(revision: str) -> str:
    """Return the short hash and the subject of a revision."""
    if revision == WORKING_TREE:
        return "the working tree"
    return _git("log", "-1", "--format=%h %s", revision, "--").decode().strip()


def copy(revision: str, folder: Path) -> Path:
    """Copy the package of a revision into a folder, from which the servers can be started. Returns the folder.

    The programs of the servers are those of the working tree, so that both revisions do the same work.
    """
    folder.mkdir()
    (folder / "benchmarks").symlink_to(PROJECT / "benchmarks")
    if revision == WORKING_TREE:
        shutil.copytree(PROJECT / PACKAGE, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        with zipfile.ZipFile(io.BytesIO(_git("archive", "--format=zip", revision, PACKAGE))) as archive:
            archive.extractall(folder)
    return folder


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", str(PROJECT), *arguments], capture_output=True, check=False)
    if done.returncode:
        raise UnknownRevisionError(done.stderr.decode(errors="replace").strip())
    return done.stdout
