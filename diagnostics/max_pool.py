"""Max-pool over windows of 2x2, whose derivatives keep the layout of images in memory.

torch's own second derivative gathers into the layout of one channel after the other, whatever the images have. What
follows would then pass over numbers in two orders at once, which takes several times as long.

    out = x[places],   pull of g: g at the places, zero elsewhere;   pull of v through that: v[places]
"""

from typing import Any

import torch
from torch import Tensor

WINDOW = (2, 2)


def max_pool(x: Tensor) -> Tensor:
    """The greatest of each window of 2x2, of equals the first: `(n, c, h, w) -> (n, c, h // 2, w // 2)`."""
    return _Pooled.apply(x)[0]


class _Pooled(torch.autograd.Function):
    """The maxima, and where in their channel they were."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ops.aten.max_pool2d_with_indices(x, WINDOW)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[0], output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return None if gradients[0] is None else _Spread.apply(gradients[0], *ctx.saved_tensors)


class _Spread(torch.autograd.Function):
    """The pull to the places of the maxima."""

    @staticmethod
    def forward(g: Tensor, x: Tensor, places: Tensor) -> Tensor:
        spread = torch.ops.aten.max_pool2d_with_indices_backward
        return spread(g, x, WINDOW, WINDOW, (0, 0), (1, 1), False, places)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (places,) = ctx.saved_tensors
        pixels = gradients[0].permute(0, 2, 3, 1).flatten(1, 2)  # channels last: a view there
        found = pixels.gather(1, places.permute(0, 2, 3, 1).flatten(1, 2))
        images, _, rows, columns = places.shape
        return found.unflatten(1, (rows, columns)).permute(0, 3, 1, 2), None, None
