"""Convolution and max-pool: torch's numbers and derivatives of every order, ties, and the layout in memory."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from diagnostics.convolution import convolution
from diagnostics.max_pool import max_pool
from tests.cases import check_ratio, derivatives, vectors

GROUPS = [1, 2]


def numbers(groups: int) -> tuple[Tensor, Tensor, Tensor]:
    x = vectors(3, groups * 2 * 5 * 4).view(3, groups * 2, 5, 4).contiguous(memory_format=torch.channels_last)
    weight, bias = vectors(1, groups * 3 * 2 * 9).view(groups * 3, 2, 3, 3), vectors(1, groups * 3)[0]
    return x.requires_grad_(), weight.clone().requires_grad_(), bias.clone().requires_grad_()


def torchs(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    return functional.conv2d(x, weight, bias, padding=1, groups=groups)


def bent(function, inputs: tuple[Tensor, ...], orders: int) -> list[Tensor]:
    """`derivatives` of a number made of what it gives, none of which vanish."""
    return derivatives(lambda *given: (0.1 * function(*given)).tanh().pow(2).sum(), inputs, orders)


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("fixed_image", [False, True])
def test_every_derivative_of_the_convolution_is_torchs(groups: int, fixed_image: bool) -> None:
    x, weight, bias = numbers(groups)
    given = (weight, bias) if fixed_image else (x, weight, bias)
    image = x.detach()

    def of(function):
        return lambda *inputs: function(*(inputs if len(inputs) == 3 else (image, *inputs)), groups)

    found, truth = bent(of(convolution), given, 3), bent(of(torchs), given, 3)
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


@pytest.mark.parametrize("side", [6, 7])
def test_max_pool_and_its_derivatives_are_torchs_bit_for_bit(side: int) -> None:
    x = vectors(2, 3 * side * side).view(2, 3, side, side).mul(2).round()  # with ties
    for layout in (torch.contiguous_format, torch.channels_last):
        image = x.contiguous(memory_format=layout).requires_grad_()
        assert torch.equal(max_pool(image), functional.max_pool2d(image, 2))
        pairs = zip(
            bent(lambda y: max_pool(y) ** 2, (image,), 3),
            bent(lambda y: functional.max_pool2d(y, 2) ** 2, (image,), 3),
            strict=True,
        )
        assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_where_the_numbers_of_max_pool_and_its_derivatives_lie(layout: torch.memory_format) -> None:
    """The pull as the image does; the maxima and what their gradients are pulled to as a convolution wants them."""
    x = vectors(2, 3 * 36).view(2, 3, 6, 6).contiguous(memory_format=layout).requires_grad_()
    g = vectors(2, 3 * 9).view(2, 3, 3, 3).clone().requires_grad_()
    found = max_pool(x)
    (pull,) = torch.autograd.grad(found, x, g, create_graph=True)
    (second,) = torch.autograd.grad(pull, g, x.detach())
    assert pull.is_contiguous(memory_format=layout)
    assert found.is_contiguous()
    assert second.is_contiguous()
    assert torch.equal(second, functional.max_pool2d(x.detach(), 2))
