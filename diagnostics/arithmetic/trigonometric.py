"""Sine and cosine of double-words, to a relative error of 2^-100 for arguments below 2^20; NaN beyond.

`x = q pi/2 + r` with eight words of `pi/2`, since a double-word may be as near to a multiple of `pi/2` as 2^-105; and
Taylor's series at `r`, between `-pi/4` and `pi/4`.
"""

from fractions import Fraction
from math import factorial, pi

import torch
from torch import Tensor

from diagnostics.arithmetic import fixed_point, ordinary
from diagnostics.arithmetic.blocks import elementwise
from diagnostics.arithmetic.double_word import exact
from diagnostics.arithmetic.ordinary import Pair

_HALF_PI = fixed_point.words(fixed_point.PI // 2, 8, 32)  # times a whole number below 2^21, seven are exact
_LARGEST = 2.0**20
_SIN = [Fraction((-1) ** i, factorial(2 * i + 1)) for i in range(15)]
_COS = [Fraction((-1) ** i, factorial(2 * i)) for i in range(15)]


def _polynomial(x: Pair, coefficients: list[Fraction]) -> Pair:
    result = exact(torch.full_like(x[0], float(coefficients[-1])))
    for c in reversed(coefficients[:-1]):
        result = ordinary.add(ordinary.multiply(result, x), (float(c), float(c - Fraction(float(c)))))
    return result


def _sine(xh: Tensor, xl: Tensor, ahead: int) -> Pair:
    """`sin(x + ahead pi/2)`."""
    q = (xh * (2 / pi)).round_()
    r = torch.where(xh.abs() < _LARGEST, xh, torch.nan), xl
    for word in _HALF_PI:
        r = ordinary.add_double(r, q * -word)
    z = ordinary.multiply(r, r)
    sine, cosine = ordinary.multiply(r, _polynomial(z, _SIN)), _polynomial(z, _COS)
    quarter = torch.remainder(q + ahead, 4)
    odd, sign = torch.remainder(quarter, 2) == 1, 1.0 - 2.0 * (quarter >= 2)
    high, low = (torch.where(odd, c, s) * sign for s, c in zip(sine, cosine, strict=True))
    return high, low


def _nowhere(xh: Tensor, xl: Tensor) -> Pair:
    return exact(torch.full_like(xh, torch.nan))


def sin(x: Pair) -> Pair:
    """`sin(x)` for `|x| < 2^20`, NaN beyond."""
    high, low = elementwise(lambda xh, xl: _sine(xh, xl, 0), _nowhere, *x)
    return torch.where(x[0] == 0, x[0], high), low


def cos(x: Pair) -> Pair:
    """`cos(x)` for `|x| < 2^20`, NaN beyond."""
    return elementwise(lambda xh, xl: _sine(xh, xl, 1), _nowhere, *x)
