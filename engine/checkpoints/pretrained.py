"""The models that come with Photochrom, by name: a model is shipped by putting NAME.safetensors into the folder."""

from pathlib import Path

DEFAULT = "small-l2"  # of `colorize` and `serve`

_FOLDER = Path(__file__).parents[2] / "models" / "pretrained"


def pretrained_models() -> dict[str, Path]:
    """Returns the shipped model files by name."""
    return {file.stem: file for file in sorted(_FOLDER.glob("*.safetensors"))}


def default_model() -> Path:
    """Returns the file of the default model, whatever the current folder holds. Raises ValueError without one."""
    if DEFAULT in (models := pretrained_models()):
        return models[DEFAULT]
    raise ValueError(f"the default model, {DEFAULT}, does not come with this installation: name a model with --model")


def is_shipped(file: Path) -> bool:
    """True for a file in the folder of shipped models."""
    return file.resolve().parent == _FOLDER.resolve()
