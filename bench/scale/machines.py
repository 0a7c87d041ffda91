"""Machines, read from files in which every figure has its source.

A key is a figure's name with its unit; `value` is a positive number, and `source` a measurement, a document, or what is
assumed, and then begins with that word.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from ...engine.configuration.parser import nearest

_FOLDER = "photochrom.bench.scale.machine_files"


@dataclass(frozen=True, kw_only=True)
class SourcedValue:
    """A number and where it is from."""

    value: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What one node is made of, and what joins nodes.

    Args:
        gpus: Devices of a node.
        fp32_peak, half_peak: Operations per second of one device, by its maker: in fp32, or TF32 where there is such,
            and in fp16 or bf16.
        fp32_attained, half_attained: Share of that which training reaches.
        cores: Processors that the system counts, of a node.
        core_speed: Of one of them, decoding while all are at work, over those on which photographs.yaml was measured.
        memory: Of a node; a set that fits into half of it is read from the disk once.
        disk: Reading.
        link, link_latency: Between devices of a node: bytes per second that a ring all-reduce moves through each of
            them, which NCCL's tests call bus bandwidth, and the time that a step of the ring takes at least.
        network, network_latency: The same between nodes, through all network cards of one.
        gpu_decode: Pixels of photographs that one device's decoder makes ready, where it is to decode.
        step_jitter, load_jitter: How much the times of steps and of batches scatter: standard deviation.
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
        """Every figure as its file has it."""
        return {key: {"value": figure.value, "source": figure.source} for key, figure in self._figures()}

    def _figures(self) -> Iterator[tuple[str, SourcedValue]]:
        for key, name in _KEYS.items():
            if figure := getattr(self, name):
                yield key, figure


_UNITS = {
    "TFLOP/s": ("fp32_peak", "half_peak"),
    "%": ("fp32_attained", "half_attained", "step_jitter", "load_jitter"),
    "GB": ("memory",),
    "MB/s": ("disk",),
    "GB/s": ("link", "network"),
    "us": ("link_latency", "network_latency"),
    "MP/s": ("gpu_decode",),
}
_NAMES = [each.name for each in fields(Machine) if each.name not in ("name", "about", "on_cores")]
_KEYS = {  # of a file, and the names they have here
    next((f"{name}({unit})" for unit, names in _UNITS.items() if name in names), name): name for name in _NAMES
}
_NEEDED = {key for key, name in _KEYS.items() if name not in ("half_peak", "half_attained", "gpu_decode")}


def known_machines() -> list[str]:
    """Names of the machines that come along."""
    return sorted(Path(file.name).stem for file in files(_FOLDER).iterdir() if file.name.endswith(".yaml"))


def load_machine(name: str) -> Machine:
    """A machine by its name or from a file. Raises ValueError for one that cannot be used."""
    if name not in known_machines():
        if not name.endswith(".yaml"):
            known = ", ".join(known_machines())
            raise ValueError(
                f"--machine {name} is neither a .yaml file nor a machine that comes along"
                f"{nearest(name, known_machines())}; known are {known}"
            )
        return _machine(Path(name).stem, _read(Path(name)), Path(name).name)
    return _machine(name, yaml.safe_load((files(_FOLDER) / f"{name}.yaml").read_text()), f"{name}.yaml")


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--machine {path} cannot be read ({error}): name a file that is there") from None
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise ValueError(f"--machine {path} is no YAML ({where}): begin with a copy of one that comes along") from None


def _machine(name: str, values: Any, file: str) -> Machine:
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds no figures: begin with a copy of one that comes along")
    about, on_cores = values.pop("about", ""), values.pop("on_cores", False)
    if not isinstance(about, str) or not isinstance(on_cores, bool):
        raise ValueError(f"{file}: about is a text, and on_cores true or false")
    return Machine(name=name, about=about, on_cores=on_cores, **figures_of(values, _KEYS, _NEEDED, file))


def figures_of(
    values: Mapping[str, Any], keys: Mapping[str, str], needed: set[str], where: str
) -> dict[str, SourcedValue]:
    """The figures of a mapping, by their names. Raises ValueError, naming file and key, for what is wrong with one."""
    if unknown := [key for key in values if key not in keys]:
        guess = nearest(str(unknown[0]), keys)
        raise ValueError(f"{where} has {unknown[0]!r}, which is unknown{guess}: known are {', '.join(keys)}")
    if missing := sorted(needed - values.keys()):
        raise ValueError(f"{where} lacks {missing[0]!r}: add it with a value and a source")
    return {keys[key]: _checked(entry, f"{where}, {key}") for key, entry in values.items()}


def _checked(entry: Any, where: str) -> SourcedValue:
    if not isinstance(entry, dict) or entry.keys() != {"value", "source"}:
        raise ValueError(f"{where}: write it as {{value: NUMBER, source: WHERE IT IS FROM}}")
    value, source = entry["value"], entry["source"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{where}: value {value!r} is not a positive number")
    if not isinstance(source, str) or not source.strip():
        raise ValueError(f"{where}: source is empty: name the measurement or document, or begin with 'assumed:'")
    return SourcedValue(value=float(value), source=source.strip())
