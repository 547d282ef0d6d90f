"""Floating-point operations: two for each multiplication of a product, in every pass."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from diagnostics.arithmetic.extended import extended
from diagnostics.cost.flops import flops


def library(call: Callable[[], object]) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        call()
    return counter.get_total_flops()


def test_products_of_matrices() -> None:
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert flops(lambda: a @ b) == 2 * 3 * 5 * 7
    assert flops(lambda: a.expand(4, 3, 5) @ b.expand(4, 5, 7)) == 4 * 2 * 3 * 5 * 7


def test_nothing_else_counts() -> None:
    x = torch.ones(100)
    assert flops(lambda: (x.exp() + x).sum() * x.norm()) == 0


def test_a_backward_pass_is_a_product_for_each_gradient() -> None:
    a, b = torch.ones(3, 5, requires_grad=True), torch.ones(5, 7, requires_grad=True)
    once = 2 * 3 * 5 * 7
    assert flops(lambda: torch.autograd.grad((a @ b).sum(), (a, b))) == 3 * once
    assert flops(lambda: torch.autograd.grad((a @ b.detach()).sum(), a)) == 2 * once


def convolution(groups: int, order: int) -> Callable[[], Tensor]:
    """A convolution of 3 images in `groups` groups of 2 channels to 4, differentiated `order` times in both."""
    x = torch.ones(3, groups * 2, 6, 6, requires_grad=True)
    weight = torch.ones(groups * 4, 2, 3, 3, requires_grad=True)

    def call() -> Tensor:
        value = functional.conv2d(x, weight, padding=1, groups=groups).square().sum()
        for _ in range(order):
            by_x, by_weight = torch.autograd.grad(value, (x, weight), create_graph=True)
            value = by_x.square().sum() + by_weight.square().sum()
        return value

    return call


@pytest.mark.parametrize("order", [0, 1, 2])
def test_groups_are_as_many_convolutions(order: int) -> None:
    assert flops(convolution(5, order)) == 5 * flops(convolution(1, order)) > 0


def test_a_convolution_by_hand() -> None:
    forward = 2 * 3 * (6 * 6) * (4 * 2) * (3 * 3)
    assert flops(convolution(1, 0)) == forward
    assert flops(convolution(1, 1)) == 3 * forward


@pytest.mark.parametrize("order", [0, 1, 2])
def test_without_groups_it_is_the_librarys_count(order: int) -> None:
    assert flops(convolution(1, order)) == library(convolution(1, order))


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution(groups: int) -> None:
    x = torch.ones(3, 4, 5, 5, requires_grad=True)
    weight = torch.ones(4, 2, 3, 3, requires_grad=True)

    def call() -> object:
        value = functional.conv_transpose2d(x, weight, stride=2, groups=groups)
        return torch.autograd.grad(value.sum(), (x, weight))

    assert flops(call) == 3 * 2 * 3 * (5 * 5) * (4 * 2) * (3 * 3)


def test_an_extended_number_is_one() -> None:
    a, b = torch.ones(3, 5, dtype=torch.float64), torch.ones(5, 7, dtype=torch.float64)
    assert flops(lambda: extended(a) @ extended(b)) == flops(lambda: a @ b)


def test_a_gradient_that_is_not_wanted_does_not_count() -> None:
    x, weight = torch.ones(3, 2, 6, 6), torch.ones(4, 2, 3, 3, requires_grad=True)
    forward = 2 * 3 * (4 * 4) * (4 * 2) * (3 * 3)
    assert flops(lambda: torch.autograd.grad(functional.conv2d(x, weight).sum(), weight)) == 2 * forward
