"""Batch norm by the statistics of the batch at hand, with derivatives of every order that are right and quick.

torch's own second derivative of batch norm passes over its numbers some forty times, and its third derivative is wrong
(pytorch issue 186256). Here the first two orders are written out, and what follows them is autograd's.

    out = w x^ + b,   x^ = r (x - mean),   r = 1 / sqrt(variance + eps)
    pull of g:  to x: w r P g;  to w: <g, x^>;  to b: <g, 1>;      P g = g - mean(g) - x^ mean(g x^)

with sums and means over the m images and pixels of a channel. The pull of (v, v_w, v_b) through that is, since x^
changes by r P dx and r by -r^2 <x^, dx> / m,

    to g: w r P v + v_w x^ + v_b
    to x: r v_w P g - (w r^2 / m) (<x^, g> P v + <x^, v> P g + <v, P g> x^)
    to w: r <v, P g>
"""

from typing import Any

import torch
from torch import Tensor

EPS = 1e-5


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`(x - mean) / sqrt(variance + 1e-5) * weight + bias` over images and pixels; `x (images, channels, side, side)`.

    The variance is that of the batch, divided by the number of values, as in `torch.nn.functional.batch_norm`.
    """
    return _Normalised.apply(x, weight, bias)[0]


class _Normalised(torch.autograd.Function):
    """The norm, with its mean and r."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, EPS)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, _ = inputs
        _, mean, r = output
        ctx.mark_non_differentiable(mean, r)
        ctx.save_for_backward(x, weight, mean, r)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Pull.apply(gradients[0], *ctx.saved_tensors)


class _Pull(torch.autograd.Function):
    """The pull of g to x, w and b."""

    @staticmethod
    def forward(g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, r: Tensor) -> Any:
        backward = torch.ops.aten.native_batch_norm_backward
        return backward(g, x, weight, None, None, mean, r, True, EPS, [True, True, True])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, *pulled: Tensor) -> Any:
        g, x, weight, mean, r, sum_gx, sum_g = ctx.saved_tensors
        if torch.is_grad_enabled():  # for the orders beyond: all that depends on x says so
            mean = x.mean((0, 2, 3))
            r = ((x - wide(mean)) ** 2).mean((0, 2, 3)).add(EPS).rsqrt()
            normal = (x - wide(mean)) * wide(r)
            sum_gx, sum_g = (g * normal).sum((0, 2, 3)), g.sum((0, 2, 3))
            return *second(g, normal, weight, r, sum_gx, sum_g, *pulled), None, None
        normal = (x - wide(mean.to(x.dtype))) * wide(r.to(x.dtype))
        return *second(g, normal, weight, r.to(x.dtype), sum_gx, sum_g, *pulled), None, None


def second(
    g: Tensor,
    normal: Tensor,
    weight: Tensor,
    r: Tensor,
    sum_gx: Tensor,
    sum_g: Tensor,
    v: Tensor,
    v_w: Tensor,
    v_b: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The pull of `(v, v_w, v_b)` to g, x and w; `normal` is x^, `sum_gx` is <g, x^>, `sum_g` is <g, 1>."""
    m = g.numel() // g.shape[1]
    sum_v, sum_vx, sum_vg = (y.sum((0, 2, 3)) for y in (v, v * normal, v * g))
    along = sum_vg - sum_v * sum_g / m - sum_vx * sum_gx / m  # <v, P g>
    scale = weight * r
    to_g = combined(v, scale, normal, v_w - scale * sum_vx / m, v_b - scale * sum_v / m)
    of_v = -scale * r * sum_gx / m
    of_g = r * v_w - scale * r * sum_vx / m
    of_normal = -(scale * r * along + of_v * sum_vx + of_g * sum_gx) / m
    to_x = combined(v, of_v, g, of_g, -(of_v * sum_v + of_g * sum_g) / m)
    return to_g, torch.addcmul(to_x, normal, wide(of_normal)), r * along


def combined(x: Tensor, a: Tensor, y: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """`a x + b y + c`, a number a channel each."""
    return torch.addcmul(torch.addcmul(wide(c), x, wide(a)), y, wide(b))


def wide(per_channel: Tensor) -> Tensor:
    """`(channels,)` as `(1, channels, 1, 1)`."""
    return per_channel.view(1, -1, 1, 1)
