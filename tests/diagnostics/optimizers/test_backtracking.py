"""Backtracking: which share of a step is taken."""

import pytest
import torch
from torch import Tensor

from diagnostics.arithmetic.precision import PRECISIONS, Precision
from diagnostics.inner import InnerGradient
from diagnostics.optimizers.backtracking import SUFFICIENT, backtracked

every_arithmetic = pytest.mark.parametrize("arithmetic", PRECISIONS.values(), ids=PRECISIONS)


def parabola(height: float = 0.0) -> InnerGradient:
    """The loss `|w|^2 / 2 + height`."""
    return InnerGradient(lambda w, theta, data: (w * w).sum(-1) / 2 + height, torch.zeros(1, 1), {})


def column(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64).unsqueeze(-1)


@every_arithmetic
def test_the_longest_share_that_lowers_the_loss_enough_is_taken(arithmetic: Precision) -> None:
    """From 1 by the step -c the loss is lowered for t below 2/c; to the right it is not, at all."""
    with arithmetic.running():
        w = arithmetic.enter(column(1, 1, 1, 1, 1, 1))
        step = arithmetic.enter(column(-1, -1.75, -2.5, -6, -40, 1))
        share = backtracked(parabola(), w, w, step, 4)
    assert arithmetic.leave(share).flatten().tolist() == [1, 1, 0.5, 0.25, 0, 0]


def test_a_decrease_must_be_a_share_of_what_the_slope_promises() -> None:
    """By the step -c the decrease is `c - c^2/2`, and `1e-4 c` is asked for: c is at most `2 (1 - 1e-4)`."""
    limit = 2 * (1 - SUFFICIENT)
    w, step = column(1, 1), column(-limit * (1 - 1e-9), -limit * (1 + 1e-9))
    assert backtracked(parabola(), w, w, step, 3).flatten().tolist() == [1, 0.5]


def test_no_halvings_are_no_search() -> None:
    gradient = InnerGradient(lambda w, theta, data: pytest.fail("no loss is asked for"), torch.zeros(1, 1), {})
    assert backtracked(gradient, column(1, 1), column(1, 1), column(100, torch.nan), 0).tolist() == [[1], [1]]


def test_a_rise_that_the_arithmetic_does_not_see_passes() -> None:
    """The height hides a rise of up to 4 roundings of 1, and not one of 8."""
    w = column(0, 0)
    step = column((2 * 3 * 2.0**-52) ** 0.5, (2 * 8 * 2.0**-52) ** 0.5)
    assert backtracked(parabola(1.0), w, w, step, 1).flatten().tolist() == [1, 0.5]
    assert backtracked(parabola(), w, w, step, 1).flatten().tolist() == [0, 0]


def test_losses_that_are_not_finite_are_not_taken_and_leave_other_tasks_alone() -> None:
    gradient = InnerGradient(lambda w, theta, data: (-w.log() + w).sum(-1), torch.zeros(1, 1), {})
    w = column(4, 4, torch.nan)
    g = 1 - 1 / w
    share = backtracked(gradient, w, g, column(-5, -3, -1), 2)  # beyond 0 there is no loss
    assert share.flatten().tolist() == [0.5, 1, 0]


def test_a_slope_above_the_range_of_float16_is_no_obstacle() -> None:
    """The loss `2^9 |w|` from 2^6 by -320: `g'step` is below -2^17, out of range, and a quarter of it goes down."""
    half = PRECISIONS["float16"]
    loss = InnerGradient(lambda w, theta, data: (2.0**9 * w.abs()).sum(-1), torch.zeros(1, 1), {})
    with half.running():
        w, g, step = (half.enter(column(x)) for x in (2.0**6, 2.0**9, -320.0))
        share = backtracked(loss, w, g, step, 3)
    assert share.tolist() == [[0.25]]
