"""Balls `midpoint +- radius`, and what is done with vectors and matrices of them.

Every operation on balls encloses the true result whatever the operands within theirs (Johansson 2017, "Arb: efficient
arbitrary-precision midpoint-radius interval arithmetic"), so that a computation carried out in balls proves a bound on
its own error. A bound that is too wide is no mistake: the same computation with more bits makes it narrow.

Vectors are columns `(N, 1)`. Float64 numbers are exact, and so is the sum of two, the double-double number.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import mul

import torch
from torch import Tensor

from diagnostics.checks import positive, whole_number

try:  # here alone: the package's other modules import from this one, and so give the same advice
    from flint import arb, arb_mat, ctx
except ImportError as missing:
    raise ImportError("certificates need the extra `exact`: pip install gradgauge[exact]") from missing

Words = Tensor | tuple[Tensor, Tensor]  # float64 numbers; or double-double numbers, the high words and the low ones

BITS = 256  # to begin with
MOST_BITS = 16384
RADIUS = 2.0**-120  # relative: beside it the error of a double-double result, some 2^-104, is all that is seen


@dataclass(frozen=True)
class Enclosure:
    """Numbers `(P,)` known by a column of balls, computed with `bits` bits.

    They lie within `radius` of `high + low`, all three `(P,)` in float64; the radius is infinite where nothing was
    proven.
    """

    balls: arb_mat
    bits: int

    @property
    def high(self) -> Tensor:
        """The midpoints, to float64."""
        return _tensor([float(ball) for ball in self.balls.entries()])

    @property
    def low(self) -> Tensor:
        """What float64 leaves of the midpoints."""
        with ctx.workprec(self.bits):
            return _tensor([float(ball.mid() - float(ball)) for ball in self.balls.entries()])

    @property
    def radius(self) -> Tensor:
        """The radii about `high + low`, rounded up; they count what these two words leave of the midpoints."""
        return _distances(self.balls, self.bits, (self.high, self.low))


def inside(enclosure: Enclosure, high: Tensor, low: Tensor, bound: Tensor | float) -> Tensor:
    """`distance / (radius + bound)`, `(P,)`, of the numbers `high + low` from the balls' midpoints.

    At most 1 says that the true value may lie within `bound` of the number; above it, that it cannot: the error is
    proven to exceed `bound`, but for the ratio's own rounding. Infinite where number or ball is not finite.
    """
    balls = enclosure.balls
    distance = _distances(balls.mid(), enclosure.bits, (high, low))
    allowed = _tensor([_upper(ball.rad()) for ball in balls.entries()]) + bound
    ratio = torch.where(distance == 0, 0.0, distance / allowed)
    return torch.where(distance.isfinite() & allowed.isfinite(), ratio, torch.inf)


def enclosed(
    compute: Callable[[], arb_mat], bits: int = BITS, radius: float = RADIUS, most: int = MOST_BITS
) -> Enclosure:
    """What `compute` gives, with as many bits as make every radius at most `radius` times the largest midpoint.

    It begins with `bits` and doubles them while they are at most `most`; the last enclosure is as wide as it is.
    """
    whole_number("bits", bits, 64)
    positive("radius", radius)
    while True:
        with ctx.workprec(bits):
            balls = compute()
        if _narrow(balls, radius) or 2 * bits > most:
            return Enclosure(balls, bits)
        bits *= 2


def matrix(x: Words) -> arb_mat:
    """The numbers of `x`, `(m, n)`, or `(n,)` for a column, as they are; `ValueError` unless finite and of that shape.

    A double-double number whose words span more bits than are in use becomes a ball that contains it.
    """
    high, low = x if isinstance(x, tuple) else (x, None)
    if not 1 <= high.dim() <= 2:
        raise ValueError(f"certificate: expected one task's vector or matrix, found shape {tuple(high.shape)}")
    if low is not None and low.shape != high.shape:
        raise ValueError(
            f"certificate: expected both words of one shape, found {tuple(high.shape)} and {tuple(low.shape)}"
        )
    if not (high.isfinite().all() and (low is None or low.isfinite().all())):
        raise ValueError("certificate: expected finite numbers, found NaN or infinity")
    shape = (high.shape[0], 1 if high.dim() == 1 else high.shape[1])
    balls = arb_mat(*shape, high.detach().double().flatten().tolist())
    return balls if low is None else balls + arb_mat(*shape, low.detach().double().flatten().tolist())


def identity(size: int) -> arb_mat:
    """The identity, exact."""
    return arb_mat([[int(row == column) for column in range(size)] for row in range(size)])


def each(function: Callable[..., arb], *operands: arb_mat) -> arb_mat:
    """A function of numbers, entry by entry of matrices of one shape."""
    entries = [function(*balls) for balls in zip(*(x.entries() for x in operands), strict=True)]
    return arb_mat(operands[0].nrows(), operands[0].ncols(), entries)


def times(*operands: arb_mat) -> arb_mat:
    """The product entry by entry."""
    return each(lambda *balls: reduce(mul, balls), *operands)


def dot(x: arb_mat, y: arb_mat) -> arb:
    """The inner product of two columns."""
    return (x.transpose() * y)[0, 0]


def positive_definite(symmetric: arb_mat) -> bool:
    """Whether every symmetric matrix within the balls is proven positive definite: each pivot of `LDL'` is above 0."""
    rows = symmetric.tolist()
    for k in range(len(rows)):
        if not rows[k][k] > 0:
            return False
        for i in range(k + 1, len(rows)):
            factor = rows[i][k] / rows[k][k]
            for j in range(k + 1, len(rows)):
                rows[i][j] -= factor * rows[k][j]
    return True


def _narrow(balls: arb_mat, radius: float) -> bool:
    """Whether every radius is at most `radius` times the largest midpoint."""
    largest = max((abs(ball.mid()) for ball in balls.entries() if ball.is_finite()), default=arb(0))
    return all(ball.is_finite() and ball.rad() <= radius * largest for ball in balls.entries())


def _distances(balls: arb_mat, bits: int, words: tuple[Tensor, Tensor]) -> Tensor:
    """Upper bounds `(P,)` of the distance of any number in a ball from the number that the words are."""
    with ctx.workprec(bits):
        pairs = zip(balls.entries(), *(word.double().tolist() for word in words), strict=True)
        return _tensor([_upper(ball - high - low) for ball, high, low in pairs])


def _upper(ball: arb) -> float:
    """A float64 number not below `|ball|`; infinity where there is none."""
    value = float(ball.abs_upper())
    return math.inf if math.isnan(value) else 0.0 if ball.is_zero() else math.nextafter(value, math.inf)


def _tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
