"""Convolution and max-pool: torch's numbers and derivatives of every order, ties, and the layout in memory."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from diagnostics.convolution import convolution, first_convolution
from diagnostics.max_pool import max_pool
from tests.cases import check_ratio, vectors

GROUPS = [1, 2]


def numbers(groups: int) -> tuple[Tensor, Tensor, Tensor]:
    x = vectors(3, groups * 2 * 5 * 4).view(3, groups * 2, 5, 4).contiguous(memory_format=torch.channels_last)
    weight, bias = vectors(1, groups * 3 * 2 * 9).view(groups * 3, 2, 3, 3), vectors(1, groups * 3)[0]
    return x.requires_grad_(), weight.clone().requires_grad_(), bias.clone().requires_grad_()


def torchs(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    return functional.conv2d(x, weight, bias, padding=1, groups=groups)


def derivatives(function, inputs: tuple[Tensor, ...], orders: int) -> list[Tensor]:
    """Derivatives of a function of it, each of the one before along fixed directions, flat."""
    found, total = [], (0.1 * function(*inputs)).tanh().pow(2).sum()
    for order in range(orders):
        gradients = torch.autograd.grad(total, inputs, create_graph=True)
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        total = (flat * vectors(1, flat.numel())[0] * (1 + order)).sum()
        found.append(flat.detach())
    return found


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("fixed_image", [False, True])
def test_every_derivative_of_the_convolution_is_torchs(groups: int, fixed_image: bool) -> None:
    x, weight, bias = numbers(groups)
    given = (weight, bias) if fixed_image else (x, weight, bias)
    image = x.detach()

    def of(function):
        return lambda *inputs: function(*(inputs if len(inputs) == 3 else (image, *inputs)), groups)

    found, truth = derivatives(of(convolution), given, 3), derivatives(of(torchs), given, 3)
    for order, (one, other) in enumerate(zip(found, truth, strict=True), start=1):
        check_ratio("convolution", (one - other).norm(), 2.0**-52 * 18**0.5 * order * other.norm(), (order, groups))


@pytest.mark.parametrize("part", ["x", "weight", "bias"])
def test_a_derivative_by_one_of_them_alone_goes_on(part: str) -> None:
    """The second derivative along one pull only, the others being no part of it."""
    inputs = numbers(1)
    at = ("x", "weight", "bias").index(part)

    def second(function) -> list[Tensor | None]:
        total = function(*inputs, 1).pow(3).sum()
        first = torch.autograd.grad(total, inputs, create_graph=True)[at]
        return list(torch.autograd.grad(first.pow(2).sum(), inputs))

    for one, other in zip(second(convolution), second(torchs), strict=True):
        assert one is not None and other is not None
        check_ratio("convolution, one pull", (one - other).norm(), 2.0**-52 * 18**0.5 * 9 * other.norm(), part)


def test_convolution_by_central_differences() -> None:
    inputs = numbers(2)
    assert torch.autograd.gradcheck(lambda x, w, b: convolution(x, w, b, 2), inputs)
    assert torch.autograd.gradgradcheck(lambda x, w, b: convolution(x, w, b, 2), inputs)


@pytest.mark.parametrize("tasks", [1, 3])
def test_the_first_convolution_is_a_convolution(tasks: int) -> None:
    x = vectors(tasks, 4 * 6 * 5).view(tasks, 4, 6, 5)
    weight = vectors(tasks, 2 * 9).view(tasks, 2, 1, 3, 3).requires_grad_()
    bias = vectors(tasks, 2).clone().requires_grad_()
    found = first_convolution(x, weight, bias)
    assert found.is_contiguous(memory_format=torch.channels_last)
    truth = torchs(x.transpose(0, 1), weight.flatten(0, 1), bias.flatten(), tasks)
    check_ratio("first convolution", (found - truth).norm().detach(), 2.0**-52 * 3 * truth.norm().detach())

    def plainly(w: Tensor, b: Tensor) -> Tensor:
        return torchs(x.transpose(0, 1), w.flatten(0, 1), b.flatten(), tasks)

    pairs = [derivatives(of, (weight, bias), 3) for of in (partial(first_convolution, x), plainly)]
    for order, (one, other) in enumerate(zip(*pairs, strict=True), start=1):
        check_ratio("first convolution", (one - other).norm(), 2.0**-52 * 60**0.5 * order * other.norm(), order)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("images", [5, 75])
def test_a_background_is_of_one_value_to_the_last_bit(images: int, dtype: torch.dtype) -> None:
    """Max-pool takes the first of equals: were equal surroundings to give unequal bits, rounding would choose."""
    x = torch.full((1, images, 28, 28), 0.37, dtype=dtype)
    weight, bias = vectors(1, 64 * 9).view(1, 64, 1, 3, 3).to(dtype), vectors(1, 64).to(dtype)
    first = first_convolution(x, weight, bias)[:, :, 1:-1, 1:-1]
    assert bool((first == first[:1, :, :1, :1]).all())
    inner = first_convolution(x, weight, bias)[:, :, 1:2, 1:2].expand(-1, -1, 14, 14)
    kernel = vectors(1, 64 * 64 * 9).view(64, 64, 3, 3).to(dtype)
    second = convolution(inner.contiguous(memory_format=torch.channels_last), kernel, bias[0], 1)[:, :, 1:-1, 1:-1]
    assert bool((second == second[:1, :, :1, :1]).all())


@pytest.mark.parametrize("side", [6, 7])
def test_max_pool_and_its_derivatives_are_torchs_bit_for_bit(side: int) -> None:
    x = vectors(2, 3 * side * side).view(2, 3, side, side).mul(2).round()  # with ties
    for layout in (torch.contiguous_format, torch.channels_last):
        image = x.contiguous(memory_format=layout).requires_grad_()
        assert torch.equal(max_pool(image), functional.max_pool2d(image, 2))
        pairs = zip(
            derivatives(lambda y: max_pool(y) ** 2, (image,), 3),
            derivatives(lambda y: functional.max_pool2d(y, 2) ** 2, (image,), 3),
            strict=True,
        )
        assert all(torch.equal(one, other) for one, other in pairs)


def test_a_second_derivative_of_max_pool_keeps_the_layout() -> None:
    """torch's gathers into the layout of one channel after the other."""
    x = vectors(2, 3 * 36).view(2, 3, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()

    def pulled_through_the_pull(pool) -> Tensor:
        g = torch.ones(2, 3, 3, 3).to(x).contiguous(memory_format=torch.channels_last).requires_grad_()
        (pull,) = torch.autograd.grad(pool(x), x, g, create_graph=True)
        return torch.autograd.grad(pull, g, x.detach())[0]

    found, torchs = pulled_through_the_pull(max_pool), pulled_through_the_pull(lambda y: functional.max_pool2d(y, 2))
    assert torch.equal(found, torchs)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert not torchs.is_contiguous(memory_format=torch.channels_last)
