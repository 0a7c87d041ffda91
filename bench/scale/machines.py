"""Machines, and the costs of photographs, as YAML files in which every value has its source.

A key is a name with its unit. `value` is a positive number. `source` is a measurement or a document, or begins with
"assumed".
"""

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from ...engine.configuration.parser import alternatives, nearest
from ...pipelines.structured import read_yaml

Precision = Literal["auto", "half", "fp32"]
Stored = Literal["original-recipe", "originals", "packed", "lab"]

ORIGINAL_MACHINE = "v100-n1-highmem-16"  # of the original project
_FIX = "start from a copy of a file in bench/scale/machine_files"
_FOLDER = files("photochrom.bench.scale.machine_files")
_PHOTOGRAPHS = files("photochrom.bench.scale") / "photographs.yaml"


class FileModel(BaseModel):
    """A strict mapping of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_by_name=True, validate_by_alias=True)


M = TypeVar("M", bound=FileModel)


class SourcedValue(FileModel):
    """A number and its source."""

    value: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    source: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Machine(FileModel):
    """A node and the network between nodes. Aliases are the keys of files.

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
        device_memory: Bandwidth of one device's memory, published by its maker.
        multiprocessors, compute_capability: Of one device, for Inductor, which chooses kernels by them.
        step_jitter, load_jitter: Standard deviation of the times of steps and of batches.
        on_cores: The devices are the cores.
    """

    name: str
    about: str = ""
    on_cores: bool = False
    gpus: SourcedValue
    fp32_peak: SourcedValue = Field(alias="fp32_peak(TFLOP/s)")
    fp32_attained: SourcedValue = Field(alias="fp32_attained(%)")
    half_peak: SourcedValue | None = Field(None, alias="half_peak(TFLOP/s)")
    half_attained: SourcedValue | None = Field(None, alias="half_attained(%)")
    cores: SourcedValue
    core_speed: SourcedValue
    memory: SourcedValue = Field(alias="memory(GB)")
    disk: SourcedValue = Field(alias="disk(MB/s)")
    link: SourcedValue = Field(alias="link(GB/s)")
    link_latency: SourcedValue = Field(alias="link_latency(us)")
    network: SourcedValue = Field(alias="network(GB/s)")
    network_latency: SourcedValue = Field(alias="network_latency(us)")
    gpu_decode: SourcedValue | None = Field(None, alias="gpu_decode(MP/s)")
    device_memory: SourcedValue | None = Field(None, alias="device_memory(GB/s)")
    multiprocessors: SourcedValue | None = None
    compute_capability: SourcedValue | None = None
    step_jitter: SourcedValue = Field(alias="step_jitter(%)")
    load_jitter: SourcedValue = Field(alias="load_jitter(%)")

    def sources(self) -> dict[str, Any]:
        """Returns every value and source under its key in the file."""
        settings: dict[str, Any] = self.model_dump(by_alias=True, exclude_none=True)
        return {key: value for key, value in settings.items() if key not in ("name", "about", "on_cores")}


class Photograph(FileModel):
    """Costs of reading and decoding a photograph in a storage format.

    Args:
        what: Photographs and loader that were measured.
        on_device: A GPU with a decoder can decode it.
        size: Pixels in millions.
        bytes: Stored bytes in KB.
        cpu: Time of one core to decode it to Lab, in ms.
    """

    what: str
    on_device: bool
    size: SourcedValue = Field(alias="size(MP)")
    bytes: SourcedValue = Field(alias="bytes(KB)")
    cpu: SourcedValue = Field(alias="cpu(ms)")


def known_machines() -> list[str]:
    """Returns the names of the machines in machine_files."""
    return sorted(Path(file.name).stem for file in _FOLDER.iterdir() if file.name.endswith(".yaml"))


def check_machine(name: str) -> None:
    """Raises ValueError when `name` is neither a known machine nor a .yaml file."""
    known = known_machines()
    if name not in known and not name.endswith(".yaml"):
        raise ValueError(f"--machine {name} is neither a .yaml file nor a known machine{alternatives(name, known)}")


def load_machine(name: str) -> Machine:
    """Returns a machine by its name or from a file. Raises ValueError for an unknown or invalid one."""
    check_machine(name)
    file = Path(str(_FOLDER / f"{name}.yaml")) if name in known_machines() else Path(name)
    try:
        values = read_yaml(file)
    except OSError as error:
        raise ValueError(f"--machine {name} cannot be read ({error}): {_FIX}") from None
    except ValueError as error:
        raise ValueError(f"--machine {error}: {_FIX}") from None
    if not isinstance(values, dict):
        raise ValueError(f"--machine {name} is not a mapping: {_FIX}")
    return validated(Machine, values | {"name": Path(name).stem}, file.name)


def validated(model: type[M], values: dict[str, Any], file: str) -> M:
    """Returns the values as a model. Raises ValueError that names the file and the invalid key."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        known = [field.alias or name for name, field in model.model_fields.items()]
        guess = nearest(str(fault["loc"][0]), known) if fault["type"] == "extra_forbidden" else ""
        reason = f"{fault['msg']}{guess}; a value is {{value: NUMBER, source: TEXT}}"
        raise ValueError(f"{file}: {', '.join(map(str, fault['loc']))}: {reason}") from None


def load_photograph(stored: Stored) -> Photograph:
    """Returns the costs of a storage format."""
    formats = yaml.safe_load(_PHOTOGRAPHS.read_text())
    return validated(Photograph, formats[stored], "photographs.yaml")
