"""Whether NVIDIA DALI is there, asked without loading it."""

import importlib.util

INSTALL_DALI = (
    "pip install nvidia-dali-cuda130, or nvidia-dali-cuda120 for V100 and older drivers; both also run without a GPU"
)


def has_dali() -> bool:
    return importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None


def require_dali() -> None:
    """Raises ImportError that says what to install when DALI is missing, or does not load."""
    try:
        import nvidia.dali  # noqa: F401
    except ImportError as error:
        raise ImportError(f"NVIDIA DALI cannot be imported ({error}): {INSTALL_DALI}") from None
