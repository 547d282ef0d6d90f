"""Convolution and pooling in two dimensions in a format's own accumulation, as products with the unfolded input.

A convolution is the product of its kernel with the columns of the unfolded input, its derivative by the input the
transpose of that, added back place by place, and its derivative by the kernel a product with the same columns. The
inner dimensions run over channel, then kernel row, then kernel column; over images, then places. See `rounded_sums` for
what is rounded.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from diagnostics.arithmetic.rounded_sums import Rounding, product, total


def _convolution(
    round_: Rounding, x: Tensor, kernel: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int,
) -> Tensor:  # fmt: skip
    _two_dimensional(x)
    how = {"stride": stride, "padding": padding, "dilation": dilation}
    if transposed:
        size = [
            (x.shape[2 + d] - 1) * stride[d] - 2 * padding[d] + dilation[d] * (kernel.shape[2 + d] - 1) + 1
            + output_padding[d]
            for d in (0, 1)
        ]  # fmt: skip
        y = _pushed(round_, x, kernel, size, groups, how)
    else:
        images, (height, width) = len(x), kernel.shape[2:]
        columns = _unfolded(x, (height, width), groups, how)
        y = product(kernel.reshape(groups, len(kernel) // groups, -1), columns, round_)
        size = [_length(x.shape[2 + d], kernel.shape[2 + d], stride[d], padding[d], dilation[d]) for d in (0, 1)]
        y = y.reshape(images, len(kernel), *size)
    return y if bias is None else round_(y + bias.view(1, -1, 1, 1))


def _convolution_backward(
    round_: Rounding, grad: Tensor, x: Tensor, kernel: Tensor, bias_sizes: Any, stride: Any, padding: Any,
    dilation: Any, transposed: bool, output_padding: Any, groups: int, output_mask: Sequence[bool],
) -> tuple[Any, Any, Any]:  # fmt: skip
    _two_dimensional(x)
    how = {"stride": stride, "padding": padding, "dilation": dilation}
    by_x, by_kernel, by_bias = None, None, None
    if output_mask[0]:
        if transposed:
            by_x = _convolution(round_, grad, kernel, None, stride, padding, dilation, False, output_padding, groups)
        else:
            by_x = _pushed(round_, grad, kernel, list(x.shape[2:]), groups, how)
    if output_mask[1]:
        large, small = (grad, x) if transposed else (x, grad)  # the kernel's slides over the large one
        columns = _unfolded(large, tuple(kernel.shape[2:]), groups, how)
        pieces = small.reshape(len(small), groups, small.shape[1] // groups, -1)
        by_kernel = product(  # summed over images, then places
            pieces.permute(1, 2, 0, 3).flatten(2), columns.permute(1, 2, 0, 3).flatten(2).mT, round_
        ).reshape(kernel.shape)
    if output_mask[2]:
        by_bias = total(grad, [0, 2, 3], round_)
    return by_x, by_kernel, by_bias


def _two_dimensional(x: Tensor) -> None:
    if x.dim() != 4:
        raise NotImplementedError(f"convolution: expected two dimensions in this accumulation, found {x.dim() - 2}")


def _length(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _unfolded(x: Tensor, kernel: tuple[int, ...], groups: int, how: dict[str, Any]) -> Tensor:
    """Columns `(images, groups, channels * kernel, places)` of `x (images, groups * channels, height, width)`."""
    columns = functional.unfold(x, kernel, **how)
    return columns.reshape(len(x), groups, -1, columns.shape[-1])


def _pushed(round_: Rounding, y: Tensor, kernel: Tensor, size: list[int], groups: int, how: dict[str, Any]) -> Tensor:
    """The transpose of the convolution: each place's column is added where it came from, one kernel entry at a time."""
    images, (height, width) = len(y), kernel.shape[2:]
    columns = product(
        kernel.reshape(groups, len(kernel) // groups, -1).mT,
        y.reshape(images, groups, len(kernel) // groups, -1),
        round_,
    )
    padding, stride, dilation = how["padding"], how["stride"], how["dilation"]
    places = [_length(size[d], kernel.shape[2 + d], stride[d], padding[d], dilation[d]) for d in (0, 1)]
    columns = columns.reshape(images, -1, height, width, *places)
    value = columns.new_zeros(images, columns.shape[1], size[0] + 2 * padding[0], size[1] + 2 * padding[1])
    for row in range(height):
        for column in range(width):  # the places of one kernel entry do not overlap
            at = [
                slice(entry * dilation[d], entry * dilation[d] + stride[d] * places[d], stride[d])
                for d, entry in enumerate((row, column))
            ]
            part = value[:, :, at[0], at[1]]
            part.copy_(round_(part + columns[:, :, row, column]))
    return value[:, :, padding[0] : padding[0] + size[0], padding[1] : padding[1] + size[1]].contiguous()


def _average_pool(
    round_: Rounding, x: Tensor, kernel: Any, stride: Any = (), padding: Any = (0, 0), ceil_mode: bool = False, *_: Any
) -> Tensor:
    if any(padding) or ceil_mode:
        raise NotImplementedError("avg_pool2d: expected neither padding nor ceil_mode in this accumulation")
    stride = stride or kernel
    windows = functional.unfold(x.flatten(0, 1).unsqueeze(1), kernel, stride=stride)
    size = [_length(x.shape[2 + d], kernel[d], stride[d], 0, 1) for d in (0, 1)]
    return round_(total(windows, [1], round_) / prod(kernel)).reshape(*x.shape[:2], *size)


def _pool_backward(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The backward of a pooling whose windows do not overlap, which sums nothing."""

    def pulled(round_: Rounding, grad: Tensor, x: Tensor, kernel: Any, stride: Any, *more: Any) -> Tensor:
        if any(step < length for step, length in zip(stride or kernel, kernel, strict=True)):
            raise NotImplementedError("pooling: expected windows that do not overlap in this accumulation")
        return operation(grad, x, kernel, stride, *more)

    return pulled


# The operations whose accumulation is defined here, by the names of `after_each.KINDS`.
OPERATIONS: dict[str, Callable[..., Any]] = {
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "avg_pool2d": _average_pool,
    "avg_pool2d_backward": _pool_backward(torch.ops.aten.avg_pool2d_backward),
    "max_pool2d_with_indices_backward": _pool_backward(torch.ops.aten.max_pool2d_with_indices_backward),
}
