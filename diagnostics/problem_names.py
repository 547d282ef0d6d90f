"""Problems by name: `sinusoid`, or with parameters, `sinusoid[activation=relu,strength=50]`."""

import inspect
import re
from collections.abc import Callable

from diagnostics.problem import Problem
from diagnostics.registry import Registry, unknown

problems: Registry[Callable[..., Problem]] = Registry("problem", "diagnostics.problems")


def build(name: str, **overrides: object) -> Problem:
    """The problem that `name` or `name[parameter=value,...]` stands for; `overrides` that are not None come last.

    Raises `ValueError` for an unknown problem or parameter (with the nearest known) and for a value of the wrong kind.
    """
    builder_name, parameters = parse(name)
    builder = problems[builder_name]
    known = inspect.signature(builder).parameters
    for key in parameters:
        if key not in known:
            raise ValueError(unknown(f"parameter of problem {builder_name}", key, tuple(known)))
    chosen = {key: _convert(name, key, text, known[key].default) for key, text in parameters.items()}
    return builder(**chosen | {key: value for key, value in overrides.items() if value is not None})


def parse(name: str) -> tuple[str, dict[str, str]]:
    """`name[key=value,...]` taken apart; `ValueError` where it is not of that form."""
    match = re.fullmatch(r"([A-Za-z_]\w*)(?:\[([^\[\]]*)\])?", name.strip())
    pairs = [pair.partition("=") for pair in match[2].split(",")] if match and match[2] else []
    if match is None or any(not (key.strip() and equals and value.strip()) for key, equals, value in pairs):
        advice = "; in a path write %2C for a comma, %5B and %5D for brackets" if "/" in name else ""
        raise ValueError(f"problem: expected a name or name[parameter=value,...], found {name!r}{advice}")
    parameters = {key.strip(): value.strip() for key, _, value in pairs}
    if len(parameters) < len(pairs):
        raise ValueError(f"problem: expected each parameter once, found one twice in {name!r}")
    return match[1], parameters


def _convert(name: str, key: str, text: str, default: object) -> object:
    """The text as the kind of thing that the parameter's default is."""
    kinds: dict[type, tuple[Callable[[str], object], str]] = {int: (int, "whole number"), str: (str, "name")}
    convert, what = kinds.get(type(default), (float, "number"))
    try:
        return convert(text)
    except ValueError:
        raise ValueError(f"problem {name!r}: expected {key} to be a {what}, found {text!r}") from None
