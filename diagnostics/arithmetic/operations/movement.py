"""Operations that move numbers and compute none: done to each word by itself, and exact."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch

from diagnostics.arithmetic.extended import Extended, Operation, operation, words, wrap

aten = torch.ops.aten

MOVEMENT = (
    aten.alias.default, aten.as_strided.default, aten.clone.default, aten.detach.default,
    aten.diag_embed.default, aten.diagonal.default, aten.diagonal_copy.default, aten.expand.default,
    aten.flip.default, aten.gather.default, aten.index.Tensor,
    aten.index_select.default, aten.lift_fresh.default, aten.permute.default, aten.repeat.default,
    aten.roll.default, aten.select.int, aten.slice.Tensor, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims,
    aten.t.default, aten.transpose.int, aten.tril.default, aten.triu.default, aten.unfold.default,
    aten.unsqueeze.default, aten.view.default, aten._unsafe_view.default, aten._reshape_alias.default,
    aten.new_empty_strided.default,
)  # fmt: skip
INTO_ZEROS = (
    aten.diagonal_backward.default, aten.select_backward.default, aten.slice_backward.default,
)  # fmt: skip
SEVERAL = (aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int)
JOINED = (aten.cat.default, aten.stack.default)
CONSTANT = (
    aten.empty_like.default, aten.full_like.default, aten.new_empty.default, aten.new_full.default,
    aten.new_ones.default, aten.new_zeros.default, aten.ones_like.default, aten.zeros_like.default,
)  # fmt: skip


def _each_word(func: Any) -> Operation:
    def move(x: Tensor, *args: Any, **kwargs: Any) -> Extended:
        high, low = words(x)
        return wrap((func(high, *args, **kwargs), func(low, *args, **kwargs)))

    return move


def _each_piece(func: Any) -> Operation:
    def move(x: Tensor, *args: Any, **kwargs: Any) -> list[Extended]:
        high, low = words(x)
        return [wrap(pair) for pair in zip(func(high, *args, **kwargs), func(low, *args, **kwargs), strict=True)]

    return move


def _each_list(func: Any) -> Operation:
    def move(tensors: list[Tensor], *args: Any, **kwargs: Any) -> Extended:
        pairs = [words(x) for x in tensors]
        return wrap(tuple(func([pair[word] for pair in pairs], *args, **kwargs) for word in (0, 1)))  # type: ignore[arg-type]

    return move


def _constant(func: Any) -> Operation:
    def fill(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        high = func(words(x)[0], *args, **kwargs)
        return wrap((high, torch.zeros_like(high))) if high.dtype == torch.float64 else high

    return fill


for one in (*MOVEMENT, *INTO_ZEROS):
    operation(one)(_each_word(one))
for one in SEVERAL:
    operation(one)(_each_piece(one))
for one in JOINED:
    operation(one)(_each_list(one))
for one in CONSTANT:
    operation(one)(_constant(one))


def _reshaped_in_place(func: Any) -> Operation:
    """Of a tensor's own shape: of the words', and of what torch was told of it."""

    def reshape(x: Extended, *args: Any) -> Extended:
        for word in words(x):
            func(word, *args)
        with no_dispatch():
            func(x, *args)
        return x

    return reshape


for one in (aten.squeeze_.default, aten.squeeze_.dim, aten.squeeze_.dims, aten.unsqueeze_.default):
    operation(one)(_reshaped_in_place(one))


@operation(aten.is_same_size.default)
def is_same_size(x: Tensor, y: Tensor) -> bool:
    """Whether the shapes are equal."""
    return x.shape == y.shape


@operation(aten._has_same_storage_numel.default)
def has_same_storage_numel(x: Tensor, y: Tensor) -> bool:
    """Whether the storages, of which a tangent must have one like its primal, hold as many numbers."""
    sizes = [words(z)[0].untyped_storage().nbytes() for z in (x, y)]
    return sizes[0] == sizes[1]


@operation(aten._to_copy.default)
def to_copy(x: Extended, *, dtype: torch.dtype | None = None, **kwargs: Any) -> Tensor:
    """Onto another device; a change of dtype would lose digits, and is refused, but for whole numbers and truth."""
    if dtype is not None and (dtype.is_floating_point or dtype.is_complex) and dtype != torch.float64:
        raise TypeError(
            f"extended precision: expected to stay in it, found a cast to {dtype}; "
            "leave it by diagnostics.arithmetic.extended.rounded"
        )
    if dtype not in (None, torch.float64):
        return aten._to_copy.default(x.high, dtype=dtype, **kwargs)
    return _each_word(aten._to_copy.default)(x, **kwargs)


@operation(aten.where.self)
def where(condition: Tensor, x: Tensor, y: Tensor) -> Extended:
    """Each number from x or y."""
    (x_high, x_low), (y_high, y_low) = words(x, condition), words(y, condition)
    return wrap((torch.where(condition, x_high, y_high), torch.where(condition, x_low, y_low)))


@operation(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def masked_fill(x: Extended, mask: Tensor, value: Any) -> Extended:
    """x with `value` where the mask is."""
    return where(mask, value, x)


@operation(aten.constant_pad_nd.default)
def constant_pad(x: Extended, pad: Any, value: float = 0.0) -> Extended:
    """x with `value` around it."""
    return wrap((aten.constant_pad_nd(x.high, pad, value), aten.constant_pad_nd(x.low, pad)))


@operation(aten.index_fill.int_Tensor, aten.index_fill.int_Scalar)
def index_fill(x: Tensor, dim: int, index: Tensor, value: Any) -> Extended:
    """x with one number at the indices of a dimension."""
    return wrap(tuple(a.index_fill(dim, index, b) for a, b in zip(words(x), words(value), strict=True)))  # type: ignore[arg-type]


@operation(aten.scatter.value)
def scatter_value(x: Extended, dim: int, index: Tensor, value: float) -> Extended:
    """x with one number at the indices."""
    return wrap((x.high.scatter(dim, index, value), x.low.scatter(dim, index, 0.0)))


@operation(aten.scatter.src)
def scatter(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Extended:
    """x with the source's numbers at the indices."""
    return wrap(tuple(a.scatter(dim, index, b) for a, b in zip(words(x), words(source), strict=True)))  # type: ignore[arg-type]


@operation(aten.copy_.default)
def copy_(x: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """x overwritten; a plain x cannot hold an extended source."""
    if not isinstance(x, Extended):
        raise TypeError(
            "extended precision: expected to write into an extended tensor, found a plain one, which would lose half "
            "of the digits; make it by new_empty or zeros_like of an extended one"
        )
    for word, by in zip(words(x), words(source), strict=True):
        word.copy_(by)
    return x


def in_place(function: Operation) -> Callable[..., Tensor]:
    """The operation, written over its first argument."""
    return lambda x, *args, **kwargs: copy_(x, function(x, *args, **kwargs))


@operation(aten.fill_.Scalar, aten.fill_.Tensor)
def fill_(x: Extended, value: Any) -> Tensor:
    """x filled with one number."""
    return copy_(x, value)


@operation(aten.zero_.default)
def zero_(x: Extended) -> Tensor:
    """x filled with zeros."""
    return copy_(x, 0.0)


@operation(aten.index_put.default)
def index_put(x: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Extended:
    """x with the values at the indices."""
    if accumulate:
        raise TypeError(
            "extended precision: expected index_put without accumulate, whose order of sums is not defined; "
            "use gather, or a product with a matrix of zeros and ones"
        )
    return wrap(tuple(a.index_put(indices, b) for a, b in zip(words(x), words(values), strict=True)))  # type: ignore[arg-type]


operation(aten.index_put_.default)(in_place(index_put))
operation(aten.masked_fill_.Scalar, aten.masked_fill_.Tensor)(in_place(masked_fill))
