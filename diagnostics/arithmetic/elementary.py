"""Elementary functions of double-words, to a relative error of 2^-100 where the result is above 2^-960.

Each function is reduced to a short Taylor series next to a point of a table (Tang 1989), whose values come from exact
integers (`fixed_point`). The first terms of a series are summed in double-words, those that are below 2^-50 of the
result in float64. Overflow, underflow, infinities, NaN and signed zeros are as in float64.
"""

from fractions import Fraction
from functools import cache
from math import factorial

import torch
from torch import Tensor

from diagnostics.arithmetic import fixed_point, ordinary
from diagnostics.arithmetic.blocks import elementwise
from diagnostics.arithmetic.double_word import exact
from diagnostics.arithmetic.ordinary import Pair, Unfinished
from diagnostics.arithmetic.trigonometric import cos, sin

__all__ = ["cos", "exp", "expm1", "log", "log1p", "sigmoid", "sin", "softplus", "tanh"]

_CELLS = 1024  # points of the table of exp in a factor of two
_LN2_CELL = fixed_point.words(fixed_point.LN2 // _CELLS, 3, 32)  # times a whole number below 2^21, two are exact
_LN2 = fixed_point.words(fixed_point.LN2, 3, 42)  # times a whole number below 2^11, two are exact
_LN2_FLOAT = sum(_LN2)


def _unfinished(numbers: list[int], device: torch.device) -> Unfinished:
    columns = torch.tensor([fixed_point.words(n) for n in numbers], dtype=torch.float64, device=device)
    return columns[:, 0].contiguous(), -columns[:, 1]


@cache
def _exp_table(device: torch.device) -> tuple[Unfinished, Unfinished]:
    """`2^(j / cells)` and `2^(j / cells) - 1` for `j` from `-cells / 2` to `cells / 2`."""
    numbers, root = [fixed_point.ONE], fixed_point.root_of_two(_CELLS)
    for _ in range(_CELLS // 2):
        numbers.append(numbers[-1] * root >> fixed_point.BITS)
    numbers = [(fixed_point.ONE << fixed_point.BITS) // n for n in numbers[:0:-1]] + numbers
    return _unfinished(numbers, device), _unfinished([n - fixed_point.ONE for n in numbers], device)


@cache
def _log_table(device: torch.device) -> tuple[Tensor, Unfinished]:
    """`c_j` of 11 bits near `128 / j`, and `-log(c_j)`, for `j` from 90 to 182; `c_j` is 1 for the cells around 1."""
    c = [Fraction(1) if abs(j - 128) <= 2 else Fraction(round(1024 * 128 / j), 1024) for j in range(90, 183)]
    table = torch.tensor([float(ratio) for ratio in c], dtype=torch.float64, device=device)
    return table, _unfinished([-fixed_point.log(ratio) for ratio in c], device)


@cache
def _powers(device: torch.device) -> Tensor:
    """`2^k` for `k` from -1075 to 1024; the two ends, which are no float64, are NaN."""
    powers = [float("nan"), *(2.0**k for k in range(-1074, 1024)), float("nan")]
    return torch.tensor(powers, dtype=torch.float64, device=device)


def _power(k: Tensor) -> Tensor:
    """`2^k` for whole `k`; NaN where that is no float64."""
    return torch.take(_powers(k.device), k.long().add_(1075).clamp_(0, 2099))


def _coefficients(numbers: list[Fraction], tail: int) -> tuple[list[tuple[float, float]], list[float]]:
    """All but the last `tail` coefficients in two words, and those, which are the small terms', in one."""
    leading = [(float(c), float(Fraction(float(c)) - c)) for c in numbers[:-tail]]
    return leading, [float(c) for c in numbers[-tail:]]


_EXP = _coefficients([Fraction(1, factorial(i + 1)) for i in range(8)], 4)
_ATANH = _coefficients([Fraction(2, 2 * i + 3) for i in range(7)], 4)


def _series(x: Pair, coefficients: tuple[list[tuple[float, float]], list[float]]) -> Unfinished:
    """`x P(x)` for a polynomial `P` of a small `x`."""
    leading, (*tail, last) = coefficients
    halves = ordinary.split(x[0])
    p = x[0] * last
    for c in reversed(tail):
        p += c
        p *= x[0]
    f = torch.zeros_like(p)
    for c in reversed(leading):
        p, f = ordinary.product(x, ordinary.plus(c, (p, f)), halves)
    return p, f


def _reduced_exp(xh: Tensor, xl: Tensor, least: float) -> tuple[Tensor, Tensor, Unfinished]:
    """`(k, j, e U)` with `exp(x) = 2^k (U + e U)` and `U = 2^(j / cells)`, for `x` not below `least`.

    With `x = (k + j / cells) ln 2 + r`, `e = exp(r) - 1`. If `|x| < ln(2) / 2`, `k = 0`.
    """
    xh = xh.clamp(least, 710.0)
    xl = xl.clamp(-(2.0**-43), 2.0**-43)
    n = xh * (_CELLS / _LN2_FLOAT)
    n.round_()
    s, f = ordinary.two_sum(torch.sub(xh, n, alpha=_LN2_CELL[0]), xl)  # an exact difference
    s, g = ordinary.two_difference(s, n * _LN2_CELL[1])
    f += g
    f += n * _LN2_CELL[2]
    r = ordinary.normalised(s, f)
    k = n * (1 / _CELLS)
    k.round_()
    j = n.sub_(k, alpha=_CELLS).long().add_(_CELLS // 2).clamp_(0, _CELLS)  # NaN has some index, too
    p, f = _series(r, _EXP)
    e = ordinary.normalised(p, ordinary.without_noise(f))
    u, v = _exp_table(j.device)[0]
    return k, j, ordinary.product(e, (torch.take(u, j), torch.take(v, j)))


def _exp_scaled(xh: Tensor, xl: Tensor) -> tuple[Pair, Tensor]:
    k, j, e = _reduced_exp(xh, xl, -800.0)
    u, v = _exp_table(j.device)[0]
    return ordinary.normalised(*ordinary.plus((torch.take(u, j), torch.take(v, j)), e)), k


def _exp(xh: Tensor, xl: Tensor) -> Pair:
    (high, low), k = _exp_scaled(xh, xl)
    power = _power(k)
    return high * power, low * power


def _exp_far(xh: Tensor, xl: Tensor) -> Pair:
    """With `2^k` in two factors, where it is no float64."""
    (high, low), k = _exp_scaled(xh, xl)
    half = torch.round(k / 2)
    first, second = _power(half), _power(k - half)
    return high * first * second, low * first * second


def exp(x: Pair) -> Pair:
    """`exp(x)`."""
    return elementwise(_exp, _exp_far, *x)


def _expm1(xh: Tensor, xl: Tensor) -> Pair:
    k, j, e = _reduced_exp(xh, xl, -100.0)
    u, v = _exp_table(j.device)[1]
    s, f = ordinary.plus((torch.take(u, j), torch.take(v, j)), e)
    power = _power(k)
    s *= power
    f *= power
    high, low = ordinary.normalised(*ordinary.plus(ordinary.two_difference(power, 1.0), (s, f)))
    return torch.copysign(high, xh), low


def expm1(x: Pair) -> Pair:
    """`exp(x) - 1`, of small relative error near 0 too."""
    return elementwise(_expm1, _exp_far, *x)  # beyond 2^1023, 1 is nothing


def _log(words: tuple[Tensor, ...]) -> Pair:
    """`log(x) = k log(2) - log(c) + log(1 + t)` with `x = 2^k m`, the sum of the words, and `1 + t = c m`.

    `log(1 + t) = 2 atanh(s) = t - s (t - 2 (s^2 / 3 + s^4 / 5 + ...))` with `s = t / (2 + t)`. Next to 1, `k` is 0 and
    `c` is 1, so that `t = x - 1` keeps its relative error.
    """
    k = torch.frexp(words[0] * 0.5**0.5).exponent
    power = _power(-k)
    m = [word * power for word in words]
    j = (m[0] * 128).round_().long().sub_(90).clamp_(0, 92)
    cs, (u, v) = _log_table(j.device)
    c = torch.take(cs, j)
    p, f = ordinary.short_product(m[0], c)
    p -= 1.0
    p, f = ordinary.two_difference(p, f)
    q, g = ordinary.short_product(m[1], c)
    f += g
    p, g = ordinary.two_sum(p, q)
    f += g
    if len(m) == 3:
        f -= m[2] * c
    t = ordinary.normalised(p, f)
    s = ordinary.divide(t, ordinary.add_double(t, 2.0))
    p, f = _series(ordinary.multiply(s, s), _ATANH)
    t = t[0], -t[1]
    p, f = ordinary.product(s, ordinary.plus(t, (p.neg_(), f.neg_())))
    log1p = ordinary.plus(t, (p.neg_(), f.neg_()))
    n = k.double()
    result = ordinary.plus((n * _LN2[0], n * -_LN2[2]), (n * _LN2[1], n.new_zeros(())))
    result = ordinary.plus(result, (torch.take(u, j), torch.take(v, j)))
    high, low = ordinary.normalised(*ordinary.plus(result, log1p))
    plain = words[0].log()
    plain -= plain  # NaN where the logarithm is not finite
    low += plain
    return high, low


def _log_subnormal(xh: Tensor, xl: Tensor) -> Pair:
    high, low = _log((xh * 2.0**100, xl * 2.0**100))
    shift = high.new_tensor(fixed_point.words(-100 * fixed_point.LN2))
    high, low = ordinary.add((high, low), (shift[0], shift[1]))
    return torch.where(high.isfinite(), high, xh.log()), low


def log(x: Pair) -> Pair:
    """`log(x)`, of small relative error near 1 too."""
    return elementwise(lambda xh, xl: _log((xh, xl)), _log_subnormal, *x)


def _log1p(xh: Tensor, xl: Tensor) -> Pair:
    s, f = ordinary.two_sum(xh, 1.0)
    f, g = ordinary.two_difference(xl, f)
    s, f = ordinary.two_sum(s, f)
    high, low = _log((s, -f, -g))
    return torch.copysign(high, xh), low


def log1p(x: Pair) -> Pair:
    """`log(1 + x)`, of small relative error near 0 too."""
    return elementwise(_log1p, lambda xh, xl: exact((1 + xh + xl).log()), *x)


def _tanh(xh: Tensor, xl: Tensor) -> Pair:
    """`-t / (2 + t)` with `t = expm1(-2 |x|)`, and the sign of `x`."""
    sign = torch.copysign(xh.new_full((), -2.0), xh).neg_()
    t, rest = _expm1(xh * sign, xl * sign)
    sign *= 0.5
    high, low = ordinary.divide((t, rest), ordinary.add_double((t, rest), 2.0))
    return high * sign, low * sign


def tanh(x: Pair) -> Pair:
    """`tanh(x)`."""
    return elementwise(_tanh, lambda xh, xl: exact(xh.tanh()), *x)


def _sigmoid(xh: Tensor, xl: Tensor) -> Pair:
    one, zero = xh.new_ones(()), xh.new_zeros(())
    return ordinary.divide((one, zero), ordinary.add_double(_exp(-xh, -xl), 1.0))


def _sigmoid_low(xh: Tensor, xl: Tensor) -> Pair:
    """`exp(x)`, where `exp(-x)` is so large that 1 is nothing to it; near 1 or NaN, float64's."""
    high, low = _exp_far(xh, xl)
    low = torch.where(xh < -36, low, 0.0)
    return torch.where(xh < -36, high, xh.sigmoid()), low


def sigmoid(x: Pair) -> Pair:
    """`1 / (1 + exp(-x))`."""
    return elementwise(_sigmoid, _sigmoid_low, *x)


def _softplus(xh: Tensor, xl: Tensor) -> Pair:
    sign = xh.sign()
    positive = sign.clamp(min=0.0)
    high, low = _log1p(*_exp_far(xh * -sign, xl * -sign))
    return ordinary.add((xh * positive, xl * positive), (high, low))


def softplus(x: Pair) -> Pair:
    """`log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|))`, everywhere: torch's linear part beyond 20 is float64's."""
    return elementwise(_softplus, lambda xh, xl: exact(xh.clamp(min=0.0)), *x)
