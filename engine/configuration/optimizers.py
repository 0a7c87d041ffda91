"""Optimizers of torch, as a run uses them: their settings, and one that skips an update on the device."""

import inspect
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache, reduce
from operator import or_
from types import GenericAlias, UnionType
from typing import Any, Union, get_args, get_origin

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from .config import RunConfig

# The weights, how an update is computed, and its direction.
_NOT_SETTINGS = ("params", "fused", "foreach", "capturable", "differentiable", "maximize")
# torch keeps its compiler out of these methods by decorators that import it, which takes 2 s of CPU at the start of
# every process; none of them is ever compiled here.
_DECORATED = ("zero_grad", "add_param_group", "state_dict", "load_state_dict")
_UNSUPPORTED = {
    torch.optim.LBFGS: "it computes the loss several times per step",
    torch.optim.SparseAdam: "it is for sparse gradients, which no colorizer has",
}


UNSUPPORTED = tuple(_UNSUPPORTED)


@cache
def adapt(cls: type[Any]) -> type[Any]:
    """Returns a subclass whose signature holds the settings alone, and which does not import the compiler."""
    signature = inspect.signature(cls, eval_str=True)
    defaults = RunConfig.optim.init_args if cls is torch.optim.Adam else {}
    settings = [
        parameter.replace(
            annotation=_without_tensors(parameter.annotation), default=defaults.get(name, parameter.default)
        )
        for name, parameter in signature.parameters.items()
        if name not in _NOT_SETTINGS
    ]
    members: dict[str, Any] = {
        "__signature__": signature.replace(parameters=settings),
        "__doc__": _arguments_doc(cls),
    }
    if cls.__module__.startswith("torch.optim."):
        members |= {name: inspect.unwrap(getattr(cls, name)) for name in _DECORATED}
        members["step"] = torch.no_grad()(inspect.unwrap(cls.step))
    return type(cls.__name__, (cls,), members)


def _without_tensors(annotation: Any) -> Any:
    """Returns a type without the tensors in its unions: float | Tensor becomes float."""
    parts = tuple(_without_tensors(part) for part in get_args(annotation) if part is not Tensor)
    if get_origin(annotation) in (Union, UnionType):
        return reduce(or_, parts)
    return GenericAlias(tuple, parts) if get_origin(annotation) is tuple else annotation


def _arguments_doc(cls: type) -> str:
    """Returns the part of a docstring that explains the arguments, without their defaults and what follows these."""
    arguments = inspect.cleandoc(cls.__doc__ or "").partition("\nArgs:")[2].partition("\n\n")[0]
    return f"{cls.__name__}.\n\nArgs:" + re.sub(r"(?s)\.?\s*\(default: .*?(?=\n {4}\S|\Z)", ".", arguments)


OPTIMIZERS = {
    name: adapt(cls)  # type: ignore[arg-type]  # classes are hashable
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type) and issubclass(cls, Optimizer) and cls is not Optimizer
}


def make_optimizer(cls: type[Optimizer], parameters: Iterable[nn.Parameter], settings: Mapping[str, Any]) -> Optimizer:
    """Returns an adapted optimizer of the parameters, the fused one where torch has it.

    A fused optimizer skips an update on the device, as a GradScaler tells it to. Raises ValueError naming the setting
    that the class refuses, or a learning rate that is not positive.
    """
    for unsupported, reason in _UNSUPPORTED.items():
        if issubclass(cls, unsupported):
            raise ValueError(f"optim={cls.__name__} cannot train here: {reason}")
    weights = list(parameters)
    has_fused = "fused" in inspect.signature(cls.__init__).parameters
    # With dampening, momentum buffers that start as zeros, as below, do not give torch's updates.
    switches: dict[str, Any] = {"fused": True} if has_fused and not settings.get("dampening") else {}
    try:
        optimizer = cls(weights, **settings, **switches)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{_refused_setting(cls, weights, settings)}: {error}") from None
    lr = optimizer.defaults.get("lr")
    if not (isinstance(lr, int | float) and lr > 0):
        raise ValueError(f"optim.lr={lr} is not a positive number")
    if isinstance(optimizer, SGD) and switches and optimizer.defaults["momentum"]:
        for weight in weights:  # a fused SGD that skips its first update leaves the buffers without values
            optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return optimizer


def _refused_setting(cls: type[Optimizer], weights: list[nn.Parameter], settings: Mapping[str, Any]) -> str:
    """Returns the setting without which the optimizer can be built, or the optimizer where there is no such setting."""
    for name, value in settings.items():
        with suppress(ValueError, TypeError):
            cls(weights, **{other: settings[other] for other in settings if other != name})
            return f"optim.{name}={value}"
    return f"optim={cls.__name__}"
