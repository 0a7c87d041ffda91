"""Kornia's constants, made on each device once.

Kornia makes its matrices by `torch.tensor(numbers, device=...)` in every call. On a GPU each is a copy from pageable
memory, for which the host waits until the device has done all that it was given before.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def kornia_constants() -> AbstractContextManager[Any]:
    """Returns a context in which `torch.tensor(numbers, ...)` copies, on the device, the tensor of the first call.

    Code that is being compiled has its constants in the graph: there the context does nothing.
    """
    return nullcontext() if torch.compiler.is_compiling() else _Constants()


class _Constants(TorchFunctionMode):
    made: ClassVar[dict[str, Tensor]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not torch.tensor:
            return func(*args, **kwargs)
        key = f"{args} {kwargs}"
        if key not in self.made:
            with torch.inference_mode(False):  # it serves training, too
                self.made[key] = func(*args, **kwargs)
        return self.made[key].clone()  # its user may write to it
