"""From a specification, a class by name and its arguments, to a model or a loss; what such a name may mean."""

import importlib
import inspect
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from ...losses import LOSSES, ColorLoss
from ...losses.rebalancing import load_prior
from ...models import MODELS, Colorizer
from .config import ClassSpec, to_plain_dict


def build_model(spec: ClassSpec) -> Colorizer:
    """The untrained model; see `find_class` for what it may name."""
    model: Colorizer = _build(spec, Colorizer, MODELS)
    return model


def build_loss(spec: ClassSpec) -> ColorLoss:
    """The loss, and the losses that it wraps; see `find_class` for what it may name."""
    loss: ColorLoss = _build(spec, ColorLoss, LOSSES)
    return loss


def with_prior(spec: ClassSpec, prior: list[float]) -> ClassSpec:
    """The loss's specification, self-contained: `prior`, where it wants one and names none; no files.

    Raises ValueError when a file that is named as the prior holds none.
    """
    cls = find_class(spec.class_path, ColorLoss, LOSSES)
    arguments = {
        name: asdict(with_prior(ClassSpec(**value), prior))
        if name in wrapped_losses(cls) and value is not None
        else value
        for name, value in spec.init_args.items()
    }
    if "prior" in inspect.signature(cls).parameters:
        given = arguments.get("prior")
        arguments["prior"] = prior if given is None else load_prior(Path(given)) if isinstance(given, str) else given
    return replace(spec, init_args=arguments)


def resolved(spec: ClassSpec, known: Mapping[str, type]) -> dict[str, Any]:
    """A specification as plain values, its class's defaults included."""
    bound = inspect.signature(find_class(spec.class_path, object, known)).bind(**spec.init_args)
    bound.apply_defaults()
    return {"class_path": spec.class_path, **to_plain_dict(bound.arguments)}


def find_class(class_path: str, base: type, known: Mapping[str, type]) -> type[Any]:
    """The class of that name or import path.

    Only modules that are imported already are looked at: a path read from a file must not import, which runs code.
    """
    if class_path in known:
        return known[class_path]
    module, _, name = class_path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    if isinstance(found, type) and issubclass(found, base):
        return found
    raise ValueError(
        f"{class_path} is no known {base.__name__}; known are {', '.join(known)}, and your own once its module is "
        "imported (--plugin MODULE)"
    )


def argument_types(cls: type) -> dict[str, Any]:
    """The type of each argument of the constructor, those that it hands on to its bases' included."""
    types: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        constructor = vars(base).get("__init__")
        if inspect.isfunction(constructor):
            hints = get_type_hints(constructor)
            types |= {name: hints.get(name, Any) for name in list(inspect.signature(constructor).parameters)[1:]}
    return types


def wrapped_losses(cls: type) -> dict[str, type[ColorLoss]]:
    """Those arguments of a constructor that are losses, maybe None, with what each must be."""
    return {
        name: part
        for name, kind in argument_types(cls).items()
        for part in (get_args(kind) if get_origin(kind) in (Union, UnionType) else [kind])
        if isinstance(part, type) and issubclass(part, ColorLoss)
    }


def import_plugin(module: str | None) -> None:
    """Imports the module in which a user's own models and losses are defined, when one is named."""
    if module is None:
        return
    look_in_this_folder()
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"--plugin {module} cannot be imported: {error}") from None


def look_in_this_folder() -> None:
    """Lets modules of the current folder be imported, when a person has named one; never first, never unasked."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def _build(spec: ClassSpec, base: type, known: Mapping[str, type]) -> Any:
    found = find_class(spec.class_path, base, known)
    try:
        inspect.signature(found).bind(**spec.init_args)
    except TypeError as error:
        raise ValueError(f"{spec.class_path} cannot be made with {spec.init_args}: {error}") from None
    arguments = dict(spec.init_args)
    for name, kind in wrapped_losses(found).items():
        if isinstance(value := arguments.get(name), dict):
            try:
                arguments[name] = _build(ClassSpec(**value), kind, LOSSES)
            except ValueError as error:  # it names its own settings, loss.k, as if it were not wrapped
                raise ValueError(re.sub(r"^loss\.", f"loss.{name}.", str(error))) from None
    return found(**arguments)
