"""Tensors that are made once, and are constants of compiled code."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def constant(make: Callable[P, T]) -> Callable[P, T]:
    """Caches a function's results; compiled code takes them as constants and does not trace the function."""
    cached: Any = cache(torch.inference_mode(False)(make))  # results must serve training, too

    @wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return cached(*args, **kwargs)

    # As torch.compiler.assume_constant_result does, without the second that importing the compiler takes.
    vars(call)["_dynamo_marked_constant"] = True
    return call
