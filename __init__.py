"""Photochrom: a data and training engine for automatic image colorization."""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # PEP 562: `photochrom.load` without importing torch for those who only ask for the version.
    if name == "load":
        from .engine.inference import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
