"""Convolution through unfolding, and pooling.

A convolution is a product of matrices once the windows of the image are unfolded into columns, and unfolding only
moves numbers. Its derivatives are products with the transposed matrices, and the sum over windows that overlap is one
double-word addition for each place in the kernel.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from diagnostics.arithmetic.extended import Extended, operation, words, wrap
from diagnostics.arithmetic.operations.algebra import bmm
from diagnostics.arithmetic.operations.comparison import greater
from diagnostics.arithmetic.operations.movement import where
from diagnostics.arithmetic.operations.pointwise import add, as_extended, div
from diagnostics.arithmetic.operations.reduction import total

aten = torch.ops.aten
Two = tuple[int, int]


def _two(value: Any) -> Two:
    values = (value,) if isinstance(value, int) else tuple(value)
    if len(values) not in (1, 2):
        raise TypeError(f"extended precision: expected a window of one or two dimensions, found {len(values)}")
    return (values[0], values[-1])


def _positions(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _window(place: Two, out: Two, stride: Two, dilation: Two) -> tuple[slice, slice]:
    """Where one place of the kernel lies in the padded image, for every position of the kernel."""
    starts = [p * d for p, d in zip(place, dilation, strict=True)]
    return tuple(slice(b, b + s * (n - 1) + 1, s) for b, s, n in zip(starts, stride, out, strict=True))  # type: ignore[return-value]


def _places(kernel: Two) -> list[Two]:
    return [(row, column) for row in range(kernel[0]) for column in range(kernel[1])]


def unfold(x: Tensor, kernel: Two, stride: Two, padding: Two, dilation: Two) -> Extended:
    """Windows `(images, C, kernel places, out places)` of `x (images, C, H, W)`, zero beyond the border."""
    out: Two = tuple(_positions(*s) for s in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True))  # type: ignore[assignment]
    border = (padding[1], padding[1], padding[0], padding[0])
    pair = []
    for word in words(x):
        padded = functional.pad(word, border)
        windows = [padded[(..., *_window(place, out, stride, dilation))] for place in _places(kernel)]
        pair.append(torch.stack(windows, 2).flatten(3))
    return wrap((pair[0], pair[1]))


def fold(columns: Extended, size: Two, out: Two, kernel: Two, stride: Two, padding: Two, dilation: Two) -> Extended:
    """The transpose of `unfold`: windows summed back into images `(images, C, *size)`."""
    images, channels = columns.shape[:2]
    padded = [n + 2 * p for n, p in zip(size, padding, strict=True)]
    sums = as_extended(columns.high.new_zeros(images, channels, *padded))
    for index, place in enumerate(_places(kernel)):
        at = (..., *_window(place, out, stride, dilation))
        piece = wrap(tuple(word[:, :, index].unflatten(-1, out) for word in words(columns)))  # type: ignore[arg-type]
        more = add(wrap(tuple(word[at] for word in words(sums))), piece)  # type: ignore[arg-type]
        for word, by in zip(words(sums), words(more), strict=True):
            word[at] = by
    inside = tuple(slice(p, p + n) for p, n in zip(padding, size, strict=True))
    return wrap(tuple(word[(..., *inside)].contiguous() for word in words(sums)))  # type: ignore[arg-type]


def _grouped(columns: Tensor, groups: int) -> Tensor:
    """`(images, C, kernel, out) -> (groups, C/groups * kernel, images * out)`."""
    images, channels, kernel, out = columns.shape
    split = columns.reshape(images, groups, channels // groups * kernel, out)
    return split.permute(1, 2, 0, 3).reshape(groups, channels // groups * kernel, images * out)


def _by_group(x: Tensor, groups: int) -> Tensor:
    """`(images, C, ...) -> (groups, C/groups, images * places)`."""
    images, channels = x.shape[:2]
    places = math.prod(x.shape[2:])
    split = x.reshape(images, groups, channels // groups, places)
    return split.permute(1, 2, 0, 3).reshape(groups, channels // groups, images * places)


def _from_groups(x: Tensor, images: int) -> Tensor:
    """`(groups, C/groups, images * places) -> (images, C, places)`."""
    groups, channels, size = x.shape
    places = size // max(images, 1)
    return x.reshape(groups, channels, images, places).permute(2, 0, 1, 3).reshape(images, groups * channels, places)


def _forward(x: Tensor, weight: Tensor, stride: Two, padding: Two, dilation: Two, groups: int) -> Tensor:
    kernel: Two = (weight.shape[2], weight.shape[3])
    columns = _grouped(unfold(x, kernel, stride, padding, dilation), groups)
    product = bmm(weight.reshape(groups, weight.shape[0] // groups, -1), columns)
    out = [_positions(*s) for s in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)]
    return _from_groups(product, x.shape[0]).reshape(x.shape[0], weight.shape[0], *out).contiguous()


def _by_input(grad: Tensor, weight: Tensor, size: Two, stride: Two, padding: Two, dilation: Two, groups: int) -> Tensor:
    """The gradient of `_forward` in x, of images of `size`; also the transposed convolution."""
    images, out = grad.shape[0], (grad.shape[2], grad.shape[3])
    kernel: Two = (weight.shape[2], weight.shape[3])
    flat = weight.reshape(groups, weight.shape[0] // groups, -1)
    columns = _from_groups(bmm(flat.transpose(1, 2), _by_group(grad, groups)), images)
    windows = columns.reshape(images, groups * weight.shape[1], kernel[0] * kernel[1], columns.shape[2])
    return fold(windows, size, out, kernel, stride, padding, dilation)  # type: ignore[arg-type]


def _by_weight(grad: Tensor, x: Tensor, kernel: Two, stride: Two, padding: Two, dilation: Two, groups: int) -> Tensor:
    """The gradient of `_forward` in the weight `(C out, C in / groups, *kernel)`."""
    # The kernel's position beyond the last of grad, where the stride leaves a rest, has no part in the product.
    columns = unfold(x, kernel, stride, padding, dilation)
    product = bmm(_by_group(grad, groups), _grouped(columns, groups).transpose(1, 2))
    return product.reshape(grad.shape[1], x.shape[1] // groups, *kernel)


@operation(aten.convolution.default)
def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Tensor:
    """Convolution of one or two dimensions, also transposed."""
    if x.dim() == 3:
        flat = [None if v is None else [1, *v] for v in (stride, dilation)]
        padded = [[0, *v] for v in (padding, output_padding)]
        y = convolution(
            x.unsqueeze(2), weight.unsqueeze(2), bias, flat[0], padded[0], flat[1], transposed, padded[1], groups
        )
        return y.squeeze(2)
    stride, padding, dilation = _two(stride), _two(padding), _two(dilation)
    if transposed:
        size = [
            (n - 1) * s - 2 * p + d * (k - 1) + o + 1
            for n, s, p, d, k, o in zip(
                x.shape[2:], stride, padding, dilation, weight.shape[2:], _two(output_padding), strict=True
            )
        ]
        y = _by_input(x, weight, (size[0], size[1]), stride, padding, dilation, groups)
    else:
        y = _forward(x, weight, stride, padding, dilation, groups)
    return y if bias is None else add(y, bias.reshape(1, -1, 1, 1))


@operation(aten.convolution_backward.default)
def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    mask: list[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients in the input, the weight and the bias."""
    if x.dim() == 3:
        by_x, by_w, by_b = convolution_backward(
            grad.unsqueeze(2), x.unsqueeze(2), weight.unsqueeze(2), bias_sizes, [1, *stride], [0, *padding],
            [1, *dilation], transposed, [0, *output_padding], groups, mask,
        )  # fmt: skip
        return None if by_x is None else by_x.squeeze(2), None if by_w is None else by_w.squeeze(2), by_b
    stride, padding, dilation = _two(stride), _two(padding), _two(dilation)
    kernel: Two = (weight.shape[2], weight.shape[3])
    size: Two = (x.shape[2], x.shape[3])
    if transposed:  # x is what the plain convolution would put out, and grad what it would take in
        by_x = _forward(grad, weight, stride, padding, dilation, groups) if mask[0] else None
        by_w = _by_weight(x, grad, kernel, stride, padding, dilation, groups) if mask[1] else None
    else:
        by_x = _by_input(grad, weight, size, stride, padding, dilation, groups) if mask[0] else None
        by_w = _by_weight(grad, x, kernel, stride, padding, dilation, groups) if mask[1] else None
    by_b = total(as_extended(grad), (0, 2, 3)) if mask[2] else None
    return by_x, by_w, by_b


def _pooled(x: Tensor, kernel: Any, stride: Any, padding: Any, ceil_mode: bool) -> tuple[Two, Two, Two, Two]:
    kernel, padding = _two(kernel), _two(padding)
    stride = _two(stride) if stride else kernel
    if ceil_mode:
        raise TypeError("extended precision: expected pooling without ceil_mode; pad the image instead")
    out = [_positions(n, k, s, p, 1) for n, k, s, p in zip(x.shape[-2:], kernel, stride, padding, strict=True)]
    return kernel, stride, padding, (out[0], out[1])


@operation(aten.max_pool2d_with_indices.default)
def max_pool(
    x: Extended, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> tuple[Extended, Tensor]:
    """The largest number of each window, and where in the image it is; the first of several."""
    kernel, stride, padding, _ = _pooled(x, kernel, stride, padding, ceil_mode)
    dilation = _two(dilation)
    height, width = (_positions(*s) for s in zip(x.shape[-2:], kernel, stride, padding, dilation, strict=True))
    out = (height, width)
    border = (padding[1], padding[1], padding[0], padding[0])
    high, low = functional.pad(x.high, border, value=-torch.inf), functional.pad(x.low, border)
    place_of = torch.arange(x.shape[-2] * x.shape[-1], device=x.device).view(x.shape[-2], x.shape[-1])
    place_of = functional.pad(place_of, border).expand(high.shape)
    best, index = None, torch.empty(0)
    for place in _places(kernel):
        at = (..., *_window(place, out, stride, dilation))
        candidate, where_it_is = wrap((high[at], low[at])), place_of[at]
        if best is None:
            best, index = candidate, where_it_is
            continue
        better = greater(candidate, best) | candidate.high.isnan()
        best, index = where(better, candidate, best), torch.where(better, where_it_is, index)
    assert best is not None
    return wrap((best.high.contiguous(), best.low.contiguous())), index.contiguous()


@operation(aten.max_pool2d_with_indices_backward.default)
def max_pool_backward(
    grad: Tensor, x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, indices: Tensor
) -> Extended:
    """Each gradient back to where its number came from."""
    kernel, stride, padding, _ = _pooled(x, kernel, stride, padding, ceil_mode)
    dilation = _two(dilation)
    out: Two = (grad.shape[-2], grad.shape[-1])
    width = x.shape[-1]
    rows = torch.arange(out[0], device=x.device).view(-1, 1) * stride[0] - padding[0]
    columns = torch.arange(out[1], device=x.device) * stride[1] - padding[1]
    windows = []
    for row, column in _places(kernel):
        at = (rows + row * dilation[0]) * width + columns + column * dilation[1]
        # Beyond the border a place's number may be another's, but what lands there is cut off.
        windows.append(where(indices == at, grad, 0.0))
    pair = tuple(torch.stack([window_words[i] for window_words in map(words, windows)], -3) for i in (0, 1))
    batched = pair[0].dim() == 5
    stacked = wrap(tuple((w if batched else w.unsqueeze(0)).flatten(3) for w in pair))  # type: ignore[arg-type]
    folded = fold(stacked, (x.shape[-2], width), out, kernel, stride, padding, dilation)
    return folded if batched else folded.squeeze(0)  # type: ignore[return-value]


@operation(aten.avg_pool2d.default)
def avg_pool(
    x: Extended,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window."""
    kernel, stride, padding, out = _pooled(x, kernel, stride, padding, ceil_mode)
    count = _divisor(kernel, padding, count_include_pad, divisor_override)
    windows = unfold(x if x.dim() == 4 else x.unsqueeze(0), kernel, stride, padding, (1, 1))
    y = div(total(windows, 2), count).unflatten(-1, out)
    return y if x.dim() == 4 else y.squeeze(0)


@operation(aten.avg_pool2d_backward.default)
def avg_pool_backward(
    grad: Tensor,
    x: Tensor,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Each gradient, over the size of the window, to all of the window."""
    kernel, stride, padding, out = _pooled(x, kernel, stride, padding, ceil_mode)
    count = _divisor(kernel, padding, count_include_pad, divisor_override)
    each = div(grad if grad.dim() == 4 else grad.unsqueeze(0), count)
    flat = wrap(
        tuple(w.flatten(2).unsqueeze(2).expand(-1, -1, kernel[0] * kernel[1], -1) for w in words(each))  # type: ignore[arg-type]
    )
    folded = fold(flat, (x.shape[-2], x.shape[-1]), out, kernel, stride, padding, (1, 1))
    return folded if x.dim() == 4 else folded.squeeze(0)


def _divisor(kernel: Two, padding: Two, count_include_pad: bool, divisor_override: int | None) -> float:
    if padding != (0, 0) and not count_include_pad:
        raise TypeError("extended precision: expected avg_pool2d to count its padding (count_include_pad=True)")
    return float(divisor_override or kernel[0] * kernel[1])
