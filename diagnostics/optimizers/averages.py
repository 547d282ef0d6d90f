"""Exponential averages, which the optimizers with second moments keep: `a <- a + (1 - decay) (x - a)`.

Written so, the one number `1 - decay` decides all, in every arithmetic: 0.999 itself is 1 in bfloat16, while 1 - 0.999
keeps its leading digits. An average of squares that starts at 0 never becomes negative, since rounding is monotone.
"""

from torch import Tensor

from diagnostics.checks import at_least


def averaged(average: Tensor, value: Tensor | float, decay: float) -> Tensor:
    """The next exponential average, `decay average + (1 - decay) value`."""
    return average + (1 - decay) * (value - average)


def decay_rate(name: str, value: object) -> float:
    """`value` if it is a number >= 0 and below 1, or else `ValueError` of one line."""
    rate = at_least(name, value, 0)
    if rate >= 1:
        raise ValueError(f"{name}: expected a number >= 0 and below 1, found {value!r}")
    return rate
