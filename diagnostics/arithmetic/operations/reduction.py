"""Sums, and what is made of them. Every sum is a tree of double-word additions, which does not depend on other rows.

The variance is missing on purpose: torch's formula of its derivative has the float64 number 2 / (n - 1), which
would lose half of the digits. Write it out from `mean`.
"""

import math
from typing import Any

import torch
from torch import Tensor

from diagnostics.arithmetic import double_word as dw
from diagnostics.arithmetic.extended import Extended, operation, words, wrap
from diagnostics.arithmetic.operations.comparison import amax
from diagnostics.arithmetic.operations.movement import in_place
from diagnostics.arithmetic.operations.pointwise import as_extended, div, mul, sub

aten = torch.ops.aten


def _dims(x: Tensor, dim: Any) -> tuple[int, ...]:
    dims = (dim,) if isinstance(dim, int) else tuple(dim or ())
    return tuple(d % max(x.dim(), 1) for d in dims) or tuple(range(x.dim()))


@operation(aten.sum.default, aten.sum.dim_IntList)
def total(x: Extended, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Extended:
    """The sum along dimensions, of all where none are named."""
    if dtype not in (None, torch.float64):
        raise TypeError(f"extended precision: expected a sum that stays in it, found one to {dtype}")
    high, low = dw.total(words(x), _dims(x, dim), keepdim) if x.dim() else words(x)
    return wrap((high + 0.0, low.clone()))  # a sum of zeros is +0


@operation(aten.mean.default, aten.mean.dim)
def mean(x: Extended, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Extended:
    """The mean along dimensions."""
    count = math.prod(x.shape[d] for d in _dims(x, dim)) if x.dim() else 1
    return div(total(x, dim, keepdim, dtype=dtype), float(count))


@operation(aten.scatter_add.default)
def scatter_add(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Extended:
    """x with the source's numbers added at the indices, one after the other along `dim`: in one order, always."""
    pair = words(x)
    for at, piece in zip(index.split(1, dim), as_extended(source).split(1, dim), strict=False):
        piece = piece[tuple(slice(n) for n in at.shape)]
        high, low = dw.add((pair[0].gather(dim, at), pair[1].gather(dim, at)), words(piece))
        pair = pair[0].scatter(dim, at, high), pair[1].scatter(dim, at, low)
    return wrap(pair)


@operation(aten.index_add.default)
def index_add(x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Extended:
    """x with alpha times the source's slices added at the indices, one after the other."""
    shape = [-1 if d == dim % max(x.dim(), 1) else 1 for d in range(x.dim())]
    source = source if alpha == 1 else mul(source, alpha)
    return scatter_add(x, dim, index.view(shape).expand_as(source), source)


operation(aten.index_add_.default)(in_place(index_add))


@operation(aten.linalg_vector_norm.default)
def vector_norm(
    x: Extended, order: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Extended:
    """The Euclidean norm; other orders are not covered."""
    if order != 2:
        raise TypeError(
            f"extended precision: expected the norm of order 2, found {order}; write it out with abs and sum"
        )
    return wrap(dw.square_root(words(total(mul(x, x), dim, keepdim))))


@operation(aten._log_softmax.default)
def log_softmax(x: Extended, dim: int, half_to_float: bool = False) -> Extended:
    """x - max - log sum exp(x - max)."""
    away = _below_the_greatest(x, dim)
    return sub(away, total(away.exp(), dim, True).log())


@operation(aten._log_softmax_backward_data.default)
def log_softmax_backward(grad: Tensor, y: Extended, dim: int, input_dtype: torch.dtype) -> Extended:
    """grad - softmax sum(grad)."""
    grad = as_extended(grad)
    return sub(grad, mul(as_extended(y).exp(), total(grad, dim, True)))


@operation(aten._softmax.default)
def softmax(x: Extended, dim: int, half_to_float: bool = False) -> Extended:
    """exp(x - max) / sum exp(x - max)."""
    powers = _below_the_greatest(x, dim).exp()
    return div(powers, total(powers, dim, True))


def _below_the_greatest(x: Extended, dim: int) -> Extended:
    return sub(x, amax(x, dim, True)) if x.numel() else x


@operation(aten._softmax_backward_data.default)
def softmax_backward(grad: Tensor, y: Extended, dim: int, input_dtype: torch.dtype) -> Extended:
    """y (grad - sum(grad y))."""
    weighted = mul(as_extended(y), grad)
    return sub(weighted, mul(as_extended(y), total(weighted, dim, True)))
