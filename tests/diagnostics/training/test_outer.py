"""The outer step: schedules, clipping, and torch's optimizers under them."""

import math

import pytest
import torch

from diagnostics.training.outer import clipped, moments_of, outer_optimizer, step_size, take
from tests.cases import check_ratio
from tests.diagnostics.training.cases import tiny

EPS = torch.finfo(torch.float64).eps


def test_a_cosine_falls_from_the_whole_step_to_none() -> None:
    recipe = tiny(schedule="cosine", meta_iterations=100, meta_lr=0.5)
    sizes = [step_size(recipe, iteration) for iteration in range(100)]
    assert sizes[0] == 0.5 and sizes == sorted(sizes, reverse=True)
    check_ratio("outer: cosine", torch.tensor(sizes[50] - 0.25).abs(), EPS)
    check_ratio("outer: cosine", torch.tensor(sizes[25] - 0.25 * (1 + math.sqrt(0.5))).abs(), EPS)
    assert 0 < sizes[-1] < 1e-3
    assert {step_size(tiny(), iteration) for iteration in range(6)} == {1e-3}


def test_clipping_by_value_and_by_norm() -> None:
    gradient = torch.tensor([3.0, -4.0, 0.5], dtype=torch.float64)
    assert clipped(tiny(), gradient) is gradient
    assert clipped(tiny(clip_value=1.0), gradient).tolist() == [1.0, -1.0, 0.5]
    by_norm = clipped(tiny(clip_norm=1.0), gradient)
    check_ratio("outer: clipped", (by_norm - gradient / gradient.norm()).abs().max(), EPS)
    assert clipped(tiny(clip_norm=10.0), gradient) is gradient
    both = clipped(tiny(clip_value=1.0, clip_norm=0.5), gradient)
    check_ratio("outer: clipped", (both.norm() - 0.5).abs(), EPS)


def test_descent_is_a_step_along_the_gradient() -> None:
    theta = torch.tensor([1.0, 2.0], dtype=torch.float64)
    optimizer = outer_optimizer(tiny(outer_optimizer="sgd"), theta, {})
    take(optimizer, theta, torch.tensor([0.5, -1.0], dtype=torch.float64), 0.25)
    assert theta.tolist() == [0.875, 2.25]
    assert theta.grad is None and not moments_of(optimizer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_first_step_of_adam_has_the_length_of_the_step_in_each_component(dtype: torch.dtype) -> None:
    theta = torch.zeros(2, dtype=dtype)
    optimizer = outer_optimizer(tiny(), theta, {})
    take(optimizer, theta, torch.tensor([5.0, -0.01], dtype=torch.float64), 0.1)
    expected = -0.1 * torch.tensor([5 / (5 + 1e-8), -0.01 / (0.01 + 1e-8)], dtype=torch.float64)
    check_ratio("outer: adam", (theta.double() - expected).abs().max(), torch.finfo(dtype).eps)
    assert set(moments_of(optimizer)) == {"step", "exp_avg", "exp_avg_sq"}
