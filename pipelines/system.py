"""Processor, memory and NVIDIA DALI that this process can use. Imports neither DALI nor torch."""

import errno
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

INSTALL_DALI = (
    "pip install nvidia-dali-cuda130, or nvidia-dali-cuda120 for V100 and older drivers; both also run without a GPU"
)

# torch, oneDNN, cuDNN, cuBLAS and DALI raise RuntimeError; NumPy and libjpeg-turbo ValueError.
_NO_MEMORY = re.compile(
    r"DefaultCPUAllocator|bad_alloc|out of memory|OUT_OF_MEMORY|ALLOC_FAILED|could not create a (primitive|memory)|"
    r"Storage size calculation overflowed|can't start new thread",
    re.IGNORECASE,
)
_NO_MEMORY_OF_VALUES = re.compile(r"^array is too big|Maximum allowed dimension exceeded|Insufficient memory")


def available_cpus() -> int:
    """Returns the number of CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """Returns the processor's model name as Linux or, elsewhere, Python reports it."""
    with suppress(OSError):
        if model := re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return model[1]
    return platform.processor() or platform.machine()


def available_memory(root: Path = Path("/")) -> int:
    """Returns the bytes that this process can still take: of the machine, of its control groups and of its limit.

    `root` holds the system's folders proc and sys.
    """
    import psutil

    free = [psutil.virtual_memory().available, *_free_in_control_groups(root)]
    if sys.platform != "win32":
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        free += [limit - psutil.Process().memory_info().vms] * (limit != resource.RLIM_INFINITY)
    return max(0, min(free))


def _free_in_control_groups(root: Path) -> Iterator[int]:
    """Yields the free bytes of each control group, of version 1 or 2, that limits this process's memory."""
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        folder = top / path.lstrip("/")
        limit, used = ("limit_in_bytes", "usage_in_bytes") if controllers else ("max", "current")
        for group in (folder, *folder.parents):
            if group.is_relative_to(top):
                with suppress(OSError, ValueError):  # a container does not see all groups; "max" is no limit
                    statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                    cache = statistics.get("total_inactive_file", statistics.get("inactive_file", 0))
                    taken = int((group / f"memory.{used}").read_text()) - int(cache)
                    yield int((group / f"memory.{limit}").read_text()) - taken


def is_out_of_memory(error: BaseException) -> bool:
    """True if an error means that the machine or a GPU is out of memory.

    Libraries have errors of their own for that: only some raise MemoryError.
    """
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    words = _NO_MEMORY if isinstance(error, RuntimeError) else _NO_MEMORY_OF_VALUES
    says_so = isinstance(error, RuntimeError | ValueError) and bool(words.search(str(error)))
    return isinstance(error, MemoryError) or says_so


def has_dali() -> bool:
    """True where NVIDIA DALI is installed; it is not imported."""
    return importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None


def require_dali() -> None:
    """Raises ImportError that says what to install when DALI is missing or cannot be imported."""
    try:
        import nvidia.dali  # noqa: F401
    except ImportError as error:
        raise ImportError(f"NVIDIA DALI cannot be imported ({error}): {INSTALL_DALI}") from None
