"""Convolution of 3x3 with quick derivatives.

torch's own second derivative takes the pull to the weight by a convolution whose kernels are whole images, in three
times the time of the routine that gives the weight's gradient in the first place. With * for the convolution,

    out = x * w + b;   pull of g: to x: x'(g, w), to w: w'(g, x), to b: <g, 1>
    pull of (v_x, v_w, v_b) through that: to g: v_x * w + x * v_w + v_b, to x: x'(g, v_w), to w: w'(g, v_x)

where x' and w' are the gradients in image and weight.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

aten = torch.ops.aten


def convolution(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """`x (n, groups c, h, w)` by `weight (groups k, c, 3, 3)` and `bias (groups k,)`, zeros around the image."""
    return _Convolved.apply(x, weight, bias, groups)


def pulls(g: Tensor, x: Tensor, weight: Tensor, groups: int, wanted: tuple[bool, bool, bool]) -> Any:
    """What is `wanted` of the gradients in image, weight and bias."""
    around, step = (1, 1), (1, 1)
    return aten.convolution_backward(g, x, weight, [len(weight)], step, around, step, False, (0, 0), groups, wanted)


class _Convolved(torch.autograd.Function):
    """The convolution."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
        return functional.conv2d(x, weight, bias, padding=1, groups=groups)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.groups = inputs[3]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return *_Pull.apply(gradients[0], *ctx.saved_tensors, ctx.groups, ctx.needs_input_grad[0]), None


class _Pull(torch.autograd.Function):
    """The pull of g to image, weight and bias."""

    @staticmethod
    def forward(g: Tensor, x: Tensor, weight: Tensor, groups: int, to_image: bool) -> Any:
        return pulls(g, x, weight, groups, (to_image, True, True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.groups = inputs[3]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *pulled: Tensor | None) -> Any:
        g, x, weight = ctx.saved_tensors
        v_x, v_w, v_b = pulled
        to_g = to_x = to_w = None
        if v_w is not None:
            to_g = functional.conv2d(x, v_w, v_b, padding=1, groups=ctx.groups)
            if ctx.needs_input_grad[1]:
                to_x = pulls(g, x, v_w, ctx.groups, (True, False, False))[0]
        elif v_b is not None:
            to_g = v_b.view(1, -1, 1, 1).expand_as(g)
        if v_x is not None:
            along = functional.conv2d(v_x, weight, padding=1, groups=ctx.groups)
            to_g = along if to_g is None else to_g + along
            to_w = pulls(g, v_x, weight, ctx.groups, (False, True, False))[1]
        return to_g, to_x, to_w, None, None
