"""The recipes as released, against numpy programs written down here from their descriptions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from diagnostics.estimators.first_order import FirstOrder
from diagnostics.estimators.implicit import Implicit
from diagnostics.estimators.released_gbml import ReleasedGBML
from diagnostics.estimators.released_imaml import ReleasedIMAML
from diagnostics.estimators.released_imaml_loop import ReleasedIMAMLLoop, released_loop
from diagnostics.hessian import second_order
from diagnostics.inner import Trajectory, run_inner
from diagnostics.linear.dense import Dense, written_out
from diagnostics.meta_gradient import Estimator, outer_gradients
from diagnostics.metrics import distance
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.optimizers.momentum import Momentum
from diagnostics.outcome import Outcome, decode
from diagnostics.problem import Problem
from diagnostics.problem_names import build
from diagnostics.rows import row_norms
from tests.cases import check_ratio, only, symmetric, theta_and_data
from tests.diagnostics.estimators.test_implicit import weighted

EPS = 2.0**-52
LAM = 2.0
Array = np.ndarray


def quadratic(steps: int, dimension: int = 12) -> tuple[Problem, Trajectory]:
    problem = build("quadratic", dimension=dimension, strength=LAM)
    theta, data = theta_and_data(problem, 3)
    data = {**data, "A": 40 * data["A"]}  # curvature up to 40, so that the systems are not near the identity
    return problem, run_inner(problem, GradientDescent(0.01), theta, data, steps)


def released_cg(matrix: Array, b: Array, iterations: int, x: Array) -> tuple[Array, int]:
    """Conjugate gradients with the released stop, r'r < 1e-10, tested after an iteration; and how many were made."""
    r = b - matrix @ x
    p, made = r, 0
    for _ in range(iterations):
        made += 1
        ap = matrix @ p
        step = (r @ r) / (p @ ap)
        x, before, r = x + step * p, r @ r, r - step * ap
        p = r + (r @ r) / before * p
        if r @ r < 1e-10:
            break
    return x, made


def tasks(loop: Trajectory, *names: str) -> list[tuple[Array, ...]]:
    return [tuple(loop.data[name][row].numpy() for name in names) for row in range(len(loop.theta))]


def numbers(found: list[Array]) -> Tensor:
    return torch.from_numpy(np.stack(found))


# ---- the system of imaml_dev


def test_the_released_matrix_is_two_and_a_twelfth_of_the_hessian() -> None:
    problem, loop = quadratic(3)
    matrix = written_out(ReleasedIMAML().matrix(problem, loop), loop.theta)
    truth = 2 * torch.eye(12).double() + loop.data["A"] / 12
    # The Hessian is of size 42, of which the proximal term is taken off again, over 12.
    check_ratio("released matrix", (matrix - truth).abs().amax((1, 2)), EPS * (2 + 42 / 12))


def test_the_released_matrix_of_a_network_is_that_of_its_hessian() -> None:
    problem = build("sinusoid[shots=5,queries=5]")
    theta, data = theta_and_data(problem, 2)
    loop = run_inner(problem, GradientDescent(0.01), theta, data, 2)
    v = torch.randn(2, loop.size, generator=torch.Generator().manual_seed(0)).double()
    regular = second_order(problem, loop.final, theta, data).hessian(v)
    truth = 2 * v + (regular - 2.0 * v) / 12
    unit = EPS * (row_norms(v) + row_norms(regular))
    check_ratio("released matrix, network", row_norms(ReleasedIMAML().matrix(problem, loop)(v) - truth), unit)


@pytest.mark.parametrize("iterations", [2, 3, 5, 8])
def test_the_whole_value_is_that_of_the_released_program(iterations: int) -> None:
    problem, loop = quadratic(3)
    found = ReleasedIMAML(iterations)(problem, loop)
    by_w = outer_gradients(problem, loop)[0].numpy()
    done = [
        released_cg(2 * np.eye(12) + a / 12, g, iterations, np.zeros(12))
        for (a,), g in zip(tasks(loop, "A"), by_w, strict=True)
    ]
    truth = numbers([x for x, _ in done])
    # Rounding grows with CG's iterations; the condition number of the matrix is at most (2 + 40/12) / 2.
    check_ratio("released imaml", row_norms(found.value - truth), EPS * 3 * iterations * row_norms(truth))
    assert found.hvp_count.tolist() == [made for _, made in done] and found.gradient_count.tolist() == [2] * 3


def test_with_iterations_to_spare_it_is_the_dense_solve_up_to_its_own_stop() -> None:
    problem, loop = quadratic(3)
    found = ReleasedIMAML(50)(problem, loop)
    system = 2 * torch.eye(12).double() + loop.data["A"] / 12
    truth = torch.linalg.solve(system, outer_gradients(problem, loop)[0])
    assert only(found.outcome) is Outcome.OK
    assert bool((row_norms(found.value - truth) <= 1e-5 / 2).all())  # |x - x*| <= |r| / 2, and the stop is |r| < 1e-5
    assert bool((row_norms(found.value - truth) > 1e-12).all())  # and it does stop there
    assert bool((found.hvp_count < 20).all())


def test_a_small_right_hand_side_gets_its_one_iteration_and_zero_gets_none() -> None:
    """The stop is absolute, and is tested after an iteration."""
    matrix = symmetric(torch.tensor([[2.0, 3, 5]]).double().repeat(3, 1))
    b = torch.tensor([[1.0, 2, 3], [1e-7, -2e-7, 1e-7], [0, 0, 0]]).double()
    found = ReleasedIMAML(5).solve(lambda v: (matrix @ v.unsqueeze(-1)).squeeze(-1), b)
    for row in (0, 1):
        truth = torch.from_numpy(released_cg(matrix[row].numpy(), b[row].numpy(), 5, np.zeros(3))[0])
        check_ratio("released cg", (found.value[row] - truth).norm(), EPS * 8 * truth.norm())
    assert torch.equal(found.value[2], torch.zeros(3).double()) and found.products.tolist() == [3, 1, 0]
    assert only(found.outcome) is Outcome.OK


def test_negative_curvature_is_passed_over_and_told() -> None:
    problem, loop = quadratic(0, dimension=4)
    hollow = loop.data["A"] - 100 * torch.eye(4).double()
    loop = replace(loop, data={**loop.data, "A": hollow})
    found = ReleasedIMAML()(problem, loop)
    by_w = outer_gradients(problem, loop)[0]
    truth = torch.linalg.solve(2 * torch.eye(4).double() + hollow / 12, by_w)  # 4 unknowns, 5 iterations
    # All eigenvalues are from -6.3 to -3, so that the condition number is 2.
    check_ratio("released, indefinite", row_norms(found.value - truth), EPS * 2 * 4 * row_norms(truth))
    assert only(found.outcome) is Outcome.NEGATIVE_CURVATURE


@pytest.mark.parametrize("iterations", [0, 1])
def test_one_iteration_or_none_is_first_order(iterations: int) -> None:
    problem, loop = quadratic(3)
    found = ReleasedIMAML(iterations)(problem, loop)
    assert torch.equal(found.value, FirstOrder()(problem, loop).value) and found.hvp_count.tolist() == [0] * 3


def test_without_the_two_dampings_it_is_the_papers_gradient() -> None:
    problem, loop = quadratic(3)
    found = ReleasedIMAML(60, cg_damping=0.0, lam_damping=0.0)(problem, loop)
    truth = Implicit(Dense())(problem, loop).value
    assert bool((row_norms(found.value - truth) <= 1e-5).all())


@pytest.mark.parametrize(
    ("largest", "exact", "first"), [(1.0, 0.9965, 0.99995), (10.0, 0.9675, 0.9967), (50.0, 0.9473, 0.9740)]
)
def test_its_direction_is_nearer_to_first_order_than_to_the_exact_gradient(
    largest: float, exact: float, first: float
) -> None:
    """Eigenvalues h from `largest` / 1e4 to `largest`, g alike along each: the exact gradient has 1 / (1 + h/2) there,
    the released one 1 / (2 + h/12) and first-order MAML 1. The cosines are sums over the eigenvalues, in numpy."""
    h = np.geomspace(largest / 1e4, largest, 20)
    released, precise, one = 1 / (2 + h / 12), 1 / (1 + h / 2), np.ones(20)

    def cosine(a: Array, b: Array) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    assert cosine(released, precise) == pytest.approx(exact, abs=1e-4)
    assert cosine(released, one) == pytest.approx(first, abs=1e-4)
    values = torch.from_numpy(h).unsqueeze(0)
    problem = build("quadratic", dimension=20, strength=LAM)
    theta, data = theta_and_data(problem, 1)
    matrix = symmetric(values)
    basis = torch.linalg.eigh(matrix).eigenvectors
    data = {**data, "A": matrix, "C": torch.eye(20).double().unsqueeze(0), "c": theta - basis.sum(-1)}
    loop = run_inner(problem, GradientDescent(0.01), theta, data, 0)
    found = ReleasedIMAML(20)(problem, loop).value
    for other, expected in ((Implicit(Dense()), exact), (FirstOrder(), first)):
        cosines = 1 - distance(found, other(problem, loop).value).cosine_distance
        assert cosines.tolist() == pytest.approx([expected], abs=1e-4)  # as far as they are written down above
    assert first > exact


# ---- the loop of imaml_dev


@pytest.mark.parametrize("steps", [0, 1, 16])
def test_the_loop_and_the_value_are_those_of_the_released_program(steps: int) -> None:
    problem, loop = quadratic(steps)
    ends, values = [], []
    for (a, b, outer, aim), theta in zip(tasks(loop, "A", "b", "C", "c"), loop.theta.numpy(), strict=True):
        w = theta
        for _ in range(steps):
            w = w - 0.01 * (a @ w - b)
        w = w - 0.01 * LAM * (w - theta)
        ends.append(w)
        values.append(released_cg(2 * np.eye(12) + a / 12, outer @ (w - aim), 5, np.zeros(12))[0])
    released = released_loop(problem, loop)
    unit = EPS * (steps + 1) * (row_norms(loop.theta) + row_norms(loop.data["b"]))
    check_ratio("released loop", row_norms(released.final - numbers(ends)), unit)
    found, again = (ReleasedIMAMLLoop()(problem, loop) for _ in range(2))
    check_ratio("released loop and system", row_norms(found.value - numbers(values)), 15 * unit)
    assert torch.equal(found.value, again.value)
    assert found.gradient_count.tolist() == [steps + 2] * 3


def test_its_steps_are_plain_whatever_the_optimizer() -> None:
    problem, loop = quadratic(5)
    momentum = run_inner(problem, Momentum(0.01), loop.theta, loop.data, 5)
    assert torch.equal(released_loop(problem, momentum).final, released_loop(problem, loop).final)
    assert torch.equal(ReleasedIMAMLLoop()(problem, momentum).value, ReleasedIMAMLLoop()(problem, loop).value)


def test_the_released_loop_does_not_tend_to_the_minimiser_that_the_formula_is_about() -> None:
    """With more steps the inner gradient of the published loop goes to zero, and at the end of this one it does not."""
    problem, loop = quadratic(400)
    released = released_loop(problem, loop)
    relative = released.gradient_norms[0] / loop.gradient_norms[0]
    assert bool((loop.stationarity[-1] < 1e-3).all() and (relative > 0.05).all())


def test_the_outcome_is_that_of_the_released_loop() -> None:
    problem, loop = quadratic(400)
    data = {**loop.data, "A": loop.data["A"].clone()}
    data["A"][1] *= 1e6
    both = run_inner(problem, GradientDescent(0.01), loop.theta, data, 400)
    assert decode(ReleasedIMAMLLoop()(problem, both).outcome)[1] is Outcome.DIVERGED
    assert torch.equal(
        ReleasedIMAMLLoop()(problem, both).value[[0, 2]], ReleasedIMAMLLoop()(problem, loop).value[[0, 2]]
    )


# ---- GBML


@pytest.mark.parametrize("iterations", [0, 1, 4])
def test_gbml_is_its_program(iterations: int) -> None:
    problem, loop = quadratic(3)
    found = ReleasedGBML(iterations)(problem, loop)
    by_w = outer_gradients(problem, loop)[0].numpy()
    truth, left = [], []
    for (a,), g in zip(tasks(loop, "A"), by_w, strict=True):
        system = np.eye(12) + a / 100
        # One more iteration than the program's has no stop: r'r is far above 1e-10 here.
        truth.append(released_cg(system, g, iterations, g)[0])
        left.append(np.linalg.norm(g - system @ truth[-1]) / np.linalg.norm(g))
    check_ratio("gbml", row_norms(found.value - numbers(truth)), EPS * (iterations + 1) * row_norms(numbers(truth)))
    check_ratio("gbml, residual", (found.solver_residual - torch.tensor(left)).abs(), EPS * 2)
    assert found.hvp_count.tolist() == [iterations + 1] * 3 and found.gradient_count.tolist() == [2] * 3


def test_gbml_is_near_first_order() -> None:
    problem = build("quadratic", dimension=6, strength=0.0)  # its loop has no proximal term
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, GradientDescent(0.5), theta, data, 5)
    away = distance(ReleasedGBML()(problem, loop).value, FirstOrder()(problem, loop).value)
    assert bool((away.relative_error < 0.01).all() and (away.cosine_distance < 1e-5).all())


@pytest.mark.parametrize("estimator", [ReleasedIMAML(), ReleasedIMAML(1), ReleasedIMAMLLoop(), ReleasedGBML()])
def test_what_the_outer_loss_sees_of_theta_is_added(estimator: Estimator) -> None:
    problem, loop = quadratic(3)
    more = replace(problem, outer_loss=lambda w, theta, data: problem.outer_loss(w, theta, data) + (theta**2).sum(-1))
    away = estimator(more, loop).value - estimator(problem, loop).value - 2 * loop.theta
    unit = EPS * (row_norms(estimator(problem, loop).value) + 2 * row_norms(loop.theta))
    check_ratio("released, direct term", row_norms(away), unit)


# ---- refusals


@pytest.mark.parametrize(
    ("name", "estimator"),
    [
        ("released_imaml", ReleasedIMAML()),
        ("released_imaml_loop", ReleasedIMAMLLoop()),
        ("released_gbml", ReleasedGBML()),
    ],
)
def test_what_the_recipes_refuse(name: str, estimator: Estimator) -> None:
    problem, loop = quadratic(2)
    unstated = replace(problem, strength=None)
    with pytest.raises(ValueError, match=f"^{name}: expected a stated proximal strength, found None in problem 'quad"):
        estimator(unstated, loop)
    other = replace(weighted(), strength=1.0)
    theta, data = theta_and_data(other, 2)
    start = "a loop that starts at theta" if name.endswith("loop") else r"as many components of theta as weights \(4\)"
    with pytest.raises(ValueError, match=f"^{name}: expected {start}, found"):
        estimator(other, run_inner(other, GradientDescent(0.1), theta, data, 1))


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="^released_imaml: iterations: expected a whole number >= 0"):
        ReleasedIMAML(-1)
    with pytest.raises(ValueError, match="^released_imaml: lam_damping: expected a finite number >= 0"):
        ReleasedIMAML(lam_damping=-1.0)
    with pytest.raises(ValueError, match="^released_gbml: lamb: expected a finite number > 0"):
        ReleasedGBML(lamb=0.0)
