"""Double-word arithmetic: a number as the unevaluated sum of two float64, good to about 106 bits.

A pair `(high, low)` stands for `high + low` and is normalised: `high = RN(high + low)`. With the unit roundoff
`u = 2^-53` the relative errors are at most (Joldes, Muller and Popescu 2017; Muller and Rideau 2022)

    sum  3u^2 + 13u^3     product  5u^2     quotient  15u^2 + 56u^3     square root  9u^2

as long as no product, quotient or dividend is below about 2^-960. Closer to zero the high word is what float64 gives,
and the low word loses its bits one by one. Infinities, NaN, overflow and signed zeros are as in float64, with a
low word of 0.

Tensors broadcast. The operations are those of `ordinary`, computed and mended by `blocks`.
"""

from math import prod

import torch
from torch import Tensor

from diagnostics.arithmetic import ordinary
from diagnostics.arithmetic.blocks import elementwise
from diagnostics.arithmetic.ordinary import Pair

_DOWN = 2.0**-60  # takes any float64 below 2^996, from where on `split` overflows


def _float64(y: Tensor | float, like: Tensor) -> Tensor:
    return y if isinstance(y, Tensor) else torch.tensor(y, dtype=torch.float64, device=like.device)


def exact(high: Tensor) -> Pair:
    """The pair of a float64, whose low word is 0."""
    return high, torch.zeros_like(high)


def two_sum(a: Tensor, b: Tensor) -> Pair:
    """`(s, e)` with `s = RN(a + b)` and `s + e = a + b` (Knuth)."""
    s, f = elementwise(ordinary.two_sum, lambda a, b: exact(a + b), a, b)
    return s, -f


def fast_two_sum(a: Tensor, b: Tensor) -> Pair:
    """`two_sum` where `|a| >= |b|` (Dekker)."""
    return elementwise(lambda a, b: ordinary.normalised(a.clone(), -b), lambda a, b: exact(a + b), a, b)


def two_prod(a: Tensor, b: Tensor) -> Pair:
    """`(p, e)` with `p = RN(a b)` and `p + e = a b` (Dekker), unless `e` underflows: `p` below about 2^-960."""
    return multiply_double(exact(a), b)


def add(x: Pair, y: Pair) -> Pair:
    """`x + y`, relative error `3u^2 + 13u^3` (AccurateDWPlusDW)."""
    return elementwise(_add, lambda xh, xl, yh, yl: exact(xh + yh), *x, *y)


def _add(xh: Tensor, xl: Tensor, yh: Tensor, yl: Tensor) -> Pair:
    return ordinary.add((xh, xl), (yh, yl))


def subtract(x: Pair, y: Pair) -> Pair:
    """`x - y`, relative error `3u^2 + 13u^3`."""
    return elementwise(_subtract, lambda xh, xl, yh, yl: exact(xh - yh), *x, *y)


def _subtract(xh: Tensor, xl: Tensor, yh: Tensor, yl: Tensor) -> Pair:
    return ordinary.subtract((xh, xl), (yh, yl))


def add_double(x: Pair, y: Tensor | float) -> Pair:
    """`x + y` for a float64 `y`, relative error `2u^2` (DWPlusFP)."""
    return elementwise(
        lambda xh, xl, y: ordinary.add_double((xh, xl), y), lambda xh, xl, y: exact(xh + y), *x, _float64(y, x[0])
    )


def multiply(x: Pair, y: Pair) -> Pair:
    """`x * y`, relative error `5u^2` (DWTimesDW)."""
    return elementwise(_multiply, _multiply_large, *x, *y)


def _multiply(xh: Tensor, xl: Tensor, yh: Tensor, yl: Tensor) -> Pair:
    return ordinary.multiply((xh, xl), (yh, yl))


def _multiply_large(xh: Tensor, xl: Tensor, yh: Tensor, yl: Tensor) -> Pair:
    """With a factor beyond 2^996, which does not split, brought down.

    The other one is then below 2^28, or the product infinite.
    """
    shift = torch.where(xh.abs() > yh.abs(), xh.new_tensor(_DOWN), xh.new_tensor(1 / _DOWN))
    high, low = _multiply(xh * shift, xl * shift, yh / shift, yl / shift)
    return torch.where(high.isfinite(), high, xh * yh), low


def square(x: Pair) -> Pair:
    """`x * x`, cheaper than `multiply`."""
    return elementwise(lambda xh, xl: _multiply(xh, xl, xh, xl), lambda xh, xl: _multiply_large(xh, xl, xh, xl), *x)


def multiply_double(x: Pair, y: Tensor | float) -> Pair:
    """`x * y` for a float64 `y`, relative error `3u^2` (DWTimesFP)."""
    return elementwise(
        lambda xh, xl, y: ordinary.multiply_double((xh, xl), y),
        lambda xh, xl, y: _multiply_large(xh, xl, *exact(y)),
        *x,
        _float64(y, x[0]),
    )


def scale_by_power_of_two(x: Pair, y: Tensor | float) -> Pair:
    """`x * y` for a power of two `y`: exact, unless it underflows."""
    return elementwise(_scale, lambda xh, xl, y: exact(xh * y), *x, _float64(y, x[0]))


def _scale(xh: Tensor, xl: Tensor, y: Tensor) -> Pair:
    high = xh * y
    low = high - high  # NaN where infinite
    low += xl * y
    return high, low


def divide(x: Pair, y: Pair) -> Pair:
    """`x / y`, relative error `15u^2 + 56u^3` (DWDivDW)."""
    return elementwise(_divide, _divide_large, *x, *y)


def _divide(xh: Tensor, xl: Tensor, yh: Tensor, yl: Tensor) -> Pair:
    return ordinary.divide((xh, xl), (yh, yl))


def _divide_large(xh: Tensor, xl: Tensor, yh: Tensor, yl: Tensor) -> Pair:
    """With a divisor or a quotient beyond 2^996, which do not split, brought down.

    The numerator is then above 2^-78, or the quotient zero, so that it may be brought down as well.
    """
    one, down, large = xh.new_tensor(1.0), xh.new_tensor(_DOWN), yh.abs() > 2.0**500
    by, back = torch.where(large, down, one), torch.where(large, one, 1 / down)
    high, low = _divide(xh * down, xl * down, yh * by, yl * by)
    high, low = high * back, low * back
    return torch.where(high.isfinite(), high, xh / yh), low


def divide_double(x: Pair, y: Tensor | float) -> Pair:
    """`x / y` for a float64 `y`, relative error `3u^2` (DWDivFP)."""
    return elementwise(
        lambda xh, xl, y: ordinary.divide_double((xh, xl), y),
        lambda xh, xl, y: _divide_large(xh, xl, *exact(y)),
        *x,
        _float64(y, x[0]),
    )


def reciprocal(x: Pair) -> Pair:
    """`1 / x`, with the error of `divide`."""
    return divide(exact(x[0].new_ones(())), x)


def square_root(x: Pair) -> Pair:
    """The square root, relative error `9u^2`."""
    return elementwise(lambda xh, xl: ordinary.square_root((xh, xl)), lambda xh, xl: exact(xh.sqrt()), *x)


def negate(x: Pair) -> Pair:
    """`-x`, exact."""
    return -x[0], -x[1]


def absolute(x: Pair) -> Pair:
    """`|x|`, exact."""
    return x[0].abs(), x[1] * x[0].sign()


def power(x: Pair, n: int) -> Pair:
    """`x^n` by repeated squaring, relative error about `5 n u^2`; `1` for `n = 0`, NaN included, as in float64."""
    if n < 0:
        return reciprocal(power(x, -n))
    if n == 0:
        return exact(torch.ones_like(x[0]))
    if n == 1:
        return x
    even = square(power(x, n // 2))
    return multiply(even, x) if n % 2 else even


def total(x: Pair, dims: tuple[int, ...], keepdim: bool) -> Pair:
    """The sum over `dims` by a tree of sums of halves, relative error `log2(n) (3u^2 + 13u^3)` of the sum of `|x|`.

    The tree depends on the number of terms alone, so that a row's sum does not depend on the rows beside it.
    """
    ndim = x[0].ndim
    dims = tuple(dim % ndim for dim in dims)
    kept = tuple(dim for dim in range(ndim) if dim not in dims)
    shape = [x[0].shape[dim] for dim in kept]
    n = prod(x[0].shape[dim] for dim in dims)
    high, low = (word.permute(*dims, *kept).reshape(n, *shape).contiguous() for word in x)
    if n == 0:
        high, low = high.new_zeros(1, *shape), low.new_zeros(1, *shape)
    while n > 1:
        half = 1 << (n - 1).bit_length() - 1  # the largest power of two below n
        s, e = add((high[: n - half], low[: n - half]), (high[half:], low[half:]))
        rest = slice(n - half, half)
        high, low = (s, e) if n == 2 * half else (torch.cat([s, high[rest]]), torch.cat([e, low[rest]]))
        n = half
    if keepdim:
        shape = [1 if dim in dims else x[0].shape[dim] for dim in range(ndim)]
    return high.reshape(shape), low.reshape(shape)


def less(x: Pair, y: Pair) -> Tensor:
    """Whether `x < y`; false with NaN."""
    return (x[0] < y[0]) | ((x[0] == y[0]) & (x[1] < y[1]))


def equal(x: Pair, y: Pair) -> Tensor:
    """Whether `x == y`; false with NaN."""
    return (x[0] == y[0]) & (x[1] == y[1])


def value(x: Pair) -> Tensor:
    """The float64 nearest to `x`: its high word."""
    return x[0]
