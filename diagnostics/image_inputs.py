"""What problems on images state about their inputs: all pixels are of one kind, and the first convolution meets them.

A change of scale can be undone by the kernels of the first block. A shift cannot: the convolutions pad with zeros,
which are not shifted.
"""

import torch
from torch import Tensor

from diagnostics.inputs import Inputs
from diagnostics.rows import Data

IMAGES = ("support_images", "query_images")  # (B, n, C, H, W)


def image_inputs(first: int) -> Inputs:
    """The inputs of a network whose first `first` weights are the kernels that the images meet."""

    def absorb(w: Tensor, shift: Tensor, by: Tensor) -> Tensor | None:
        if shift.any():
            return None
        kernels, others = w.split([first, w.shape[1] - first], dim=1)
        return torch.cat([kernels / by.squeeze(-1), others], dim=1)

    return Inputs(moment=_moment, change=_change, absorb=absorb, centre=_centre, alike=True)


def _centre(data: Data) -> Tensor:
    return data["support_images"].flatten(1).mean(1, keepdim=True)


def _moment(data: Data) -> Tensor:
    return ((data["support_images"].flatten(1) - _centre(data)) ** 2).mean(1).view(-1, 1, 1)


def _change(data: Data, shift: Tensor, by: Tensor) -> Data:
    def changed(x: Tensor) -> Tensor:
        return (x - shift.view(-1, 1, 1, 1, 1)) * by.view(-1, 1, 1, 1, 1)

    return {**data, **{key: changed(data[key]) for key in IMAGES}}
