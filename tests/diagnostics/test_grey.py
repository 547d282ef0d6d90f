"""Convolution of images of one channel, alone and normed: torch's numbers, derivatives of every order, equal bits."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from diagnostics.batch_norm import EPS
from diagnostics.convolution import convolution
from diagnostics.grey import grey_convolution, normed_grey_convolution
from tests.cases import check_ratio, derivatives, provoked, vectors

EPS64 = 2.0**-52


def torchs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.conv2d(x.transpose(0, 1), weight.flatten(0, 1), bias.flatten(), padding=1, groups=len(x))


def normed(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Out of torch's convolution and elementary operations, with a bias before the norm."""
    found = torchs(x, weight, torch.full_like(scale, 0.3))
    centred = found - found.mean((0, 2, 3), keepdim=True)
    variance = (centred * centred).mean((0, 2, 3), keepdim=True)
    return centred / (variance + EPS).sqrt() * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


def numbers(tasks: int) -> tuple[Tensor, ...]:
    x = vectors(tasks, 4 * 6 * 5).view(tasks, 4, 6, 5).clone()
    weight = vectors(tasks, 2 * 9).view(tasks, 2, 1, 3, 3).clone()
    scale, shift = vectors(2 * tasks, 2).view(2, tasks, 2)
    return tuple(part.requires_grad_() for part in (x, weight, scale.clone(), shift.clone()))


def bent(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], orders: int) -> list[Tensor]:
    """`derivatives` of a number made of what it gives, none of which vanish."""
    return derivatives(lambda *given: (0.1 * function(*given) + 0.1).tanh().pow(2).sum(), inputs, orders)


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize(("ours", "truth"), [(grey_convolution, torchs), (normed_grey_convolution, normed)])
def test_value_and_derivatives_by_the_weights(ours, truth, tasks: int) -> None:
    x, *inputs = numbers(tasks)
    x, inputs = x.detach(), inputs[: 2 if ours is grey_convolution else 3]
    found, wanted = ours(x, *inputs).detach(), truth(x, *inputs).detach()
    assert found.is_contiguous(memory_format=torch.channels_last)
    check_ratio("grey convolution", (found - wanted).norm(), EPS64 * 60**0.5 * wanted.norm())
    pairs = [bent(partial(function, x), tuple(inputs), 4) for function in (ours, truth)]
    for order, (one, other) in enumerate(zip(*pairs, strict=True), start=1):
        check_ratio("grey convolution", (one - other).norm(), EPS64 * 60**0.5 * order * other.norm(), order)


def test_derivatives_by_the_images_too() -> None:
    inputs = numbers(2)
    pairs = [bent(function, inputs, 3) for function in (normed_grey_convolution, normed)]
    for order, (one, other) in enumerate(zip(*pairs, strict=True), start=1):
        check_ratio("grey convolution, images", (one - other).norm(), EPS64 * 60**0.5 * order * other.norm(), order)
    assert torch.autograd.gradcheck(normed_grey_convolution, inputs)
    assert torch.autograd.gradgradcheck(normed_grey_convolution, inputs)


def test_images_of_one_grey_have_finite_derivatives() -> None:
    """The variance is 0 within the image, and the edges' zeros are all that differs; a black one has none at all."""
    _, *inputs = numbers(1)
    for grey in (0.0, 0.7):
        x = torch.full((1, 4, 6, 5), grey, dtype=torch.float64)
        pairs = [bent(partial(function, x), tuple(inputs), 3) for function in (normed_grey_convolution, normed)]
        for one, other in zip(*pairs, strict=True):
            check_ratio("grey convolution, one grey", (one - other).norm(), EPS64 * 60**0.5 * 316 * other.norm())


def test_kernels_whose_weights_all_but_cancel_lose_digits_by_the_root_alone() -> None:
    """A mixed second difference of images without edges: |P_ w| is 1/2000 of what a kernel of its length can have."""
    side = torch.linspace(0, torch.pi, 28, dtype=torch.float64).sin().pow(4)
    x = (side.view(-1, 1) * side.roll(2)) * torch.linspace(1, 2, 5, dtype=torch.float64).view(1, 5, 1, 1)
    kernel = 300 * torch.tensor([1.0, -2, 1, -2, 4, -2, 1, -2, 1])
    patches = functional.unfold(x.transpose(0, 1), 3, padding=1).transpose(1, 2).reshape(-1, 9)
    centred = patches - patches.mean(0)
    greatest = torch.linalg.matrix_norm(centred, 2) * kernel.norm()
    condition = float(greatest / (centred @ kernel.double()).norm())
    weight, ones, zeros = kernel.view(1, 1, 1, 3, 3), torch.ones(1, 1), torch.zeros(1, 1)
    truth = normed(x, weight.double(), ones.double(), zeros.double()).flatten()
    unit = 2.0**-24 * condition * truth.norm()
    assert condition > 1000
    found = normed_grey_convolution(x.float(), weight, ones, zeros).double().flatten()
    check_ratio("grey convolution, float32", (found - truth).norm(), unit)
    moments = centred.float().mT @ centred.float() / len(centred)
    by_moments = (centred.float() @ kernel * (kernel @ moments @ kernel + EPS).rsqrt()).double()
    with provoked():
        wanted = truth.view(5, 1, -1).transpose(1, 2).flatten()
        check_ratio("grey convolution, float32", (by_moments - wanted).norm(), unit)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("images", [5, 75])
@pytest.mark.parametrize("function", [grey_convolution, normed_grey_convolution])
def test_a_background_is_of_one_value_to_the_last_bit(function, images: int, dtype: torch.dtype) -> None:
    """Max-pool takes the first of equals: were equal surroundings to give unequal bits, rounding would choose."""
    x = torch.full((1, images, 28, 28), 0.37, dtype=dtype)
    weight, scale, shift = (
        part.to(dtype) for part in (vectors(1, 64 * 9).view(1, 64, 1, 3, 3), *vectors(2, 64).view(2, 1, 64))
    )
    found = function(x, weight, *((shift,) if function is grey_convolution else (scale, shift)))
    first = found[:, :, 1:-1, 1:-1]
    assert bool((first == first[:1, :, :1, :1]).all())
    inner = found[:, :, 1:2, 1:2].expand(-1, -1, 14, 14).contiguous(memory_format=torch.channels_last)
    kernel = vectors(1, 64 * 64 * 9).view(64, 64, 3, 3).to(dtype)
    second = convolution(inner, kernel, shift[0], 1)[:, :, 1:-1, 1:-1]
    assert bool((second == second[:1, :, :1, :1]).all())
