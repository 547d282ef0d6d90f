"""Operations on each number by itself."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diagnostics.arithmetic import double_word as dw
from diagnostics.arithmetic import elementary
from diagnostics.arithmetic.double_word import Pair
from diagnostics.arithmetic.extended import Extended, operation, words, wrap
from diagnostics.arithmetic.operations.movement import in_place, where

aten = torch.ops.aten
Number = Tensor | float


def _plain(x: Number, like: Tensor) -> Tensor | float:
    """A plain tensor or number as float64; the kernels take either."""
    return x.to(like.device, torch.float64) if isinstance(x, Tensor) else float(x)


def _is_power_of_two(x: float) -> bool:
    return x != 0 and math.isfinite(x) and abs(math.frexp(x)[0]) == 0.5


@operation(aten.mul.Tensor, aten.mul.Scalar)
def mul(x: Number, y: Number) -> Extended:
    """x y."""
    if not isinstance(x, Extended):
        x, y = y, x
    assert isinstance(x, Extended)
    if isinstance(y, Extended):
        return wrap(dw.multiply(words(x), words(y)))
    factor = _plain(y, x)
    if isinstance(factor, float) and _is_power_of_two(factor):
        return wrap(dw.scale_by_power_of_two(words(x), factor))
    return wrap(dw.multiply_double(words(x), factor))


@operation(aten.add.Tensor, aten.add.Scalar)
def add(x: Number, y: Number, alpha: float = 1) -> Extended:
    """x + alpha y."""
    if alpha != 1:
        y = mul(as_extended(y), alpha)
    if not isinstance(x, Extended):
        x, y = y, x
    assert isinstance(x, Extended)
    if isinstance(y, Extended):
        return wrap(dw.add(words(x), words(y)))
    return wrap(dw.add_double(words(x), _plain(y, x)))


def as_extended(x: Number) -> Extended:
    """A plain tensor or number, exactly."""
    return x if isinstance(x, Extended) else wrap(words(x))


@operation(aten.neg.default)
def neg(x: Extended) -> Extended:
    """-x."""
    return wrap(dw.negate(words(x)))


@operation(aten.sub.Tensor, aten.sub.Scalar)
def sub(x: Number, y: Number, alpha: float = 1) -> Extended:
    """x - alpha y."""
    if alpha != 1:
        y = mul(as_extended(y), alpha)
    if isinstance(x, Extended) and isinstance(y, Extended):
        return wrap(dw.subtract(words(x), words(y)))
    if isinstance(x, Extended):
        return wrap(dw.add_double(words(x), -_plain(y, x)))
    assert isinstance(y, Extended)
    return wrap(dw.add_double(dw.negate(words(y)), _plain(x, y)))


@operation(aten.rsub.Scalar, aten.rsub.Tensor)
def rsub(x: Extended, y: Number, alpha: float = 1) -> Extended:
    """y - alpha x."""
    return sub(y, x, alpha)


@operation(aten.div.Tensor, aten.div.Scalar)
def div(x: Number, y: Number) -> Extended:
    """x / y."""
    if isinstance(y, Extended):
        return wrap(dw.divide(words(x, y), words(y)))
    assert isinstance(x, Extended)
    divisor = _plain(y, x)
    if isinstance(divisor, float) and _is_power_of_two(divisor) and math.isfinite(1 / divisor):
        return wrap(dw.scale_by_power_of_two(words(x), 1 / divisor))
    return wrap(dw.divide_double(words(x), divisor))


@operation(aten.pow.Tensor_Scalar)
def power(x: Extended, exponent: float) -> Extended:
    """x to a power that is a whole number or one and a half; NaN, too, for -inf to one and a half."""
    if float(exponent).is_integer():
        return wrap(dw.power(words(x), int(exponent)))
    if not float(2 * exponent).is_integer():
        raise TypeError(
            f"extended precision: expected a power that is a whole number or one and a half, found {exponent}; "
            "write exp(a * log(x))"
        )
    whole = math.floor(abs(exponent))
    root = dw.square_root(words(x))
    size = wrap(dw.multiply(dw.power(words(x), whole), root) if whole else root)
    return size if exponent > 0 else reciprocal(size)


@operation(aten.rsqrt.default)
def rsqrt(x: Extended) -> Extended:
    """1 / sqrt(x)."""
    return div(1.0, wrap(dw.square_root(words(x))))


@operation(aten.reciprocal.default)
def reciprocal(x: Extended) -> Extended:
    """1 / x."""
    return div(1.0, x)


@operation(aten.addcmul.default)
def addcmul(x: Number, a: Number, b: Number, value: float = 1) -> Extended:
    """x + value a b."""
    return add(x, mul(as_extended(a), b), value)


@operation(aten.addcdiv.default)
def addcdiv(x: Number, a: Number, b: Number, value: float = 1) -> Extended:
    """x + value a / b."""
    return add(x, div(as_extended(a), b), value)


@operation(aten.lerp.Tensor)
def lerp(x: Number, y: Number, weight: Number) -> Extended:
    """x + weight (y - x); for a tensor, as torch's derivative would round 1 less a plain number."""
    return add(x, mul(sub(as_extended(y), x), weight))


def _unary(function: Callable[[Pair], Pair]) -> Callable[[Extended], Extended]:
    return lambda x: wrap(function(words(x)))


for overload, over, function in (
    (aten.abs, aten.abs_, dw.absolute), (aten.sqrt, aten.sqrt_, dw.square_root), (aten.exp, aten.exp_, elementary.exp),
    (aten.expm1, aten.expm1_, elementary.expm1), (aten.log, aten.log_, elementary.log),
    (aten.log1p, aten.log1p_, elementary.log1p), (aten.tanh, aten.tanh_, elementary.tanh),
    (aten.sigmoid, aten.sigmoid_, elementary.sigmoid), (aten.sin, aten.sin_, elementary.sin),
    (aten.cos, aten.cos_, elementary.cos),
):  # fmt: skip
    operation(overload.default)(_unary(function))
    operation(over.default)(in_place(_unary(function)))


@operation(aten.sign.default, aten.sgn.default)
def sign(x: Extended) -> Extended:
    """-1, 0 or 1."""
    return as_extended(words(x)[0].sign())


@operation(aten.frexp.Tensor)
def frexp(x: Extended) -> tuple[Extended, Tensor]:
    """The mantissa, of which the high word is in [1/2, 1], and the exponent."""
    high, low = words(x)
    mantissa, exponent = torch.frexp(high)
    return wrap((mantissa, torch.ldexp(low, -exponent))), exponent


@operation(aten.ldexp.Tensor)
def ldexp(x: Extended, exponent: Tensor) -> Extended:
    """x 2^exponent."""
    high, low = words(x)
    return wrap((torch.ldexp(high, exponent), torch.ldexp(low, exponent)))


def one_minus_square(y: Extended) -> Extended:
    """(1 - y)(1 + y), without the cancellation of 1 - y^2."""
    return mul(sub(1.0, y), add(y, 1.0))


@operation(aten.tanh_backward.default)
def tanh_backward(grad: Number, y: Extended) -> Extended:
    """grad (1 - y^2) at y = tanh x."""
    return mul(one_minus_square(as_extended(y)), grad)


@operation(aten.sigmoid_backward.default)
def sigmoid_backward(grad: Number, y: Extended) -> Extended:
    """grad y (1 - y) at y = sigmoid x."""
    return mul(mul(as_extended(y), sub(1.0, as_extended(y))), grad)


@operation(aten.softplus.default)
def softplus(x: Extended, beta: float = 1, threshold: float = 20) -> Extended:
    """log(1 + exp(beta x)) / beta, and x where beta x exceeds the threshold.

    That jump of 2e-9 is part of the function, as torch defines it and its derivatives; `-logsigmoid(-x)` has none.
    """
    scaled = x if beta == 1 else mul(x, beta)
    value = wrap(elementary.softplus(words(scaled)))
    return where(scaled.high > threshold, x, value if beta == 1 else div(value, beta))


@operation(aten.softplus_backward.default)
def softplus_backward(grad: Number, x: Number, beta: float = 1, threshold: float = 20) -> Extended:
    """grad sigmoid(beta x), and grad beyond the threshold."""
    scaled = as_extended(x) if beta == 1 else mul(as_extended(x), beta)
    slope = wrap(elementary.sigmoid(words(scaled)))
    return where(scaled.high > threshold, grad, mul(slope, grad))


@operation(aten.relu.default)
def relu(x: Extended) -> Extended:
    """max(x, 0), NaN and -0 kept."""
    return where(x.high < 0, 0.0, x)


@operation(aten.threshold_backward.default)
def threshold_backward(grad: Number, x: Number, threshold: float) -> Extended:
    """The gradient where x exceeds the threshold."""
    from diagnostics.arithmetic.operations.comparison import greater

    return where(greater(x, threshold), grad, 0.0)


for out_of_place, over in (
    (add, (aten.add_.Tensor, aten.add_.Scalar)), (sub, (aten.sub_.Tensor, aten.sub_.Scalar)),
    (mul, (aten.mul_.Tensor, aten.mul_.Scalar)), (div, (aten.div_.Tensor, aten.div_.Scalar)),
    (neg, (aten.neg_.default,)), (relu, (aten.relu_.default,)),
    (reciprocal, (aten.reciprocal_.default,)), (addcmul, (aten.addcmul_.default,)), (addcdiv, (aten.addcdiv_.default,)),
):  # fmt: skip
    operation(*over)(in_place(out_of_place))
