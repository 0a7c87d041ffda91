"""Command-line parsers: jsonargparse, with errors of one sentence that offer the nearest name."""

import dataclasses
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import docstring_parser
import jsonargparse

from ..console import console

T = TypeVar("T")


class Parser(jsonargparse.ArgumentParser):
    """Exits with 2 and one sentence on bad usage.

    `known` names settings that are not options of their own, such as those of a model.
    """

    known: Iterable[str] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser within the parser, for one class's arguments
            super().error(message, ex)
        names = [option[2:] for action in self._actions for option in action.option_strings if option.startswith("--")]
        if os.environ.get("RANK", "0") == "0":  # every process that a launcher starts has read the same
            sentence = _in_one_sentence(message, [*names, *self.known])
            console.print(f"{self.prog}: {sentence} ('{self.prog} --help' explains)")
        sys.exit(2)


def parse_options(config: type[T], argv: list[str], *, prog: str, positional: Iterable[str] = ()) -> T:
    """The dataclass `config` filled from a command line: an option, --with-dashes, for each of its fields.

    Help is taken from the docstring's Args. Fields named in `positional` are positional arguments; lists take one or
    more values, booleans none.
    """
    doc = docstring_parser.parse(config.__doc__ or "")
    parser = Parser(prog=prog, description=doc.description)
    texts = {param.arg_name: param.description for param in doc.params}
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        hint, default = hints[field.name], field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        options: dict[str, Any] = {"help": texts[field.name]}
        if hint is bool:
            options |= {"action": "store_true"}
        elif get_origin(hint) is list:
            needed = field.name not in positional or default is dataclasses.MISSING
            options |= {"nargs": "+" if needed else "*", "type": get_args(hint)[0]}
        else:
            options |= {"type": hint}
        if field.name in positional:
            fallback = {} if default is dataclasses.MISSING else {"default": default}
            parser.add_argument(field.name, **options, **fallback)
        elif default is dataclasses.MISSING:
            parser.add_argument(_option(field.name), required=True, **options)
        else:
            parser.add_argument(_option(field.name), default=default, **options)
    values = vars(parser.parse_args(argv))
    try:
        return config(**values)
    except ValueError as error:  # a setting out of its range
        parser.error(str(error))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean X?' for the known name most like `name`, or nothing."""
    found = difflib.get_close_matches(name, [other for other in known if other != name], n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""


def _unknown(name: str, known: list[str]) -> str:
    return f"unknown setting {name}{nearest(name, known)}"


_NESTED = r'Parser key "([\w.]+)": Problem with given class_path \S+ Parser key "([\w.]+)"'

# What jsonargparse says over several lines, and how a person would say it.
_PHRASES: list[tuple[str, Callable[[re.Match[str], list[str]], str]]] = [
    (r"unrecognized arguments: --([\w.-]+)", lambda m, known: _unknown(m[1], known)),
    (r"unrecognized arguments: (.+)", lambda m, known: f"{m[1]} is one argument too many"),
    (r"Group '(\S+)' does not accept option '(\S+)'", lambda m, known: _unknown(f"{m[1]}.{m[2]}", known)),
    (r'Parser key "(\S+)".*Option \'(\S+)\' is not accepted', lambda m, known: _unknown(f"{m[1]}.{m[2]}", known)),
    (r"Option '(\S+)' is not accepted", lambda m, known: _unknown(m[1], known)),
    (
        r'Parser key "(\S+)": Problem with given .* the following arguments are required: (\S+)',
        lambda m, known: f"{m[1]}.{m[2]} must be given",
    ),
    (
        r'Parser key "(\S+)": Expected an instantiatable class',
        lambda m, known: f"{m[1]} must be named before its settings are given: --{m[1]} NAME",
    ),
    (
        r"the following arguments are required: (.+)",
        lambda m, known: (
            f"{', '.join(f'--{name}' if name in known else name for name in m[1].split(', '))} must be given"
        ),
    ),
    (
        r'Parser key "(\S+)".*Expected an? (.+?)\. Got value: (.*)',
        lambda m, known: f"{m[1]}={m[3]} is not {_type(m[2])}",
    ),
    (
        r'Parser key "(\S+)".*Subtypes: \[(.+)\] Errors:.*Given value: (.*)',
        lambda m, known: f"{m[1]}={m[3]} is not {' or '.join(map(_type, re.split(', (?=<|typing)', m[2])))}",
    ),
    (r'Parser key "(\S+)".*Import path (\S+) (does not .*)', lambda m, known: f"{m[1]}={m[2]} {m[3]}"),
    (
        r'Parser key "(\S+)".*Multiple subclasses with name (\S+)\. Give .*: (.*)\.',
        lambda m, known: f"{m[1]}={m[2]} is the name of several classes: say which, {' or '.join(m[3].split(', '))}",
    ),
    (
        r'Parser key "(\S+)".*Expected a dot import path string: (\S+)',
        lambda m, known: (
            f"{m[1]}={m[2]} is no known name, and no import path such as my_module.MyClass{nearest(m[2], known)}"
        ),
    ),
    (
        r"Parser key \"(\S+)\".*class_path '(\S+)': (No module named .*)",
        lambda m, known: f"{m[1]}={m[2]} cannot be imported: {m[3]}",
    ),
]

_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "NoneType": "null",
    "tuple": "a list such as [0.5, 1]",
}


def _type(text: str) -> str:
    """A type as a person would name it: "<class 'int'>", "typing.Literal['a', 'b']"."""
    if text.startswith("typing.Literal"):
        choices = re.findall(r"'([^']*)'", text)
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    name = re.sub(r"<?class |[<>']", "", text)
    return _TYPES.get(name, f"a {name}")


def _in_one_sentence(message: str, known: list[str]) -> str:
    # Of nested keys, jsonargparse names one after the other: loss, base and k instead of loss.base.k.
    text = " ".join(message.split())
    while (joined := re.sub(_NESTED, r'Parser key "\1.\2"', text)) != text:
        text = joined
    for pattern, phrase in _PHRASES:
        if match := re.search(pattern, text):
            return phrase(match, known)
    return text
