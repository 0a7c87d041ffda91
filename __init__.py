"""Photochrom: a data and training engine for automatic image colorization."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

if TYPE_CHECKING:
    from .engine.inference import load
else:  # hidden from type checkers, which would accept any name otherwise

    def __getattr__(name: str) -> object:
        # PEP 562: asking for the version does not import torch.
        if name == "load":
            from .engine.inference import load

            return load
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
