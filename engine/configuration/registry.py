"""Models, losses and optimizers by name: which classes a name may mean, their arguments, and how they are built."""

import importlib
import inspect
import os
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn
from torch.optim import Optimizer

from ...losses import LOSSES, ColorLoss
from ...losses.rebalancing import load_prior
from ...models import MODELS, Colorizer
from ...pipelines.structured import validated
from .config import ClassSpec
from .optimizers import OPTIMIZERS, UNSUPPORTED, adapt, make_optimizer
from .parser import UsageError, alternatives, convert, nearest, parameters

CLASSES: dict[str, tuple[type, dict[str, Any]]] = {
    "model": (Colorizer, MODELS),
    "loss": (ColorLoss, LOSSES),
    "optim": (Optimizer, OPTIMIZERS),
}


def build_model(spec: ClassSpec) -> Colorizer:
    """Builds the untrained model; see `find_class` for the classes that it may name."""
    model: Colorizer = _build(spec, Colorizer, MODELS)
    return model


def build_loss(spec: ClassSpec) -> ColorLoss:
    """Builds the loss, and the losses that it wraps; see `find_class` for the classes that it may name."""
    loss: ColorLoss = _build(spec, ColorLoss, LOSSES)
    return loss


def build_optimizer(spec: ClassSpec, weights: Iterable[nn.Parameter]) -> Optimizer:
    """Builds the optimizer of the weights; see `find_class` for the classes that it may name."""
    return make_optimizer(_checked_class(spec, Optimizer, OPTIMIZERS), weights, spec.init_args)


def check_optimizer(spec: ClassSpec) -> None:
    """Raises ValueError, naming the setting, when the optimizer cannot be built."""
    build_optimizer(spec, [nn.Parameter(torch.zeros(1, 1))])


def _checked_class(spec: ClassSpec, base: type, known: Mapping[str, type]) -> type[Any]:
    """Returns the spec's class. Raises ValueError when it does not take the spec's arguments."""
    cls = find_class(spec.class_path, base, known)
    try:
        inspect.signature(cls).bind(**spec.init_args)
    except TypeError as error:
        raise ValueError(f"{spec.class_path} cannot be made with {spec.init_args}: {error}") from None
    return cls


def _build(spec: ClassSpec, base: type, known: Mapping[str, type]) -> Any:
    cls = _checked_class(spec, base, known)
    arguments, wrapped = dict(spec.init_args), wrapped_losses(cls)
    for name, parameter in parameters(cls).items():
        if name in wrapped and isinstance(value := arguments.get(name), dict):
            try:
                arguments[name] = _build(validated(ClassSpec, value, name), wrapped[name], LOSSES)
            except ValueError as error:  # a wrapped loss names its settings loss.k, as if it were not wrapped
                raise ValueError(re.sub(r"^loss\.", f"loss.{name}.", str(error))) from None
        elif name in arguments and parameter.annotation is not parameter.empty:
            arguments[name] = validated(parameter.annotation, arguments[name], f"{spec.class_path}.{name}")
    try:
        return cls(**arguments)
    except (TypeError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{spec.class_path} cannot be made with {spec.init_args}: {error}") from error


def find_class(class_path: str, base: type, known: Mapping[str, type], *, may_import: bool = False) -> type[Any]:
    """Returns the subclass of `base` with that known name or import path.

    Without `may_import`, only modules that are imported already count: a path in a file must not run code.
    """
    if class_path in known:
        return known[class_path]
    module, _, name = class_path.rpartition(".")
    if may_import and module:
        _import(module, class_path)
    cls = getattr(sys.modules.get(module), name, None)
    if isinstance(cls, type) and issubclass(cls, base):
        return adapt(cls) if issubclass(cls, Optimizer) else cls  # type: ignore[arg-type]  # classes are hashable
    usable = [name for name, known_class in known.items() if not issubclass(known_class, UNSUPPORTED)]
    raise ValueError(
        f"{class_path} is not a known {base.__name__}{alternatives(class_path, usable)}, your own classes by "
        "their import path, once their module is imported (--plugin MODULE)"
    )


def class_spec(
    setting: str,
    values: Mapping[str, Any],
    base: type,
    known: Mapping[str, type],
    typed: Collection[str],
    *,
    known_settings: Collection[str] = (),
) -> ClassSpec:
    """Returns the class that `setting` names in `values`, with all its arguments.

    `values` has dotted names: {"loss": "Focal", "loss.base": "L2", "loss.gamma": "2"}. Only names in `typed`, which a
    person has typed, may import a module. Raises ValueError naming the setting and its value, and the one of its own or
    of `known_settings` that was perhaps meant.
    """
    class_path = values.get(setting)
    if class_path is None:
        raise ValueError(f"{setting} must be given")
    try:
        cls = find_class(str(class_path), base, known, may_import=setting in typed)
    except ValueError as error:
        raise ValueError(f"{setting}={error}") from None
    prefix = f"{setting}."
    given = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    signature, wrapped, init_args = inspect.signature(cls), wrapped_losses(cls), dict[str, Any]()
    for name, parameter in parameters(cls).items():
        value = given.get(name, parameter.default)
        if name in wrapped and (value is not None or any(other.startswith(f"{name}.") for other in given)):
            init_args[name] = asdict(class_spec(prefix + name, values, wrapped[name], LOSSES, typed))
        elif value is parameter.empty:
            raise ValueError(f"{prefix}{name} must be given")
        else:
            init_args[name] = convert(value, parameter.annotation, prefix + name) if name in given else value
    for name in given:
        if name not in init_args and name.partition(".")[0] not in wrapped:
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values()):
                guess = nearest(prefix + name, [*(prefix + other for other in init_args), *known_settings])
                raise ValueError(f"unknown setting {prefix}{name}{guess}")
            init_args[name] = convert(given[name], Any, prefix + name)
    short = {known_class: name for name, known_class in known.items()}
    return ClassSpec(class_path=short.get(cls, str(class_path)), init_args=init_args)


def with_prior(spec: ClassSpec, prior: list[float]) -> ClassSpec:
    """Returns the loss's spec with `prior` wherever an argument `prior` is None, and the numbers of named files.

    Raises ValueError when a named file holds no prior.
    """
    cls = find_class(spec.class_path, ColorLoss, LOSSES)
    arguments = dict(spec.init_args)
    for name in wrapped_losses(cls):
        if arguments.get(name) is not None:
            arguments[name] = asdict(with_prior(ClassSpec(**arguments[name]), prior))
    if "prior" in parameters(cls):
        given = prior if arguments.get("prior") is None else arguments["prior"]
        arguments["prior"] = load_prior(Path(given)) if isinstance(given, str) else given
    return replace(spec, init_args=arguments)


def spec_name(spec: ClassSpec) -> str:
    """Returns the class's name, with the losses that it wraps: Focal(L2)."""
    parts = [spec_name(ClassSpec(**value)) for value in spec.init_args.values() if is_spec(value)]
    return spec.class_path.rpartition(".")[2] + (f"({', '.join(parts)})" if parts else "")


def is_spec(value: Any) -> bool:
    """True for the plain dict of a ClassSpec."""
    return isinstance(value, dict) and "class_path" in value


def wrapped_losses(cls: type) -> dict[str, type[ColorLoss]]:
    """Returns the parameters of a constructor that are losses, or may be, with their classes."""
    return {
        name: part
        for name, parameter in parameters(cls).items()
        for part in (parameter.annotation, *get_args(parameter.annotation))
        if isinstance(part, type) and issubclass(part, ColorLoss)
    }


def import_plugin(module: str | None) -> None:
    """Imports the module that defines a user's own classes, if there is one."""
    if module is not None:
        _import(module, f"--plugin {module}")


def _import(module: str, label: str) -> None:
    """Imports a module that a person has named, also from the current folder, which is searched last."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        importlib.import_module(module)
    except (ImportError, TypeError, ValueError) as error:  # the last two for what is not a module's name
        raise UsageError(f"{label} cannot be imported: {error}") from None
