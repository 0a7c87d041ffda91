"""The settings of a run: recipes and files by --config, then dotted options, which override them.

All sources become one flat dict: {"train.steps": 3, "loss": "Focal", "loss.base": "L2", "loss.base.beta": 2}.
Files are data: what they name is looked up, never imported, and they cannot name other files.
"""

import argparse
from collections.abc import Collection, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from .config import RunConfig
from .parser import Argument, Parser, build, constructor_arguments, description, help_text, metavar, nearest

_CLASSES = ("model", "loss")
_SPEC_KEYS = {"class_path", "init_args"}
_ARGUMENTS = constructor_arguments(RunConfig)
_SECTIONS: dict[str, type[Any]] = {
    name: argument.type for name, argument in _ARGUMENTS.items() if name not in ("out", "resume", *_CLASSES)
}
_SETTINGS: dict[str, Argument] = {
    **{name: argument for name, argument in _ARGUMENTS.items() if name not in _SECTIONS},
    **{
        f"{section}.{name}": argument
        for section, config in _SECTIONS.items()
        for name, argument in constructor_arguments(config).items()
    },
}
_DEFAULTS = {name: _ARGUMENTS[name].default.class_path for name in _CLASSES}
_EPILOG = (
    "The settings of a model or loss are options, too: --model.width 0.5, --loss Focal --loss.base L2. "
    "--model.help NAME and --loss.help NAME list them."
)


class RunParser(Parser):
    """A parser with all settings of a run, except those named in `skip`.

    Args:
        argv: The command line to parse: settings of models and losses become options as they occur in it.
        skip: Settings that the verb sets itself.
    """

    def __init__(self, argv: list[str], *, skip: Collection[str] = (), **settings: Any) -> None:
        super().__init__(epilog=_EPILOG, **settings)
        self.add_argument("--config", action="append", metavar="FILE", help="Recipe by name, or a YAML file.")
        self.add_argument("--plugin", metavar="MODULE", help="Python module to import first, for classes of your own.")
        groups = {name: self.add_argument_group(name, description(config)) for name, config in _SECTIONS.items()}
        for name, argument in _SETTINGS.items():
            if name not in skip:
                shown = "NAME" if name in _CLASSES else metavar(argument.type)
                group = groups.get(name.partition(".")[0], self)
                group.add_argument(f"--{name}", type=_word, metavar=shown, help=help_text(argument))
        for name in _CLASSES:
            self.add_argument(f"--{name}.help", action=_ShowClass, metavar="NAME", help="List its settings.")
        for option in {word.partition("=")[0] for word in argv if word.startswith(("--model.", "--loss."))}:
            if option not in self._option_string_actions:
                self.add_argument(option, type=_word, help=argparse.SUPPRESS)

    def run_config(self, options: Mapping[str, Any]) -> RunConfig:
        """Returns the run that parsed options ask for; exits with one sentence if there is none."""
        from .registry import import_plugin  # imports torch: not needed for --help

        options = dict(options)
        try:
            import_plugin(options.pop("plugin", None))
            settings: dict[str, Any] = dict(_DEFAULTS)
            for name in options.pop("config", []):
                settings = _merge(settings, read_settings(_config_file(name)))
            return run_config(_merge(settings, options), typed=options)
        except ValueError as error:
            self.error(str(error))


def run_config(settings: Mapping[str, Any], *, typed: Collection[str] = ()) -> RunConfig:
    """Returns the configuration of dotted settings. Those in `typed` may import the modules of classes that they name.

    Raises ValueError naming the setting and its value.
    """
    from .registry import class_spec

    values: dict[str, Any] = {name: class_spec(name, settings, typed=typed) for name in _CLASSES}
    for name, config in _SECTIONS.items():
        section = {key.partition(".")[2]: value for key, value in settings.items() if key.startswith(f"{name}.")}
        values[name] = build(config, section, names={key: f"{name}.{key}" for key in constructor_arguments(config)})
    values |= {name: settings[name] for name in ("out", "resume") if name in settings}
    return build(RunConfig, values)


def read_settings(path: Path) -> dict[str, Any]:
    """Returns the settings in a YAML file under dotted names. Raises ValueError when it holds anything else."""
    try:
        with path.open() as file:
            values = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not a YAML file: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no settings: see the recipes for examples")
    settings: dict[str, Any] = {}
    for name, value in values.items():
        if name in _CLASSES:
            settings |= _class_settings(path, name, value)
        elif isinstance(value, dict):
            settings |= {f"{name}.{key}": setting for key, setting in value.items()}
        else:
            settings[name] = value
    for name in settings:
        if name not in _SETTINGS and name.partition(".")[0] not in _CLASSES:
            raise ValueError(f"{path}: unknown setting {name}={settings[name]}{nearest(name, _SETTINGS)}")
    return settings


def _class_settings(path: Path, name: str, value: Any) -> dict[str, Any]:
    """Returns a class in a file, a name or class_path and init_args, under dotted names."""
    if not isinstance(value, dict):
        return {name: value}
    arguments = value.get("init_args", {})
    if not value.keys() <= _SPEC_KEYS or not isinstance(arguments, dict):
        raise ValueError(f"{path}: {name}={value} is neither a name nor class_path and init_args")
    settings = {name: value["class_path"]} if "class_path" in value else {}
    for key, argument in arguments.items():
        settings |= _class_settings(path, f"{name}.{key}", argument)
    return settings


def _merge(settings: dict[str, Any], newer: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings with newer ones; where another class is named, the settings of the old one go."""
    changed = tuple(f"{name}." for name in newer if settings.get(name) != newer[name])
    return {name: value for name, value in settings.items() if not name.startswith(changed)} | dict(newer)


def _config_file(name: str) -> Path:
    """Returns the file that a value of --config means: a path, or a recipe by name."""
    recipes = {Path(file.name).stem: Path(str(file)) for file in files("photochrom.recipes").iterdir()}
    recipes = {stem: path for stem, path in recipes.items() if path.suffix == ".yaml"}
    if Path(name).is_file():
        return Path(name)
    if name not in recipes:
        guess, known = nearest(name, recipes) or ".", ", ".join(sorted(recipes))
        raise ValueError(f"--config {name} is neither a file nor a recipe{guess} Known are {known}")
    return recipes[name]


def _word(text: str) -> Any:
    """Returns the value of a typed word: null and lists as in YAML, else the text, which its type converts."""
    if text != "null" and text[:1] not in ("[", "{"):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"{text} is not a list in YAML, such as [0.5, 1]") from None


class _ShowClass(argparse.Action):
    """Prints the settings of a model or a loss, and exits."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, name: Any, option: str | None = None) -> None:
        from .registry import CLASSES, find_class

        setting = self.dest.removesuffix(".help")
        try:
            cls = find_class(name, *CLASSES[setting], may_import=True)
        except ValueError as error:
            parser.error(f"{option} {error}")
        shown = argparse.ArgumentParser(usage=argparse.SUPPRESS, description=description(cls), add_help=False)
        for argument_name, argument in constructor_arguments(cls).items():
            shown.add_argument(f"--{setting}.{argument_name}", metavar=metavar(argument.type), help=help_text(argument))
        shown.print_help()
        parser.exit()
