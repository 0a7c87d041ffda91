"""The origin of what is written: commit, command and time."""

import shlex
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from ..pipelines.address import hide_secrets

_ROOT = Path(__file__).parents[1]


def provenance() -> dict[str, Any]:
    """Returns the git commit of Photochrom, whether its files differ from it, the command line and the time (UTC).

    `commit` and `dirty` are None where Photochrom does not run from a git checkout of its own.
    """
    commit, dirty = _git_state()
    time = datetime.now(UTC).isoformat(timespec="seconds")
    return {"commit": commit, "dirty": dirty, "command": shlex.join(map(hide_secrets, sys.argv)), "time": time}


@cache
def _git_state() -> tuple[str | None, bool | None]:
    """Returns the commit and whether files differ from it, read once: a later commit is not what this process runs."""
    if not (_ROOT / ".git").exists():  # installed, perhaps below somebody else's checkout
        return None, None
    command = ["git", "-C", str(_ROOT), "status", "--porcelain=v2", "--branch"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):  # git is not installed, or fails
        return None, None
    return lines[0].removeprefix("# branch.oid "), not all(line.startswith("#") for line in lines)
