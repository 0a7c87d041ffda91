"""The settings of a run: recipes and files by --config, then dotted options, which override them.

All sources become one flat dict: {"train.steps": 3, "loss": "Focal", "loss.base": "L2", "loss.base.beta": 2}.
Files are data: the classes that they name are looked up, never imported, and they cannot name other files of settings.
"""

import argparse
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

from ...pipelines.structured import read_yaml
from ..console import console
from .config import ClassSpec, ModelSpec, RunConfig, flatten
from .parser import Parser, alternatives, build, convert, nearest, parameters

_RECIPES = Path(__file__).parents[2] / "recipes"
_PARAMETERS = parameters(RunConfig)
_CLASSES = ("model", "loss", "optim")
_SECTIONS = {name: _PARAMETERS[name].annotation for name in _PARAMETERS if name not in ("out", "resume", *_CLASSES)}
_INIT = "model.init"
_DEFAULTS: dict[str, Any] = {name: _PARAMETERS[name].default.class_path for name in _CLASSES}
_KNOWN = ["out", "resume", *_CLASSES, _INIT]
_KNOWN += [f"{section}.{name}" for section in _SECTIONS for name in parameters(_SECTIONS[section])]
_CLASS_OPTIONS = tuple(f"--{name}." for name in _CLASSES)
_EPILOG = (
    "The settings of model, loss and optimizer are options, too: --model.width 0.5, --loss Focal --loss.base L2, "
    "--optim AdamW --optim.weight_decay 0.01. --model.help NAME, --loss.help NAME and --optim.help NAME list them."
)


class RunParser(Parser):
    """A parser with all settings of a run.

    Args:
        argv: The command line to parse: settings of models, losses and optimizers become options as they occur in it.
        options: Dataclass of the verb's own options, if it has any.
        skip: Settings that the verb sets itself.
    """

    def __init__(
        self, argv: list[str], *, options: type | None = None, skip: Collection[str] = (), **settings: Any
    ) -> None:
        super().__init__(epilog=_EPILOG, **settings)
        if options:
            self.add_options(options)
        self.add_argument(
            "--config",
            action="append",
            metavar="FILE",
            help=f"Recipe by name ({', '.join(_recipes())}), or a YAML file.",
        )
        self.add_argument("--plugin", metavar="MODULE", help="Python module to import first, for classes of your own.")
        self.add_settings(RunConfig, skip=[*_SECTIONS, *skip])
        self.add_settings(ModelSpec, "model.", skip=[f"model.{name}" for name in parameters(ClassSpec)])
        for name, section in _SECTIONS.items():
            self.add_settings(section, f"{name}.", skip=skip)
        class_options = {word.partition("=")[0] for word in argv if word.startswith(_CLASS_OPTIONS)}
        for option in class_options - {f"--{_INIT}"}:
            self.add_argument(option, help=argparse.SUPPRESS)

    def run_config(self, options: Mapping[str, Any]) -> RunConfig:
        """Returns the run that parsed options ask for; exits with one sentence if there is none."""
        from .registry import import_plugin  # imports torch: not needed for --help

        options = dict(options)
        try:
            import_plugin(options.pop("plugin", None))
            for name in _CLASSES:
                if f"{name}.help" in options:
                    _show_class(name, options[f"{name}.help"])
            files = [read_settings(_config_file(name)) for name in options.pop("config", [])]
            settings = reduce(_merge, _with_initial_model([_DEFAULTS, *files, options]))
            return run_config(settings, typed=options)
        except ValueError as error:
            self.error(str(error))


def run_config(settings: Mapping[str, Any], *, typed: Collection[str] = ()) -> RunConfig:
    """Returns the configuration of dotted settings. Those in `typed` may import the modules of classes that they name.

    Raises ValueError naming the setting and its value.
    """
    from .registry import CLASSES, check_optimizer, class_spec

    of_classes = {name: value for name, value in settings.items() if name != _INIT}
    values: dict[str, Any] = {
        name: class_spec(name, of_classes, *CLASSES[name], typed, known_settings=_KNOWN) for name in _CLASSES
    }
    init = convert(settings.get(_INIT), str | None, _INIT)
    values["model"] = ModelSpec(**asdict(values["model"]), init=init)
    check_optimizer(values["optim"])
    for name, section in _SECTIONS.items():
        names = {key: f"{name}.{key}" for key in parameters(section)}
        values[name] = build(section, {key: settings[names[key]] for key in names if names[key] in settings}, names)
    return build(RunConfig, values | {name: settings[name] for name in ("out", "resume") if name in settings})


def read_settings(path: Path) -> dict[str, Any]:
    """Returns the settings in a YAML file under dotted names. Raises ValueError when it holds anything else."""
    try:
        values = read_yaml(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no settings: see the recipes for examples")
    # {loss: {class_path: Focal, init_args: {base: L2}}} is short for {loss: Focal, loss.base: L2}.
    settings = {
        name.replace(".init_args.", ".").removesuffix(".class_path"): value for name, value in flatten(values).items()
    }
    for name, value in settings.items():
        if name not in _KNOWN and name.partition(".")[0] not in _CLASSES:
            raise ValueError(f"{path}: unknown setting {name}={value}{nearest(name, _KNOWN)}")
    return settings


def _with_initial_model(sources: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the sources, with the model of the initial weights before the source that names them.

    So it replaces the models of earlier sources, such as a recipe; settings in the source itself, and in later ones,
    override it.
    """
    settings = reduce(_merge, sources)
    if settings.get(_INIT) in (None, "null"):
        return list(sources)
    position = max(number for number, source in enumerate(sources) if _INIT in source)
    earlier = reduce(_merge, sources[:position])
    model = _initial_model(settings)
    values = {"model": model.class_path} | {f"model.{name}": value for name, value in model.init_args.items()}
    ours = {name: value for name, value in earlier.items() if name.startswith("model") and name != _INIT}
    replaced = [f"{name}={value}" for name, value in ours.items() if values.get(name) != value]
    if replaced and os.environ.get("RANK", "0") == "0":
        console.print(f"the model settings of {settings[_INIT]} replace {', '.join(replaced)}")
    return [{name: value for name, value in earlier.items() if name not in ours}, values, *sources[position:]]


def _initial_model(settings: Mapping[str, Any]) -> ClassSpec:
    """Returns the model of the run's own checkpoint if it is to be resumed, else that of the initial weights.

    A resumed run no longer needs the initial weights; they may be gone.
    """
    from ..checkpoints.checkpoint import CHECKPOINTS, MODEL, list_checkpoints
    from ..checkpoints.model_file import model_file, read_metadata

    resume = str(settings.get("resume", "auto"))
    if run := {"auto": settings.get("out"), "never": None}.get(resume, resume):
        for checkpoint in (Path(run), *list_checkpoints(Path(run) / CHECKPOINTS)):
            with suppress(ValueError):
                return read_metadata(checkpoint / MODEL).model
    return read_metadata(model_file(Path(settings[_INIT]))).model


def _merge(settings: dict[str, Any], newer: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings with newer ones; where another class is named, the settings of the old one go."""
    changed = tuple(f"{name}." for name in newer if settings.get(name) != newer[name])
    return {name: value for name, value in settings.items() if not name.startswith(changed)} | dict(newer)


def _recipes() -> dict[str, Path]:
    return {path.stem: path for path in sorted(_RECIPES.glob("*.yaml"))}


def _config_file(name: str) -> Path:
    """Returns the file that a value of --config means: a path, or a recipe by name."""
    recipes = _recipes()
    if Path(name).is_file():
        return Path(name)
    if name not in recipes:
        raise ValueError(f"--config {name} is neither a file nor a recipe{alternatives(name, recipes)}")
    return recipes[name]


def _show_class(setting: str, name: str) -> None:
    """Prints the settings of a model, a loss or an optimizer, and exits."""
    from .registry import CLASSES, find_class

    page = Parser(usage=argparse.SUPPRESS, add_help=False)
    page.add_settings(find_class(name, *CLASSES[setting], may_import=True), f"{setting}.")
    page.print_help()
    sys.exit(0)
