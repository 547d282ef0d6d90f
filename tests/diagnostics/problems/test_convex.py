"""The constants that the convex problems state about themselves, on which the bounds rest."""

import math
from dataclasses import replace

import pytest
import torch

from diagnostics.hessian import second_order
from diagnostics.linear.dense import written_out
from diagnostics.problem_names import build
from diagnostics.rows import row_norms
from tests.cases import check_ratio, theta_and_data, vectors

NAMES = pytest.mark.parametrize("name", ["quadratic", "linear_regression", "logistic"])


@NAMES
@pytest.mark.parametrize("condition", [1.0, 100.0])
def test_the_stated_constants_bound_what_is_measured(name: str, condition: float) -> None:
    """Eigenvalues of the inner Hessian, how fast it changes, and the outer Hessian's, at random points."""
    problem = build(name, dimension=4, condition=condition, strength=0.1)
    theta, data = theta_and_data(problem, 5)
    assert problem.constants is not None
    stated = problem.constants(data)
    slack = 1 + 1e-12
    before = None
    for seed in range(20):
        w = 3 * vectors(5, 4, seed)
        hessian = written_out(second_order(problem, w, theta, data).hessian, w)
        values = torch.linalg.eigvalsh(hessian)
        assert bool((values[:, 0] * slack >= stated.smallest).all())
        assert bool((values[:, -1] <= stated.largest * slack).all())
        if before is not None:
            change = torch.linalg.matrix_norm(hessian - before[1], 2) / row_norms(w - before[0])
            assert bool((change <= stated.hessian_lipschitz * slack + 1e-13).all())
        before = (w, hessian)
        outer = written_out(second_order(replace(problem, inner_loss=problem.outer_loss), w, theta, data).hessian, w)
        assert bool((torch.linalg.eigvalsh(outer)[:, -1] <= stated.outer_smoothness * slack).all())


@NAMES
def test_the_spectrum_is_the_one_that_was_asked_for(name: str) -> None:
    problem = build(name, dimension=4, condition=100.0, strength=0.1)
    theta, data = theta_and_data(problem, 5)
    zero = torch.zeros_like(theta)
    values = torch.linalg.eigvalsh(written_out(second_order(problem, zero, theta, data).hessian, zero))
    truth = torch.logspace(-2, 0, 4, dtype=torch.float64)
    truth = 0.1 + (truth / 4 if name == "logistic" else truth)  # at w = 0 the logistic loss has curvature 1/4
    check_ratio("asked-for spectrum", (values - truth).abs(), 2.0**-52 * 4, name)


def test_the_logistic_constant_is_attained() -> None:
    """One example in one dimension: |sigmoid''| is greatest at the margin ln(2 + sqrt 3), where the constant is met."""
    problem = build("logistic", dimension=1, examples=1)
    theta, data = theta_and_data(problem, 1)
    x = float(data["support_x"].abs())
    at, h = math.log(2 + 3**0.5) / x, 1e-4
    hessians = []
    for w in (at - h, at + h):
        point = second_order(problem, torch.tensor([[w]], dtype=torch.float64), theta, data)
        hessians.append(float(point.hessian(torch.ones(1, 1).double())))
    slope = abs(hessians[1] - hessians[0]) / (2 * h)
    stated = float(problem.constants(data).hessian_lipschitz)  # type: ignore[misc]
    assert slope == pytest.approx(stated, rel=1e-6)


def test_labels_are_signs_and_lean_towards_the_truth() -> None:
    data = build("logistic", dimension=3, examples=30).sample(50, 0)
    for prefix in ("support", "query"):
        assert data[f"{prefix}_y"].unique().tolist() == [-1.0, 1.0]
        assert abs(float(data[f"{prefix}_y"].mean())) < 0.2
