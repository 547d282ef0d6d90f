"""Convolution of images of one channel, alone and with the batch norm behind it, as one product of matrices.

oneDNN's routines take four times as long for one channel. Here a pixel's nine surroundings are a row of a matrix P,
and a channel's kernel a vector w:

    out = P w + b

The images are data, and P stays what it is along a loop. With P_ the m rows less their mean, the convolution less its
mean over images and pixels is P_ w, so that with a norm's scale s and shift t

    out = P_ (r s w) + t,    r = 1 / sqrt(|P_ w|^2 / m + eps),    dr = -r^3 (C w)' dw,    C = P_' P_ / m

and the bias drops out: its derivative is 0. The derivatives of every order are products with P_ and C; no pass over
the images remains in them, and such passes are most of what a batch norm costs. `r` itself is taken from P_ w, since
w' C w would lose twice the digits where a kernel's weights all but cancel.

Where a pixel's surroundings are another's, as all over a background, so are its numbers, bit for bit.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from diagnostics.batch_norm import EPS


def grey_convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Images `x (B, n, h, w)` by `weight (B, k, 1, 3, 3)` and `bias (B, k)`, zeros around: `(n, B k, h, w)`."""
    return _as_images(torch.baddbmm(bias.unsqueeze(1), _surroundings(x), weight.flatten(2).mT), x.shape)


def normed_grey_convolution(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`batch_norm` of the `grey_convolution`, with the norm's `scale` and `shift (B, k)` and any bias before it."""
    patches = _surroundings(x)
    centred = patches - patches.mean(1, keepdim=True)
    kernels = weight.flatten(2)
    moments = centred.mT @ centred / centred.shape[1]
    by = (_Reciprocal.apply(kernels, centred, moments) * scale).unsqueeze(-1)
    with_ones = functional.pad(centred, (0, 1), value=1.0)  # the shift by the product too, and not by a pass of its own
    return _as_images(with_ones @ torch.cat([kernels * by, shift.unsqueeze(-1)], -1).mT, x.shape)


class _Reciprocal(torch.autograd.Function):
    """`r (B, k)` of the kernels `(B, k, 9)`."""

    @staticmethod
    def forward(kernels: Tensor, centred: Tensor, moments: Tensor) -> Tensor:
        found = kernels @ centred.mT
        return ((found * found).mean(2) + EPS).rsqrt()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        kernels, centred, moments, r = ctx.saved_tensors
        by = (-gradients[0] * r * r * r).unsqueeze(-1)
        to_images = None
        if ctx.needs_input_grad[1]:
            to_images = centred @ (kernels.mT @ (kernels * by)) / centred.shape[1]
        return by * (kernels @ moments), to_images, None


def _surroundings(x: Tensor) -> Tensor:
    """P: the nine numbers around and at each pixel, `(B, n h w, 9)`."""
    height, width = x.shape[2:]
    around = functional.pad(x, (1, 1, 1, 1))
    shifted = [around[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return torch.stack(shifted, -1).reshape(len(x), -1, 9)


def _as_images(rows: Tensor, shape: torch.Size) -> Tensor:
    """`rows (B, n h w, k)` as images `(n, B k, h, w)` with a pixel's channels together in memory."""
    tasks, images, height, width = shape
    found = rows.view(tasks, images, height, width, -1).permute(1, 2, 3, 0, 4)
    return found.reshape(images, height, width, -1).permute(0, 3, 1, 2)
