"""Pages of HTML: they share a frame and a look, and escape whatever they are given."""

from typing import Any

import jinja2

_SHARED = "photochrom.engine.evaluation"


def render(package: str, name: str, **values: Any) -> str:
    """The page of that name in the package's templates/, filled in; it may build on those of the engine."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(each) for each in dict.fromkeys((package, _SHARED))]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name).render(values)
