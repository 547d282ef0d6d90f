"""Comparisons, by the high words and, where those are equal, by the low ones; and what rests on them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diagnostics.arithmetic.extended import Extended, operation, words, wrap
from diagnostics.arithmetic.operations.movement import in_place, where

aten = torch.ops.aten
Number = Tensor | float


def _of(x: Number, y: Number) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    device_of = next(z for z in (x, y) if isinstance(z, Tensor))
    return (*words(x, device_of), *words(y, device_of))


@operation(aten.lt.Tensor, aten.lt.Scalar)
def less(x: Number, y: Number) -> Tensor:
    """x < y."""
    x_high, x_low, y_high, y_low = _of(x, y)
    return (x_high < y_high) | ((x_high == y_high) & (x_low < y_low))


@operation(aten.gt.Tensor, aten.gt.Scalar)
def greater(x: Number, y: Number) -> Tensor:
    """x > y."""
    return less(y, x)


@operation(aten.eq.Tensor, aten.eq.Scalar)
def equal_to(x: Number, y: Number) -> Tensor:
    """x == y."""
    x_high, x_low, y_high, y_low = _of(x, y)
    return (x_high == y_high) & (x_low == y_low)


@operation(aten.ne.Tensor, aten.ne.Scalar)
def different(x: Number, y: Number) -> Tensor:
    """x != y, true for NaN."""
    return ~equal_to(x, y)


@operation(aten.le.Tensor, aten.le.Scalar)
def at_most(x: Number, y: Number) -> Tensor:
    """x <= y."""
    return less(x, y) | equal_to(x, y)


@operation(aten.ge.Tensor, aten.ge.Scalar)
def at_least(x: Number, y: Number) -> Tensor:
    """x >= y."""
    return at_most(y, x)


@operation(aten.equal.default)
def equal(x: Tensor, y: Tensor) -> bool:
    """Whether all numbers are equal."""
    return x.shape == y.shape and bool(equal_to(x, y).all())


@operation(aten.isnan.default)
def isnan(x: Extended) -> Tensor:
    """Which are NaN."""
    return x.high.isnan()


@operation(aten.isinf.default)
def isinf(x: Extended) -> Tensor:
    """Which are infinite."""
    return x.high.isinf()


@operation(aten._local_scalar_dense.default)
def item(x: Extended) -> float:
    """The one number, rounded to float64."""
    return float(x.high)


@operation(aten.is_nonzero.default)
def is_nonzero(x: Extended) -> bool:
    """Whether the one number is not zero."""
    return bool(x.high != 0)


def _outer(better: Callable[[Number, Number], Tensor]) -> Callable[[Number, Number], Extended]:
    """The better of two numbers; NaN where either is."""

    def choose(x: Number, y: Number) -> Extended:
        first = better(x, y) | _of(x, y)[0].isnan()
        return where(first, x, y)

    return choose


maximum, minimum = _outer(greater), _outer(less)
operation(aten.maximum.default)(maximum)
operation(aten.minimum.default)(minimum)


operation(aten.clamp_min.Tensor)(maximum)
operation(aten.clamp_max.Tensor)(minimum)


@operation(aten.clamp_min.default)
def clamp_min(x: Extended, least: float) -> Extended:
    """max(x, least); of two equal ones, which may be zeros of either sign, x."""
    return where(at_least(x, least) | x.high.isnan(), x, least)


@operation(aten.clamp_max.default)
def clamp_max(x: Extended, most: float) -> Extended:
    """min(x, most)."""
    return where(at_most(x, most) | x.high.isnan(), x, most)


@operation(aten.clamp.default)
def clamp(x: Extended, least: float | None = None, most: float | None = None) -> Extended:
    """x within both limits."""
    x = x if least is None else clamp_min(x, least)
    return x if most is None else clamp_max(x, most)


@operation(aten.clamp.Tensor)
def clamp_between(x: Extended, least: Tensor | None = None, most: Tensor | None = None) -> Extended:
    """x within both limits, one for each number."""
    x = x if least is None else maximum(x, least)
    return x if most is None else minimum(x, most)


for out_of_place, over in (
    (clamp_min, aten.clamp_min_.default), (maximum, aten.clamp_min_.Tensor), (clamp_max, aten.clamp_max_.default),
    (minimum, aten.clamp_max_.Tensor), (clamp, aten.clamp_.default), (clamp_between, aten.clamp_.Tensor),
):  # fmt: skip
    operation(over)(in_place(out_of_place))


def extreme(x: Extended, dims: tuple[int, ...], keepdim: bool, largest: bool) -> Extended:
    """The largest or smallest number along `dims`; NaN where there is one."""
    best = torch.amax if largest else torch.amin
    high = best(x.high, dims, keepdim=True)
    rest = torch.where(x.high == high, x.low, -torch.inf if largest else torch.inf)
    low = torch.where(high.isfinite(), best(rest, dims, keepdim=True), 0.0)
    if not keepdim:
        high, low = high.squeeze(dims), low.squeeze(dims)
    return wrap((high, low))


def _dims(x: Tensor, dim: Any) -> tuple[int, ...]:
    dims = (dim,) if isinstance(dim, int) else tuple(dim or ())
    return dims or tuple(range(x.dim()))


@operation(aten.amax.default)
def amax(x: Extended, dim: Any = (), keepdim: bool = False) -> Extended:
    """The largest along dimensions."""
    return extreme(x, _dims(x, dim), keepdim, largest=True)


@operation(aten.amin.default)
def amin(x: Extended, dim: Any = (), keepdim: bool = False) -> Extended:
    """The smallest along dimensions."""
    return extreme(x, _dims(x, dim), keepdim, largest=False)


@operation(aten.max.default)
def max_of_all(x: Extended) -> Extended:
    """The largest of all."""
    return amax(x)


@operation(aten.min.default)
def min_of_all(x: Extended) -> Extended:
    """The smallest of all."""
    return amin(x)


@operation(aten.argmax.default)
def argmax(x: Extended, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Where the largest is."""
    flat = dim is None
    best = extreme(x, _dims(x, dim), True, largest=True)
    where_best = (equal_to(x, best) | x.high.isnan()).to(torch.int8)
    return torch.argmax(where_best) if flat else torch.argmax(where_best, dim, keepdim=keepdim)
