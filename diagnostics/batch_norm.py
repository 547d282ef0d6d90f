"""Batch norm by the statistics of the batch at hand, with derivatives of every order that are right and quick.

torch's own second derivative of batch norm passes over its numbers some forty times, and its third derivative is wrong
(pytorch issue 186256); its sums over images whose channels lie next to each other in memory (`channels_last`) lose two
digits more than others. Here the norm and its first two derivatives are written out in sums that do not, and what
follows is autograd's. With c = x - mean(x), r = 1 / sqrt(mean(c^2) + eps) and x^ = r c,

    out = w x^ + b
    pull of g:  to x: w r P g;  to w: <g, x^>;  to b: <g, 1>;      P g = g - mean(g) - x^ mean(g x^)

with sums and means over the m images and pixels of a channel. The pull of (v, v_w, v_b) through that is, since x^
changes by r P dx and r by -r^2 <x^, dx> / m,

    to g: w r P v + v_w x^ + v_b
    to x: r v_w P g - w r^2 (mean(x^ g) P v + mean(x^ v) P g + mean(v P g) x^)
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
    per_channel = (1, -1, 1, 1)  # the shape of all that a channel has one of
    return _Normalised.apply(x, weight.view(per_channel), bias.view(per_channel))[0]


class _Normalised(torch.autograd.Function):
    """The norm, with c and r."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        centred, r = statistics(x)
        return torch.addcmul(bias, centred, weight * r), centred, r

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, _ = inputs
        _, centred, r = output
        ctx.mark_non_differentiable(centred, r)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, centred, r)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        if gradients[0] is None:  # nothing else of the outputs can be differentiated
            return None, None, None
        return _Pull.apply(gradients[0], *ctx.saved_tensors)


class _Pull(torch.autograd.Function):
    """The pull of g to x, w and b."""

    @staticmethod
    def forward(g: Tensor, x: Tensor, weight: Tensor, centred: Tensor, r: Tensor) -> Any:
        mean_g, mean_gx = mean(g), mean(g * centred) * r
        scale = weight * r
        to_x = combined(g, scale, centred, -scale * r * mean_gx, -scale * mean_g)
        m = values(g)
        return to_x, mean_gx * m, mean_g * m

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, *pulled: Tensor) -> Any:
        g, x, weight, centred, r, sum_gx, sum_g = ctx.saved_tensors
        m = values(g)
        if torch.is_grad_enabled():  # for the orders beyond: all that depends on x says so
            centred, r = statistics(x)
            return *second(g, centred, weight, r, mean(g * centred) * r, mean(g), *pulled), None, None
        return *second(g, centred, weight, r, sum_gx / m, sum_g / m, *pulled), None, None


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """`c`, and `r`, one a channel."""
    centred = x - mean(x)
    return centred, (mean(centred * centred) + EPS).rsqrt()


def second(
    g: Tensor,
    centred: Tensor,
    weight: Tensor,
    r: Tensor,
    mean_gx: Tensor,
    mean_g: Tensor,
    v: Tensor,
    v_w: Tensor,
    v_b: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The pull of `(v, v_w, v_b)` to g, x and w."""
    mean_v, mean_vx, mean_vg = mean(v), mean(v * centred) * r, mean(v * g)
    along = mean_vg - mean_v * mean_g - mean_vx * mean_gx  # mean(v P g)
    scale = weight * r
    to_g = combined(v, scale, centred, (v_w - scale * mean_vx) * r, v_b - scale * mean_v)
    of_v = -scale * r * mean_gx
    of_g = (v_w - scale * mean_vx) * r
    of_centred = -(scale * r * along + of_v * mean_vx + of_g * mean_gx) * r
    to_x = combined(v, of_v, g, of_g, -(of_v * mean_v + of_g * mean_g))
    return to_g, torch.addcmul(to_x, centred, of_centred), r * along * values(g)


def combined(x: Tensor, a: Tensor, y: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """`a x + b y + c`, where a, b and c are numbers a channel."""
    return torch.addcmul(torch.addcmul(c, x, a), y, b)


def mean(x: Tensor) -> Tensor:
    """Over images and pixels, one a channel."""
    return x.mean((0, 2, 3), keepdim=True)


def values(x: Tensor) -> int:
    """How many a channel has."""
    return x.numel() // x.shape[1]
