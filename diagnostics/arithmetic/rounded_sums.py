"""Products and sums in a format's own accumulation: each product and each partial sum is rounded, in sequence.

    s_0 = 0,    s_(i+1) = round(s_i + round(x_i y_i))

Numbers of the format are held in float32, where one product, one sum, one quotient and one root, rounded again to the
format, are correctly rounded: 24 bits are at least twice 11 (or 8) plus 2 (Figueroa 1995). Every function here maps
such tensors to such tensors; `Rounding` says to which format. What a loop over slices costs is the price of saying
exactly what is computed.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

Rounding = Callable[[Tensor], Tensor]  # float32 -> float32, to numbers of the format


def total(x: Tensor, dims: Sequence[int] | None, round_: Rounding, *, keep: bool = False) -> Tensor:
    """The sum over `dims` (None or empty: all), in row-major order, each partial sum rounded."""
    dims = [d % x.dim() for d in dims] if dims and x.dim() else list(range(x.dim()))
    kept = [d for d in range(x.dim()) if d not in dims]
    terms = x.permute([*sorted(dims), *kept]).reshape(prod(x.shape[d] for d in dims), *(x.shape[d] for d in kept))
    value = terms[0].clone() if len(terms) else terms.new_zeros(terms.shape[1:])
    for term in terms[1:]:
        value = round_(value + term)
    return value.reshape([1 if d in dims else size for d, size in enumerate(x.shape)]) if keep else value


def product(a: Tensor, b: Tensor, round_: Rounding) -> Tensor:
    """The matrix product of `a (..., m, k)` and `b (..., k, n)`; batch dimensions broadcast."""
    shape = (*torch.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    value = a.new_zeros(shape)
    for i in range(a.shape[-1]):
        value = round_(value + round_(a[..., :, i, None] * b[..., None, i, :]))
    return value


def _sum(round_: Rounding, x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    return total(x, [dim] if isinstance(dim, int) else dim, round_, keep=keepdim)


def _mean(round_: Rounding, x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    value = _sum(round_, x, dim, keepdim)
    return round_(value / (x.numel() / max(value.numel(), 1)))


def _mm(round_: Rounding, a: Tensor, b: Tensor) -> Tensor:
    return product(a, b, round_)


def _mv(round_: Rounding, a: Tensor, x: Tensor) -> Tensor:
    return product(a, x.unsqueeze(-1), round_).squeeze(-1)


def _dot(round_: Rounding, x: Tensor, y: Tensor) -> Tensor:
    return total(round_(x * y), None, round_)


def _addmm(round_: Rounding, c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return round_(round_(beta * c) + round_(alpha * product(a, b, round_)))


def _norm(round_: Rounding, x: Tensor, ord: float = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
    if ord != 2:
        raise NotImplementedError(f"norm: expected the Euclidean one in this accumulation, found ord={ord}")
    return round_(_sum(round_, round_(x * x), dim, keepdim).sqrt())


def _softmax(round_: Rounding, x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    exponential = round_((round_(x - x.amax(dim, keepdim=True))).exp())
    return round_(exponential / total(exponential, [dim], round_, keep=True))


def _softmax_backward(round_: Rounding, grad: Tensor, output: Tensor, dim: int, dtype: Any) -> Tensor:
    along = total(round_(grad * output), [dim], round_, keep=True)
    return round_(output * round_(grad - along))


def _log_softmax(round_: Rounding, x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    shifted = round_(x - x.amax(dim, keepdim=True))
    return round_(shifted - round_(total(round_(shifted.exp()), [dim], round_, keep=True).log()))


def _log_softmax_backward(round_: Rounding, grad: Tensor, output: Tensor, dim: int, dtype: Any) -> Tensor:
    return round_(grad - round_(round_(output.exp()) * total(grad, [dim], round_, keep=True)))


def _over_channels(x: Tensor) -> tuple[list[int], list[int]]:
    """The dimensions that batch norm sums over, and the shape in which a vector over channels broadcasts."""
    return [d for d in range(x.dim()) if d != 1], [1, -1] + [1] * (x.dim() - 2)


def _batch_norm(
    round_: Rounding,
    x: Tensor,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    if mean is not None or not training:
        raise NotImplementedError("batch norm: expected statistics of the batch at hand; pass no running statistics")
    dims, shape = _over_channels(x)
    count = x.numel() // x.shape[1]
    mean = round_(total(x, dims, round_) / count)
    centred = round_(x - mean.view(shape))
    variance = round_(total(round_(centred * centred), dims, round_) / count)
    scale = round_(1 / round_(round_(variance + eps).sqrt()))
    y = round_(centred * scale.view(shape))
    y = y if weight is None else round_(y * weight.view(shape))
    return (y if bias is None else round_(y + bias.view(shape))), mean, scale


def _batch_norm_backward(
    round_: Rounding, grad: Tensor, x: Tensor, weight: Any, _m: Any, _v: Any, mean: Tensor, scale: Tensor, train: bool,
    eps: float, output_mask: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dims, shape = _over_channels(x)
    unit = round_(round_(x - mean.view(shape)) * scale.view(shape))
    by_weight, by_bias = total(round_(grad * unit), dims, round_), total(grad, dims, round_)
    pulled = round_(by_bias.view(shape) + round_(unit * by_weight.view(shape)))
    factor = scale if weight is None else round_(scale * weight)
    by_x = round_(factor.view(shape) * round_(grad - round_(pulled / (x.numel() // x.shape[1]))))
    return by_x, by_weight, by_bias


def _nll_loss(round_: Rounding, scores: Tensor, target: Tensor, weight: Any, reduction: int, ignored: int) -> Any:
    each, count = torch.ops.aten.nll_loss_forward(scores, target, weight, 0, ignored)
    if reduction == 0:
        return each, count
    if weight is not None:
        raise NotImplementedError("nll_loss: expected no class weights in this accumulation")
    counted = (target != ignored).sum().to(scores.dtype)
    value = total(each, None, round_)
    return (round_(value / counted) if reduction == 1 else value), counted


def _mse_loss(round_: Rounding, x: Tensor, y: Tensor, reduction: int = 1) -> Tensor:
    away = round_(x - y)
    square = round_(away * away)
    return square if reduction == 0 else (_mean if reduction == 1 else _sum)(round_, square)


def _scatter_add(round_: Rounding, x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    value = x.clone()
    for i in range(index.shape[dim]):  # one slice has no target twice, so each addition is one rounding
        value = round_(value.scatter_add(dim, index.narrow(dim, i, 1), source.narrow(dim, i, 1)))
    return value


# The operations whose accumulation is defined here, by the names of `after_each.KINDS`.
OPERATIONS: dict[str, Callable[..., Any]] = {
    "sum": _sum, "mean": _mean, "linalg_vector_norm": _norm,
    "mm": _mm, "bmm": _mm, "mv": _mv, "dot": _dot, "addmm": _addmm, "baddbmm": _addmm,
    "_softmax": _softmax, "_softmax_backward_data": _softmax_backward,
    "_log_softmax": _log_softmax, "_log_softmax_backward_data": _log_softmax_backward,
    "native_batch_norm": _batch_norm, "native_batch_norm_backward": _batch_norm_backward,
    "nll_loss_forward": _nll_loss, "mse_loss": _mse_loss, "scatter_add": _scatter_add,
}  # fmt: skip
