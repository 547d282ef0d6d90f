"""Batch norm: torch's value and gradient, and derivatives of every order, in both layouts of images in memory."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from diagnostics.batch_norm import batch_norm
from tests.cases import check_ratio, derivatives, provoked, vectors


def written(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same out of elementary operations, which autograd differentiates as often as one likes."""
    centred = x - x.mean((0, 2, 3), keepdim=True)
    variance = (centred * centred).mean((0, 2, 3), keepdim=True)
    return centred / (variance + 1e-5).sqrt() * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


def torchs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.batch_norm(x, None, None, weight, bias, True)


def numbers(images: int = 4, spread: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    x = spread * vectors(images, 3 * 5 * 4).view(images, 3, 5, 4) + torch.tensor([0.0, 1.0, -3.0]).view(1, 3, 1, 1)
    weight, bias = vectors(2, 3)
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


def bent(norm, inputs: tuple[Tensor, ...], orders: int) -> list[Tensor]:
    """`derivatives` of a number made of what it gives, none of which vanish."""
    return derivatives(lambda *given: (norm(*given) + 0.3 * given[0] ** 2).tanh().pow(3).sum(), inputs, orders)


@pytest.mark.parametrize("spread", [1.0, 1e-2, 30.0])
def test_every_derivative_is_that_of_the_elementary_operations(spread: float) -> None:
    inputs = numbers(spread=spread)
    pairs = zip(bent(batch_norm, inputs, 4), bent(written, inputs, 4), strict=True)
    for order, (found, truth) in enumerate(pairs, start=1):
        condition = 1 + 3 / spread  # digits are lost where a mean of 3 is taken from numbers that differ by `spread`
        check_ratio(
            "batch norm", (found - truth).norm(), 2.0**-52 * 60**0.5 * condition * truth.norm(), (order, spread)
        )


def test_torchs_third_derivative_fails_this() -> None:
    inputs = numbers()
    third, truth = bent(torchs, inputs, 3)[-1], bent(written, inputs, 3)[-1]
    with provoked():
        check_ratio("batch norm", (third - truth).norm(), 2.0**-52 * 60**0.5 * truth.norm())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_are_torchs(dtype: torch.dtype, layout: torch.memory_format) -> None:
    inputs = tuple(x.detach().to(dtype).requires_grad_() for x in numbers())
    x = inputs[0].detach().contiguous(memory_format=layout).requires_grad_()
    bound = torch.finfo(dtype).eps * 60**0.5 * 4  # a mean of 3 is taken from numbers that differ by 1
    value, truth = batch_norm(x, *inputs[1:]).detach(), torchs(*inputs).detach()
    assert value.is_contiguous(memory_format=layout)
    check_ratio("batch norm", (value - truth).norm(), bound * truth.norm())
    found = bent(batch_norm, (x, *inputs[1:]), 1)[0]
    truth = bent(torchs, inputs, 1)[0]
    check_ratio("batch norm", (found - truth).norm(), bound * truth.norm())


def test_sums_in_float32_lose_no_digits_in_either_layout() -> None:
    """Of 58 800 values a channel: torch's own sums over `channels_last` lose two digits there."""
    x = (vectors(1, 75 * 4 * 28 * 28).view(75, 4, 28, 28) + 1).float()
    weight, bias = torch.ones(4), torch.zeros(4)
    truth = torchs(x.double(), weight.double(), bias.double())
    for layout in (torch.contiguous_format, torch.channels_last):
        found = batch_norm(x.contiguous(memory_format=layout), weight, bias)
        check_ratio("batch norm, float32", (found.double() - truth).norm(), 2.0**-24 * truth.norm())
    with provoked():
        found = torchs(x.contiguous(memory_format=torch.channels_last), weight, bias)
        check_ratio("batch norm, float32", (found.double() - truth).norm(), 2.0**-24 * truth.norm())


def test_second_derivatives_by_central_differences() -> None:
    inputs = numbers()
    assert torch.autograd.gradcheck(batch_norm, inputs)
    assert torch.autograd.gradgradcheck(batch_norm, inputs)


def test_a_channel_that_is_constant() -> None:
    """The variance is 0, and 1 / sqrt(1e-5) what is multiplied with."""
    x, weight, bias = (y.detach() for y in numbers())
    x[:, 1] = 2.0
    inputs = (x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_())
    value = batch_norm(*inputs).detach()
    check_ratio("batch norm, constant channel", (value[:, 1] - bias[1].detach()).abs(), 2.0**-52 * 316)
    for found, truth in zip(bent(batch_norm, inputs, 3), bent(written, inputs, 3), strict=True):
        assert found.isfinite().all()
        check_ratio("batch norm, constant channel", (found - truth).norm(), 2.0**-52 * 60**0.5 * 316 * truth.norm())
