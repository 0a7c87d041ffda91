"""Machines as YAML files in which every value has its source.

A key is a name with its unit. `value` is a positive number. `source` is a measurement or a document, or begins with
"assumed".
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml

from ...engine.configuration.parser import nearest

Precision = Literal["auto", "half", "fp32"]

ORIGINAL_MACHINE = "v100-n1-highmem-16"  # of the original project
_FOLDER = "photochrom.bench.scale.machine_files"


@dataclass(frozen=True, kw_only=True)
class SourcedValue:
    """A number and its source."""

    value: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A node and the network between nodes.

    Args:
        gpus: Devices of a node.
        fp32_peak, half_peak: Operations per second of one device, published by its maker: in fp32 (TF32 where
            available), and in fp16 or bf16.
        fp32_attained, half_attained: Share of the peak that training reaches.
        cores: Processors of a node, as the system counts them.
        core_speed: Decoding speed of a core while all are busy, relative to the machine of photographs.yaml.
        memory: Memory of a node; a set that fits into half of it is read from the disk once.
        disk: Read bandwidth.
        link, link_latency: Between devices of a node: bandwidth of a ring all-reduce through each device (the bus
            bandwidth of NCCL's tests), and the least time of a step of the ring.
        network, network_latency: The same between nodes, through all network cards of a node.
        gpu_decode: Pixels per second that one device's decoder decodes.
        step_jitter, load_jitter: Standard deviation of the times of steps and of batches.
        on_cores: The devices are the cores.
    """

    name: str
    about: str
    on_cores: bool = False
    gpus: SourcedValue
    fp32_peak: SourcedValue
    fp32_attained: SourcedValue
    half_peak: SourcedValue | None = None
    half_attained: SourcedValue | None = None
    cores: SourcedValue
    core_speed: SourcedValue
    memory: SourcedValue
    disk: SourcedValue
    link: SourcedValue
    link_latency: SourcedValue
    network: SourcedValue
    network_latency: SourcedValue
    gpu_decode: SourcedValue | None = None
    step_jitter: SourcedValue
    load_jitter: SourcedValue

    def sources(self) -> dict[str, Any]:
        """Returns every value and source under its key in the file."""
        return {key: {"value": item.value, "source": item.source} for key, item in self._items()}

    def _items(self) -> Iterator[tuple[str, SourcedValue]]:
        for key, name in _KEYS.items():
            if item := getattr(self, name):
                yield key, item


_UNITS = {
    "TFLOP/s": ("fp32_peak", "half_peak"),
    "%": ("fp32_attained", "half_attained", "step_jitter", "load_jitter"),
    "GB": ("memory",),
    "MB/s": ("disk",),
    "GB/s": ("link", "network"),
    "us": ("link_latency", "network_latency"),
    "MP/s": ("gpu_decode",),
}
_NAMES = [field.name for field in fields(Machine) if field.name not in ("name", "about", "on_cores")]
_KEYS = {  # key in a file to field
    next((f"{name}({unit})" for unit, names in _UNITS.items() if name in names), name): name for name in _NAMES
}
_REQUIRED = {key for key, name in _KEYS.items() if name not in ("half_peak", "half_attained", "gpu_decode")}


def known_machines() -> list[str]:
    """Returns the names of the machines in machine_files."""
    return sorted(Path(file.name).stem for file in files(_FOLDER).iterdir() if file.name.endswith(".yaml"))


def load_machine(name: str) -> Machine:
    """Returns a machine by its name or from a file. Raises ValueError for an unknown or invalid one."""
    if name not in known_machines():
        if not name.endswith(".yaml"):
            known = ", ".join(known_machines())
            raise ValueError(
                f"--machine {name} is neither a .yaml file nor a known machine"
                f"{nearest(name, known_machines())}; known are {known}"
            )
        return _machine(Path(name).stem, _read(Path(name)), Path(name).name)
    return _machine(name, yaml.safe_load((files(_FOLDER) / f"{name}.yaml").read_text()), f"{name}.yaml")


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--machine {path} cannot be read ({error}): name an existing file") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"--machine {path} is not YAML ({reason}): start from a copy of one in machine_files"
        ) from None


def _machine(name: str, values: Any, file: str) -> Machine:
    if not isinstance(values, dict):
        raise ValueError(f"{file} is not a mapping: start from a copy of one in machine_files")
    about, on_cores = values.pop("about", ""), values.pop("on_cores", False)
    if not isinstance(about, str) or not isinstance(on_cores, bool):
        raise ValueError(f"{file}: about must be text, and on_cores true or false")
    return Machine(name=name, about=about, on_cores=on_cores, **sourced_values(values, _KEYS, _REQUIRED, file))


def sourced_values(
    values: Mapping[str, Any], keys: Mapping[str, str], required: set[str], where: str
) -> dict[str, SourcedValue]:
    """Returns the values of a mapping by field. Raises ValueError that names the file and the invalid key."""
    if unknown := [key for key in values if key not in keys]:
        guess = nearest(str(unknown[0]), keys)
        raise ValueError(f"{where} has the unknown key {unknown[0]!r}{guess}: known are {', '.join(keys)}")
    if missing := sorted(required - values.keys()):
        raise ValueError(f"{where} lacks {missing[0]!r}: add it with a value and a source")
    return {keys[key]: _checked(entry, f"{where}, {key}") for key, entry in values.items()}


def _checked(entry: Any, where: str) -> SourcedValue:
    if not isinstance(entry, dict) or entry.keys() != {"value", "source"}:
        raise ValueError(f"{where}: write it as {{value: NUMBER, source: TEXT}}")
    value, source = entry["value"], entry["source"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{where}: value {value!r} is not a positive number")
    if not isinstance(source, str) or not source.strip():
        raise ValueError(f"{where}: source is empty: name the measurement or document, or start with 'assumed:'")
    return SourcedValue(value=float(value), source=source.strip())
