"""photochrom colorize CHECKPOINT INPUT... --out DIR"""

import time
from dataclasses import dataclass
from pathlib import Path

from ..colorize import colorize_files, plan
from ..config import Device, save_yaml
from ..console import console, progress_bar
from ..launch import resolve_device
from ..output import new_folder, write_json
from ..parser import parse_options
from ..specs import import_plugin
from ..weights import load_with_recipe


@dataclass(frozen=True, kw_only=True)
class ColorizeConfig:
    """Colorizes photographs at full resolution, their own lightness kept.

    Args:
        checkpoint: Run folder, checkpoint or model.safetensors.
        inputs: Photographs, or folders of them.
        out: New folder for the results.
        size: Short side in pixels at which the network sees a photograph; by default that of its training.
        device: auto, cuda or cpu.
        plugin: Python module to import first, when the model is one of your own.
    """

    checkpoint: Path
    inputs: list[str]
    out: Path
    size: int | None = None
    device: Device = "auto"
    plugin: str | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 8:
            raise ValueError(f"--size {self.size} is below 8, the network's stride")


def main(argv: list[str]) -> int:
    config = parse_options(ColorizeConfig, argv, prog="photochrom colorize", positional=("checkpoint", "inputs"))
    device = resolve_device(config.device)
    import_plugin(config.plugin)
    model, recipe = load_with_recipe(config.checkpoint, device)
    jobs = plan([Path(path) for path in config.inputs], config.out)
    started = time.perf_counter()
    with new_folder(config.out), progress_bar("colorizing", "photographs") as progress:
        failed = colorize_files(model, jobs, size=config.size or recipe.size, device=device, progress=progress)
        if len(failed) == len(jobs):
            raise ValueError(f"none of the {len(jobs)} files can be colorized: {failed[0][0]}: {failed[0][1]}")
    save_yaml(config, config.out / "config.yaml")
    summary = {
        "num_done": len(jobs) - len(failed),
        "num_failed": len(failed),
        "failed": [{"path": str(path), "reason": reason} for path, reason in failed],
        "seconds": round(time.perf_counter() - started, 3),
    }
    write_json(config.out / "summary.json", summary)
    print(f"{config.out}: {summary['num_done']} photographs colorized in {summary['seconds']:.1f} s")
    for path, reason in failed:
        console.print(f"not colorized: {path}: {reason}")
    named = {Path(path) for path in config.inputs}  # what a folder holds besides is no failure
    return 1 if any(path in named for path, _ in failed) else 0
