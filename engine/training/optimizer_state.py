"""The state of any optimizer under the names of its parameters, as checkpoints hold it."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ...pipelines.structured import validated

OPTIMIZER, WEIGHTS = "optimizer/", "weights/"  # prefixes in the state of a Trainer
GROUPS = "groups"


def optimizer_state_dict(optimizer: Optimizer, network: nn.Module) -> dict[str, Any]:
    """Returns {"block1.conv.weight/exp_avg": Tensor, ...}, and under "groups" what an optimizer keeps for all of them.

    The settings of the run, such as betas, are not part of it.
    """
    saved, names = optimizer.state_dict(), list(_names(optimizer, network))
    state = {f"{names[i]}/{key}": value for i, values in saved["state"].items() for key, value in values.items()}
    settings = inspect.signature(type(optimizer).__init__).parameters
    return {
        **state,
        GROUPS: [
            {key: value for key, value in group.items() if key not in settings} for group in saved["param_groups"]
        ],
    }


def load_optimizer_state_dict(optimizer: Optimizer, network: nn.Module, state: Mapping[str, Any]) -> None:
    """Restores the state; the settings stay those of `optimizer`. Raises ValueError for that of another network."""
    numbers = {name: number for number, name in enumerate(_names(optimizer, network))}
    by_number: dict[int, dict[str, Any]] = {}
    for name, value in state.items():
        parameter, _, key = name.rpartition("/")
        if name != GROUPS:
            if parameter not in numbers:
                raise ValueError(f"the optimizer's state is of another network: there is no weight {parameter}")
            by_number.setdefault(numbers[parameter], {})[key] = value
    ours = optimizer.state_dict()["param_groups"]
    theirs = validated(list[dict[str, Any]], state.get(GROUPS), "the optimizer's state")
    if len(ours) != len(theirs):
        raise ValueError(f"the optimizer's state has {len(theirs)} groups of weights, and this run has {len(ours)}")
    groups = [{**now, **saved, "params": now["params"]} for now, saved in zip(ours, theirs, strict=True)]
    optimizer.load_state_dict({"state": by_number, "param_groups": groups})
    for weight, values in optimizer.state.items():
        for key, value in values.items():
            # Perhaps saved in another memory format: fused kernels on GPUs need that of the weight.
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                values[key] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def _names(optimizer: Optimizer, network: nn.Module) -> Iterator[str]:
    """Yields the names of the parameters in the order in which torch numbers them."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    for group in optimizer.param_groups:
        yield from (names[parameter] for parameter in group["params"])
