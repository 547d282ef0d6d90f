"""Double-word operations on ordinary numbers: those that neither overflow nor come near the subnormal numbers.

The algorithms are those of Joldes, Muller and Popescu (2017), unless another is named. Two habits keep the tensor
operations few, without a change to the results:

- errors are carried negated, `s - f` standing for the exact sum. Exact operations give `f = +0`, and `-0 - (+0) = -0`
  keeps a sign that `-0 + (+0) = +0` would lose.
- a product of two 26-bit halves is exact, so that `addcmul` may fuse it with the sum that follows or not.

Where an operation overflows, or meets an infinity or NaN, its low word comes out as NaN or infinite, which `blocks`
looks for and mends.
"""

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]  # (high, low): their sum, normalised
Words = tuple[Tensor | float, Tensor | float]
Unfinished = tuple[Tensor, Tensor]  # (s, f): s - f, with f small but not normalised

_SPLIT = 2.0**27
UNDERFLOW = 2.0**-1072  # more than the roundings to subnormal numbers of an error term add up to, see `without_noise`


def two_sum(a: Tensor, b: Tensor | float) -> Pair:
    """`(s, f)` with `s = RN(a + b)` and `s - f = a + b` (Knuth)."""
    s = a + b
    t = s - a
    f = s - t
    f -= a
    t -= b
    f += t
    return s, f


def two_difference(a: Tensor, b: Tensor | float) -> Pair:
    """`(s, f)` with `s = RN(a - b)` and `s - f = a - b`."""
    s = a - b
    t = s - a
    f = s - t
    f -= a
    t += b
    f += t
    return s, f


def split(a: Tensor) -> Pair:
    """`a = high + low` in halves of at most 26 bits (after Veltkamp).

    `RN(a - 2^27 a)` is `a - 2^27 a` rounded to a multiple of `2^27 ulp(a)`, or of half of that if `a` is just above a
    power of two. So `high` is `a` rounded to its first 26 bits, and `low`, the rest, is at most half a unit of them: 26
    bits with a sign. The usual `RN(a + 2^27 a)` may cross into the next binade, where `low` gets 27 bits, and needs one
    more operation to mend that. `2^27 a` is exact, so that fused or not is the same.
    """
    high = torch.sub(a, a, alpha=_SPLIT)
    high.add_(a, alpha=_SPLIT)
    return high, a - high


def two_prod(a: Tensor, b: Tensor, halves_a: Pair | None = None, halves_b: Pair | None = None) -> Pair:
    """`(p, f)` with `p = RN(a b)` and `p - f = a b` (Dekker); the halves of `split` may be given."""
    p = a * b
    ah, al = split(a) if halves_a is None else halves_a
    bh, bl = ((ah, al) if a is b else split(b)) if halves_b is None else halves_b
    f = torch.addcmul(p, ah, bh, value=-1)
    f.addcmul_(ah, bl, value=-1)
    f.addcmul_(al, bh, value=-1)
    f.addcmul_(al, bl, value=-1)
    return p, f


def without_noise(f: Tensor) -> Tensor:
    """`f`, and `+0` where `|f| <= UNDERFLOW`.

    Where a product is below about 2^-968, its error term may be no float64. Then the products that make it up, six at
    most, are each rounded to a multiple of 2^-1074, by half of that at most. They add up to noise, which would change
    the high word of a subnormal result, whose true error term is zero.
    """
    return torch.nn.functional.hardshrink(f, UNDERFLOW)


def normalised(s: Tensor, f: Tensor) -> Pair:
    """The pair of `s - f` for `|f|` well below `|s|` (Fast2Sum); writes over `s`."""
    high = s - f
    s -= high
    s -= f
    return high, s


def product(x: Pair, y: Unfinished, halves: Pair | None = None) -> Unfinished:
    """`x * y`; `halves` are those of `x`'s high word."""
    p, f = two_prod(x[0], y[0], halves)
    f += x[0] * y[1]
    f -= x[1] * y[0]
    return p, f


def short_product(a: Tensor, c: Tensor) -> Unfinished:
    """`a c`, exactly, for `c` of at most 26 bits."""
    high, low = split(a)
    p = a * c
    f = torch.addcmul(p, high, c, value=-1)
    return p, f.addcmul_(low, c, value=-1)


def plus(x: Words, y: Unfinished) -> Unfinished:
    """`x + y`, each `s - f`, for `|x| >= |y|` or `x = 0`."""
    s = y[0] + x[0]
    f = s - x[0]
    f -= y[0]
    f += x[1]
    f += y[1]
    return s, f


def _closed(s: Tensor, f: Tensor, t: Tensor, g: Tensor) -> Pair:
    """The pair of `(s - f) + (t - g)`, from the two sums of the high and of the low words; writes over all."""
    f -= t
    high, low = normalised(s, f)
    g -= low
    return normalised(high, g)


def add(x: Pair, y: Words) -> Pair:
    """`x + y` (AccurateDWPlusDW)."""
    return _closed(*two_sum(x[0], y[0]), *two_sum(x[1], y[1]))


def subtract(x: Pair, y: Pair) -> Pair:
    """`x - y` (AccurateDWPlusDW)."""
    return _closed(*two_difference(x[0], y[0]), *two_difference(x[1], y[1]))


def add_double(x: Pair, y: Tensor | float) -> Pair:
    """`x + y` for a float64 `y` (DWPlusFP)."""
    s, f = two_sum(x[0], y)
    f -= x[1]
    return normalised(s, f)


def multiply(x: Pair, y: Pair) -> Pair:
    """`x * y` (DWTimesDW1)."""
    p, f = two_prod(x[0], y[0])
    cross = x[0] * y[1]
    cross += x[1] * y[0]
    f -= cross
    return normalised(p, without_noise(f))


def multiply_double(x: Pair, y: Tensor) -> Pair:
    """`x * y` for a float64 `y` (DWTimesFP2)."""
    p, f = two_prod(x[0], y)
    f -= x[1] * y
    return normalised(p, without_noise(f))


def divide(x: Pair, y: Pair) -> Pair:
    """`x / y`: float64's quotient `q`, and the remainder `x - q y` over `y[0]`.

    `x[0] - q y[0]` is exact. The roundings of `q y[1]`, of its difference with `x[1]`, of the sum of the two, of the
    quotient of that and of its divisor, are at most (1 + 2 + 3 + 3 + 3) u^2 of the result.
    """
    return _quotient(x, y[0], y[1])


def divide_double(x: Pair, y: Tensor) -> Pair:
    """`x / y` for a float64 `y` (DWDivFP)."""
    return _quotient(x, y, None)


def _quotient(x: Pair, y: Tensor, y_low: Tensor | None) -> Pair:
    q = x[0] / y
    p, f = two_prod(q, y)
    p -= x[0]
    p -= f
    if y_low is not None:
        f = q * y_low
        f -= x[1]
        p += f
    else:
        p -= x[1]
    f = without_noise(p) / y
    f += 0.0  # -0 becomes +0, which keeps the sign of a zero quotient
    return normalised(q, f)


def square_root(x: Pair) -> Pair:
    """The square root: float64's, and one Newton step (SQRTDWtoDW of Lefevre, Louvet, Muller, Picot and Rideau 2023).

    They prove 25/8 u^2 for a float64 root that is rounded correctly. Torch's may be the next float64, with an error of
    2u. The step leaves 2u^2 of that; its residual is at most 4u + u, whose roundings are 2 + 2.5 + 2.5 u^2.
    """
    s = x[0].sqrt()
    p, f = two_prod(s, s)
    p -= x[0]
    p -= f
    p -= x[1]
    f = without_noise(p)
    f /= s
    f *= 0.5
    return normalised(s, f)
