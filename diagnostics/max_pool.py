"""Max-pool over windows of 2x2 with quick derivatives.

torch pools much faster where a pixel's channels lie next to each other in memory (`channels_last`), so that
images are pooled in that layout, whatever theirs is; the maxima come channel after channel, which is what a convolution
wants, and the pull to the image has the image's layout.

    out = x[places],   pull of g: g at the places, zero elsewhere;   pull of v through that: v[places]
"""

from typing import Any

import torch
from torch import Tensor

WINDOW = (2, 2)
aten = torch.ops.aten


def max_pool(x: Tensor) -> Tensor:
    """The greatest of each window of 2x2, of equals the first: `(n, c, h, w) -> (n, c, h // 2, w // 2)`."""
    return _Pooled.apply(x)[0]


class _Pooled(torch.autograd.Function):
    """The maxima, and where in their channel they were."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        found, places = aten.max_pool2d_with_indices(x.contiguous(memory_format=torch.channels_last), WINDOW)
        return found.contiguous(), places.contiguous(memory_format=layout(x))

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
        g = g.contiguous(memory_format=layout(x))
        return aten.max_pool2d_with_indices_backward(g, x, WINDOW, WINDOW, (0, 0), (1, 1), False, places)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (places,) = ctx.saved_tensors
        if layout(places) == torch.contiguous_format:
            return gradients[0].flatten(2).gather(2, places.flatten(2)).view_as(places), None, None
        pixels = gradients[0].permute(0, 2, 3, 1).flatten(1, 2)
        found = pixels.gather(1, places.permute(0, 2, 3, 1).flatten(1, 2))
        images, _, rows, columns = places.shape
        return found.unflatten(1, (rows, columns)).permute(0, 3, 1, 2).contiguous(), None, None


def layout(x: Tensor) -> torch.memory_format:
    """How the images `x` lie in memory."""
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last
