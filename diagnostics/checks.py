"""Checks of what a user gave: the value, or one line that says what was expected, what was found, and what to do."""

import math


def whole_number(name: str, value: object, least: int) -> int:
    """`value` if it is a whole number >= `least`, or else `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: expected a whole number >= {least}, found {value!r}")
    return value


def at_least(name: str, value: object, least: float) -> float:
    """`value` if it is a finite number >= `least`, or else `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= least):
        raise ValueError(f"{name}: expected a finite number >= {least:g}, found {value!r}")
    return float(value)


def positive(name: str, value: object) -> float:
    """`value` if it is a finite number above zero, or else `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}: expected a finite number > 0, found {value!r}")
    return float(value)


def one_of(name: str, value: object, known: tuple[str, ...]) -> str:
    """`value` if it is one of `known`, or else `ValueError` that lists them."""
    if value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(known)}, found {value!r}")
    return str(value)
