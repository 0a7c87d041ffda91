"""The processor and NVIDIA DALI, as far as this process can use them. Imports neither DALI nor torch."""

import importlib.util
import os
import platform
import re
from contextlib import suppress
from pathlib import Path

INSTALL_DALI = (
    "pip install nvidia-dali-cuda130, or nvidia-dali-cuda120 for V100 and older drivers; both also run without a GPU"
)


def available_cpus() -> int:
    """Returns the number of CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """Returns the processor's model name as Linux or, elsewhere, Python reports it."""
    with suppress(OSError):
        if model := re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return model[1]
    return platform.processor() or platform.machine()


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error means that memory did not suffice, a GPU's or, also where torch says so, the machine's.

    torch has a class only for the former: a CPU's is a RuntimeError that names the allocator.
    """
    words = ("DefaultCPUAllocator", "bad_alloc", "can't start new thread")
    of_machine = isinstance(error, RuntimeError) and any(part in str(error) for part in words)
    return isinstance(error, MemoryError) or of_machine or type(error).__name__ == "OutOfMemoryError"


def has_dali() -> bool:
    """True where NVIDIA DALI is installed; it is not imported."""
    return importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None


def require_dali() -> None:
    """Raises ImportError that says what to install when DALI is missing or cannot be imported."""
    try:
        import nvidia.dali  # noqa: F401
    except ImportError as error:
        raise ImportError(f"NVIDIA DALI cannot be imported ({error}): {INSTALL_DALI}") from None
