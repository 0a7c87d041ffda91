"""Ranges of numeric options, both ends included; larger numbers overflow in some library."""

from typing import Any

COUNT = (1, 2**31 - 1)
COUNT_OR_ZERO = (0, 2**31 - 1)
POSITIVE = (1e-12, 1e12)
SEED = (0, 2**63 - 1)
SECONDS = (1e-3, 1e6)  # 11 days: poll() counts milliseconds in 32 bits
SIDE = (1, 65_536)  # pixels
WORKERS = (1, 4096)  # processes or threads


def check_ranges(config: Any, section: str = "", **ranges: tuple[float, float]) -> None:
    """Raises ValueError, naming the option or the section's setting, when a field of `config` is outside its range.

    None and text are allowed. Of a list, every number is checked.
    """
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        for number in value if isinstance(value, list) else [value]:
            if number is None or isinstance(number, str) or low <= number <= high:
                continue
            shown = f"{section}.{name}={number}" if section else f"--{name.replace('_', '-')} {number}"
            if number < 0 == low:
                raise ValueError(f"{shown} is negative")
            if number <= 0 < low and high > 1000:
                raise ValueError(f"{shown} is not a positive number")
            raise ValueError(f"{shown} is not between {low:,} and {high:,}")
