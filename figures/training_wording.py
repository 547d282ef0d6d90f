"""Means with half intervals, and what can be told from them, in words."""

from collections.abc import Sequence
from math import floor, isfinite, isinf, isnan, log10

from figures.wording import listed, steps_of

ROUNDING = 1e-9  # a smaller interval, relative to the mean, is that of seeds that agree
BETTER, WORSE, SAME, UNCLEAR, NO_NUMBER = "better", "worse", "same", "unclear", "no number"
NEGLIGIBLE = 1e-3  # of a loss, or in accuracy: an interval within so little of 0 says that there is no difference


def with_half(mean: float, half: float, *, percent: bool = False, sign: bool = False) -> str:
    """`0.153 +- 0.021`, the interval with two digits and the mean with as many places; three digits without one.

    With `percent` a fraction in percent, and a difference (`sign`) in points of it.
    """
    if isnan(mean):
        return "unknown"
    if isinf(mean):
        return "infinite" if mean > 0 else "minus infinite"
    factor, unit = (100, " points" if sign else "%") if percent else (1, "")
    mean, half = factor * mean, factor * half
    plus = "+" if sign else ""
    if not isfinite(half) or half <= ROUNDING * abs(mean):
        plus = plus if mean else ""
        return f"{float(f'{mean:.3g}'):{plus}g}{'' if unit == ' points' and not isnan(half) else unit}" + (
            "" if isnan(half) else f" +- 0{unit}"
        )
    places = 1 - floor(log10(half))
    if places > 5:
        return f"{mean:{plus}.2e}{unit} +- {half:.1e}{unit}"
    mean, half, places = round(mean, places) + 0.0, round(half, places), max(places, 0)
    if percent and sign:
        return f"{mean:{plus}.{places}f} +- {half:.{places}f}{unit}"
    return f"{mean:{plus}.{places}f}{unit} +- {half:.{places}f}{unit}"


def judged(mean: float, half: float, better: float, negligible: float = 0.0) -> str:
    """What a difference with its half interval says: `BETTER`, `WORSE`, `SAME`, `UNCLEAR` or `NO_NUMBER`.

    `better` is the sign of a change for the better; `SAME` is an interval within `negligible` of 0. An infinite loss is
    worse than any other, for certain.
    """
    if isnan(mean):
        return NO_NUMBER
    if isinf(mean):
        return BETTER if mean * better > 0 else WORSE
    if abs(mean) + half <= negligible:
        return SAME
    if not abs(mean) > half:  # one seed has no interval, and NaN compares with nothing
        return UNCLEAR
    return BETTER if mean * better > 0 else WORSE


def against(verdicts: Sequence[tuple[float, str]], other: str) -> str:
    """`worse than MAML at 1 to 5 inner steps and cannot be told from it at 10 and 20`."""
    tried = [count for count, _ in verdicts]
    phrases, named = [], False
    for kind, start in (
        (WORSE, "is worse than"),
        (BETTER, "is better than"),
        (SAME, "does as well as"),
        (UNCLEAR, "cannot be told from"),
    ):
        found = [count for count, what in verdicts if what == kind]
        if found:
            where = steps_of(found, tried) if not named else steps_of(found, tried).rpartition(" inner")[0]
            phrases.append(f"{start} {'it' if named else other} at {where}")
            named = True
    return listed(phrases)
