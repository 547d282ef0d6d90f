"""A coarser setting of an arithmetic: every result cut short, so that two settings can be compared.

Cutting removes the last bits of each computed number: of the low word in extended precision (which then has about 79
bits), of the number itself in float64 (44 bits). How far the result of a whole computation moves is what rounding
errors of that size, made everywhere, have grown to. The full computation makes errors that are smaller by 2^9 or more,
grown alike, so that the movement bounds its error with room to spare.
"""

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from diagnostics.arithmetic.after_each import after_each_operation
from diagnostics.arithmetic.extended import Extended, words, wrap

KEPT = ~((1 << 27) - 1)  # of a low word, its leading 26 bits
KEPT_ALONE = ~((1 << 9) - 1)  # of a float64 that is the whole number, its leading 44


def cut_short(x: Tensor, kind: str) -> Tensor:
    """The number without its last bits; other dtypes as they are."""
    if isinstance(x, Extended):
        high, low = words(x)
        return wrap((high, _masked(low, KEPT)))
    return _masked(x, KEPT_ALONE) if x.dtype == torch.float64 else x


def cutting() -> AbstractContextManager[object]:
    """A context in which every operation's result is cut short."""
    return after_each_operation(cut_short)


def _masked(x: Tensor, mask: int) -> Tensor:
    # NaN and infinity keep their exponent and the bit that tells them apart, which is the first of the mantissa.
    return (x.contiguous().view(torch.int64) & mask).view(torch.float64)
