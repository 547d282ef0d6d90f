"""Unrolled gradients of networks against central differences of the loss that they differentiate, in float64."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from diagnostics.estimators.first_order import FirstOrder
from diagnostics.estimators.unrolled import Unrolled
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.inner import run_inner
from diagnostics.models import conv4
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem, proximal
from diagnostics.problem_names import build
from diagnostics.rows import Data, row_norms
from tests.cases import central_difference, check_by_differences, check_ratio, only, provoked, theta_and_data, vectors

BOTH = pytest.mark.parametrize("estimator", [Unrolled(), UnrolledAdjoint()], ids=["unrolled", "unrolled_adjoint"])


@BOTH
@pytest.mark.parametrize("steps", [0, 1, 5, 20])
def test_the_sinusoid_network(steps: int, estimator: Unrolled) -> None:
    problem = build("sinusoid[activation=tanh]")
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, GradientDescent(0.01), theta, data, steps)
    gradient = estimator(problem, loop)
    assert only(gradient.outcome) is Outcome.OK
    check_by_differences("central differences, sinusoid", problem, loop.optimizer, theta, data, steps, gradient.value)


def conv4_on_noise(norm: str) -> Problem:
    """Cross-entropy of a narrow Conv4 on random images, 3 ways, 2 support and 2 query images each."""
    network = conv4(3, width=4, norm=norm)

    def loss(prefix: str):
        def cross_entropy(w: Tensor, theta: Tensor, data: Data) -> Tensor:
            scores = network.apply(w, data[f"{prefix}_images"])
            labels = data["labels"].expand(len(w), -1)
            return functional.cross_entropy(scores.transpose(1, 2), labels, reduction="none").mean(-1)

        return cross_entropy

    def sample(tasks: int, seed: int) -> dict[str, Tensor]:
        images = vectors(2 * tasks, 6 * 28 * 28, seed).view(tasks, 2, 6, 1, 28, 28)
        labels = torch.tensor([0, 0, 1, 1, 2, 2]).expand(tasks, -1)
        return {"support_images": images[:, 0], "query_images": images[:, 1], "labels": labels}

    return Problem(
        name=f"conv4[norm={norm}]",
        inner_loss=proximal(loss("support"), 2.0),
        outer_loss=loss("query"),
        init=network.init,
        sample=sample,
        strength=2.0,
        learning_rate=0.1,
    )


@BOTH
@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_the_convolutional_network(steps: int, norm: str, estimator: Unrolled) -> None:
    """ReLU and max-pool have kinks; random images put none at theta itself, and a short step seldom meets one."""
    problem = conv4_on_noise(norm)
    theta, data = theta_and_data(problem, 2)
    loop = run_inner(problem, GradientDescent(0.1), theta, data, steps)
    gradient = estimator(problem, loop)
    assert only(gradient.outcome) is Outcome.OK
    check_by_differences(
        f"central differences, conv4, norm {norm}",
        problem,
        loop.optimizer,
        theta,
        data,
        steps,
        gradient.value,
        kinks=True,
        sharp=1e-4,
        directions=8,
    )


@pytest.mark.parametrize("wrong", ["first order", "one part in a million", "sign of one task"])
def test_the_check_notices_a_wrong_gradient(wrong: str) -> None:
    problem = build("sinusoid")
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, GradientDescent(0.01), theta, data, 5)
    gradient = UnrolledAdjoint()(problem, loop).value
    if wrong == "first order":
        gradient = FirstOrder()(problem, loop).value
    if wrong == "one part in a million":
        gradient = gradient * (1 + 1e-6)
    if wrong == "sign of one task":
        gradient = gradient * torch.tensor([[1.0], [-1.0], [1.0]])
    with provoked():
        check_by_differences("wrong", problem, loop.optimizer, theta, data, 5, gradient)


def test_the_check_refuses_a_function_with_a_jump() -> None:
    """Where no derivative exists the uncertainty is large, and a check of no direction at all does not pass."""
    problem = build("sinusoid")
    theta, data = theta_and_data(problem, 1)
    edge = theta[0, 0].clone()
    rough = Problem(
        name="rough",
        inner_loss=problem.inner_loss,
        outer_loss=lambda w, theta, data: problem.outer_loss(w, theta, data) + (w[:, 0] > edge),
        init=problem.init,
        sample=problem.sample,
    )
    with provoked("sharp enough to count"):
        check_by_differences("rough", rough, GradientDescent(0.01), theta, data, 0, torch.ones_like(theta), kinks=True)


def test_central_differences_of_a_known_function() -> None:
    """d/dt of exp along a direction: right within the uncertainty that is stated, and that is small."""
    at, u = vectors(4, 3), vectors(4, 3, 1)
    slope, uncertainty = central_difference(lambda x: x.exp().sum(-1), at, u, 1e-3)
    truth = (at.exp() * u).sum(-1)
    assert bool(((slope - truth).abs() <= 3 * uncertainty).all())
    assert bool((uncertainty < 1e-5 * row_norms(at.exp() * u)).all())
    check_ratio("central differences of exp", (slope - truth).abs(), uncertainty)
