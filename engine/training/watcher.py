"""Outlives a host's processes and their launcher, to say last which ended without a word, and how to go on.

Run as a script, without torch: the arguments are a folder in which processes that leave by themselves leave a file
named after their rank, that of the run, the launcher's pid, and pids by rank, as JSON.
"""

import json
import os
import platform
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

_INTERVAL = 0.1  # seconds
_PATIENCE = 120.0  # seconds for a launcher to notice and to leave


def main(farewells: str, out: str, launcher: str, pids: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):  # sent to all that a job consists of
        signal.signal(number, signal.SIG_IGN)
    ranks, command = json.loads(pids), _command(int(launcher))
    gone: list[str] = []
    while not gone:  # the first one: what ends the others is that they miss it
        time.sleep(_INTERVAL)
        gone = [rank for rank, pid in ranks.items() if not _is_there(pid)]
    silent = next((rank for rank in gone if not (Path(farewells) / rank).exists()), None)
    deadline = time.monotonic() + _PATIENCE
    others = [*ranks.values()] if silent is None else [*ranks.values(), int(launcher)]
    while any(map(_is_there, others)) and time.monotonic() < deadline:
        time.sleep(_INTERVAL)
    shutil.rmtree(farewells, ignore_errors=True)
    if silent is not None:
        saved = sorted(path.name for path in Path(out).glob("checkpoints/step-*"))
        start = f", from {saved[-1]}" if saved else ""
        print(
            f"photochrom train: rank {silent} on {platform.node()} ended without a word, killed by somebody or for "
            f"want of memory; this goes on{start}: {command}",
            file=sys.stderr,
        )


def _is_there(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not asked after by its parent does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:  # it is there, and nothing more is known of it
        return True


def _command(pid: int) -> str:
    """The command line of a process, or what one may call it."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return "the same command"
    return shlex.join(words)


if __name__ == "__main__":
    main(*sys.argv[1:])
