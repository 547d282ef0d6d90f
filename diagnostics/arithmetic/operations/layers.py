"""Losses and normalisation, written out from the operations before them."""

from typing import Any

import torch
from torch import Tensor

from diagnostics.arithmetic.extended import Extended, operation, words, wrap
from diagnostics.arithmetic.operations.comparison import clamp, greater
from diagnostics.arithmetic.operations.movement import where
from diagnostics.arithmetic.operations.pointwise import add, as_extended, div, mul, neg, rsqrt, sub
from diagnostics.arithmetic.operations.reduction import mean, total

aten = torch.ops.aten
MEAN, SUM = 1, 2  # aten's codes of a loss's reduction; 0 is none


@operation(aten.mse_loss.default)
def mse_loss(x: Tensor, y: Tensor, reduction: int = MEAN) -> Extended:
    """(x - y)^2.

    Take its derivative outside of `vmap`, or write the mean out: torch's rule for a derivative inside rounds 2 / n.
    """
    away = sub(x, y)
    return _reduced(mul(away, away), reduction)


@operation(aten.mse_loss_backward.default)
def mse_loss_backward(grad: Tensor, x: Tensor, y: Tensor, reduction: int) -> Extended:
    """2 grad (x - y), over the number of terms for a mean."""
    each = mul(mul(sub(x, y), 2.0), grad)
    return div(each, float(x.numel())) if reduction == MEAN else each


@operation(aten.huber_loss.default)
def huber_loss(x: Tensor, y: Tensor, reduction: int = MEAN, delta: float = 1.0) -> Extended:
    """(x - y)^2 / 2, and delta (|x - y| - delta / 2) where |x - y| exceeds delta; see `mse_loss` on `vmap`."""
    away = sub(x, y)
    size = away.abs()
    far = mul(sub(size, 0.5 * delta), delta)
    return _reduced(where(greater(size, delta), far, mul(mul(away, away), 0.5)), reduction)


@operation(aten.huber_loss_backward.default)
def huber_loss_backward(grad: Tensor, x: Tensor, y: Tensor, reduction: int, delta: float) -> Extended:
    """grad (x - y), held within +-delta, over the number of terms for a mean."""
    each = mul(clamp(sub(x, y), -delta, delta), grad)
    return div(each, float(x.numel())) if reduction == MEAN else each


def _reduced(each: Extended, reduction: int) -> Extended:
    return mean(each) if reduction == MEAN else total(each) if reduction == SUM else each


@operation(aten.nll_loss_forward.default)
def nll_loss(
    scores: Extended, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int
) -> tuple[Extended, Extended]:
    """Minus the target's score, and the weight of all targets."""
    counted, weights = _weights(scores, target, weight, ignore_index)
    picked = _pick(scores, torch.where(counted, target, 0))
    each = where(counted, neg(mul(picked, weights)), 0.0)
    all_weights = total(weights)
    if reduction == MEAN:
        return div(total(each), all_weights), all_weights
    return (total(each) if reduction == SUM else each), all_weights


@operation(aten.nll_loss_backward.default)
def nll_loss_backward(
    grad: Tensor,
    scores: Extended,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    total_weight: Tensor,
) -> Extended:
    """Minus the weight, at the targets."""
    counted, weights = _weights(scores, target, weight, ignore_index)
    each = neg(mul(weights, grad))
    if reduction == MEAN:
        each = div(each, total_weight)
    at = torch.where(counted, target, 0).unsqueeze(-1)
    classes = torch.arange(scores.shape[-1], device=target.device)
    return where((classes == at) & counted.unsqueeze(-1), each.unsqueeze(-1), 0.0)


def _pick(scores: Extended, target: Tensor) -> Extended:
    high, low = words(scores)
    at = target.unsqueeze(-1)
    return wrap((high.gather(-1, at).squeeze(-1), low.gather(-1, at).squeeze(-1)))


def _weights(scores: Extended, target: Tensor, weight: Tensor | None, ignore: int) -> tuple[Tensor, Extended]:
    counted = target != ignore
    ones = as_extended(torch.ones(target.shape, dtype=torch.float64, device=target.device))
    if weight is not None:
        ones = _pick(as_extended(weight).expand_as(scores), torch.where(counted, target, 0))  # type: ignore[arg-type]
    return counted, where(counted, ones, 0.0)


def _along_channels(x: Tensor, like: Tensor) -> Tensor:
    return x.view(1, -1, *[1] * (like.dim() - 2))


def _but_channels(x: Tensor) -> tuple[int, ...]:
    return tuple(d for d in range(x.dim()) if d != 1)


@operation(aten.native_batch_norm.default)
def batch_norm(
    x: Extended,
    scale: Tensor | None,
    shift: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Extended, Extended, Extended]:
    """(x - mean) / sqrt(variance + eps) * scale + shift, by the statistics of the batch; and those statistics."""
    if running_mean is not None or running_var is not None or not training:
        raise TypeError(
            "extended precision: expected batch norm by the batch's own statistics, found running ones; "
            "pass track_running_stats=False"
        )
    out, middle, inverse = _standardised(x, _but_channels(x), eps)
    out = out if scale is None else mul(out, _along_channels(scale, x))
    out = out if shift is None else add(out, _along_channels(shift, x))
    return out, middle.flatten(), inverse.flatten()  # type: ignore[return-value]


@operation(aten.native_layer_norm.default)
def layer_norm(
    x: Extended, shape: list[int], scale: Tensor | None, shift: Tensor | None, eps: float
) -> tuple[Extended, Extended, Extended]:
    """(x - mean) / sqrt(variance + eps) * scale + shift, by the statistics of the last dimensions; and those."""
    out, middle, inverse = _standardised(x, tuple(range(-len(shape), 0)), eps)
    out = out if scale is None else mul(out, scale)
    return out if shift is None else add(out, shift), middle, inverse


def _standardised(x: Extended, dims: tuple[int, ...], eps: float) -> tuple[Extended, Extended, Extended]:
    middle = mean(x, dims, True)
    away = sub(x, middle)
    inverse = rsqrt(add(mean(mul(away, away), dims, True), eps))
    return mul(away, inverse), middle, inverse


@operation(aten.native_batch_norm_backward.default)
def batch_norm_backward(
    grad: Tensor,
    x: Extended,
    scale: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    save_mean: Tensor,
    save_invstd: Tensor,
    train: bool,
    eps: float,
    mask: Any,
) -> tuple[Extended, Extended, Extended]:
    """Gradients in x, scale and shift."""
    dims, grad = _but_channels(x), as_extended(grad)
    inverse = as_extended(_along_channels(save_invstd, x))
    normed = mul(sub(x, _along_channels(save_mean, x)), inverse)
    by_scale, by_shift = total(mul(grad, normed), dims, True), total(grad, dims, True)
    count = float(x.numel() // x.shape[1]) if x.shape[1] else 1.0
    by_x = mul(sub(grad, div(add(by_shift, mul(normed, by_scale)), count)), inverse)
    by_x = by_x if scale is None else mul(by_x, _along_channels(scale, x))
    return by_x, by_scale.flatten(), by_shift.flatten()  # type: ignore[return-value]
