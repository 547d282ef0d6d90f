"""What every registered problem, estimator, linear solver and inner optimizer must hold, those added later included.

A problem is built small (`tests.cases.small`); where a new one needs other settings to be small, it gets a line in
`OVERRIDES` there.
"""

import pytest
import torch
from torch import Tensor

from diagnostics.estimators.unrolled import Unrolled, stray
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.hessian import second_order
from diagnostics.inner import Trajectory, loss_gradient, optimizers, run_inner
from diagnostics.meta_gradient import estimators, outer_gradients
from diagnostics.outcome import Outcome, decode
from diagnostics.problem import Problem
from diagnostics.problem_names import problems
from diagnostics.rows import Data, row_norms
from diagnostics.solvers import solvers
from tests.cases import (
    check_by_differences,
    check_ratio,
    gd,
    make_estimator,
    make_optimizer,
    make_solver,
    only,
    small,
    symmetric,
    theta_and_data,
    times,
    usual_outcome,
    vectors,
)

TASKS, STEPS = 3, 4
# Estimators that are not the derivative of the loop, or of a part of it: they solve a linear system at its end, or (the
# last one) do not look at the outer loss.
NOT_OF_THE_PATH = {
    "implicit", "implicit_fixed_point", "released_imaml", "released_imaml_loop", "released_gbml", "reptile",
}  # fmt: skip
every_problem = pytest.mark.parametrize("name", problems.names())
every_estimator = pytest.mark.parametrize("name", estimators.names())
every_solver = pytest.mark.parametrize("name", solvers.names())
every_optimizer = pytest.mark.parametrize("name", optimizers.names())


def quantities(problem: Problem, w: Tensor, theta: Tensor, data: Data) -> dict[str, Tensor]:
    """Everything that is computed from a problem at a point, each `(B, ...)`."""
    point = second_order(problem, w, theta, data)
    v = vectors(1, w.shape[1]).to(w).expand_as(w)
    detached = w.detach().requires_grad_()
    outer = problem.outer_loss(detached, theta, data)
    return {
        "inner loss": problem.inner_loss(w, theta, data),
        "outer loss": outer.detach(),
        "inner gradient": point.gradient,
        "outer gradient": torch.autograd.grad(outer.sum(), detached)[0],
        "Hessian product": point.hessian(v),
        "mixed product": point.mixed(v),
    }


# ---- problems


@every_problem
def test_losses_have_one_value_a_task(name: str) -> None:
    problem = small(name)
    theta, data = theta_and_data(problem, TASKS)
    w = problem.start(theta, data)
    assert w.dtype == torch.float64 and w.dim() == 2 and len(w) == TASKS
    for loss in (problem.inner_loss, problem.outer_loss):
        assert loss(w, theta, data).shape == (TASKS,)
        assert bool(loss(w, theta, data).isfinite().all())


@every_problem
def test_a_larger_sample_begins_with_the_smaller_one(name: str) -> None:
    problem = small(name)
    few, many, again, other = (problem.sample(*args) for args in ((2, 5), (6, 5), (2, 5), (2, 6)))
    assert few.keys() == many.keys() == other.keys()
    for key, value in few.items():
        assert len(value) == 2 and len(many[key]) == 6
        assert torch.equal(value, many[key][:2]), key
        assert torch.equal(value, again[key]), key
        assert not value.is_floating_point() or value.dtype == torch.float64
    assert any(not torch.equal(few[key], other[key]) for key in few)
    # Tasks of one sample differ from each other.
    assert any(not torch.equal(many[key][0], many[key][1]) for key in many)


@every_problem
def test_meta_parameters_are_drawn_from_the_seed(name: str) -> None:
    problem = small(name)
    assert problem.init(3).dtype == torch.float64 and problem.init(3).dim() == 1
    assert torch.equal(problem.init(3), problem.init(3))
    assert not torch.equal(problem.init(3), problem.init(4))


@every_problem
@pytest.mark.parametrize("what", ["w", "theta", "data", "nan"])
def test_rows_never_mix(name: str, what: str) -> None:
    """Whatever becomes of task 1, a NaN included, every number of the other tasks stays the same, bit for bit."""
    problem = small(name)
    theta, data = theta_and_data(problem, TASKS)
    w = problem.start(theta, data) + 0.1 * vectors(TASKS, problem.start(theta, data).shape[1])
    before = quantities(problem, w, theta, data)

    w, theta, data = w.clone(), theta.clone(), {key: value.clone() for key, value in data.items()}
    if what == "w":
        w[1] = w[1] * 1.5 + 0.25
    if what == "theta":
        theta[1] = theta[1] * 1.5 + 0.25
    if what == "data":
        other = problem.sample(TASKS, 77)
        for key in data:
            data[key][1] = other[key][1]
    if what == "nan":
        w[1] = theta[1] = torch.nan
        for value in data.values():
            if value.is_floating_point():
                value[1] = torch.nan
    after = quantities(problem, w, theta, data)
    others = torch.tensor([0, 2])
    for quantity, value in before.items():
        assert torch.equal(value[others], after[quantity][others]), quantity
    changed = [not torch.equal(before[q][1].nan_to_num(7.0), after[q][1].nan_to_num(8.0)) for q in before]
    assert any(changed)  # or the perturbation did not reach the loss, and nothing was tested


@every_problem
def test_a_row_does_not_depend_on_its_place_or_on_how_many_there_are(name: str) -> None:
    """Beyond rounding: kernels may sum in another order for another size of batch."""
    problem = small(name)
    theta, data = theta_and_data(problem, TASKS)
    w = problem.start(theta, data) + 0.1 * vectors(TASKS, problem.start(theta, data).shape[1])
    together = quantities(problem, w, theta, data)
    for row in range(TASKS):
        one = slice(row, row + 1)
        alone = quantities(problem, w[one], theta[one], {key: value[one] for key, value in data.items()})
        for quantity, value in alone.items():
            flat, many = value.reshape(1, -1), together[quantity][one].reshape(1, -1)
            # Sums of at most N terms each; the scale is the largest quantity of the kind, since a sum may cancel.
            scale = max(float(row_norms(together[quantity].reshape(TASKS, -1)).max()), float(row_norms(w).max()))
            check_ratio(f"chunking, {name}", row_norms(flat - many), 2.0**-52 * w.shape[1] ** 0.5 * scale, quantity)


@every_problem
def test_the_stated_strength_is_that_of_the_proximal_term(name: str) -> None:
    """Theta enters the inner loss through strength/2 |w - theta|^2 alone: d2 inner / dtheta dw = -strength I."""
    problem = small(name)
    if problem.strength is None:
        return
    theta, data = theta_and_data(problem, TASKS)
    w = problem.start(theta, data) + 0.1
    v = vectors(TASKS, w.shape[1])
    mixed = second_order(problem, w, theta, data).mixed(v)
    check_ratio(
        "mixed product", row_norms(mixed + problem.strength * v), 2.0**-52 * problem.strength * row_norms(v), name
    )


@every_problem
def test_the_stated_minimiser_is_one(name: str) -> None:
    problem = small(name)
    if problem.minimizer is None:
        return
    theta, data = theta_and_data(problem, TASKS)
    w = problem.minimizer(theta, data)
    gradient = loss_gradient(problem.inner_loss, w, theta, data)
    start = loss_gradient(problem.inner_loss, theta, theta, data)
    # What cancels in the gradient is of the size of |H| |w| and of the start's gradient; |H| <= 1.1 in small problems.
    check_ratio(
        "gradient at the minimiser", row_norms(gradient), 2.0**-52 * (1.1 * row_norms(w) + row_norms(start)), name
    )


@every_problem
def test_both_unrolled_gradients_meet_the_recorded_states_and_agree(name: str) -> None:
    problem = small(name)
    theta, data = theta_and_data(problem, TASKS)
    optimizer = gd(problem)
    loop = run_inner(problem, optimizer, theta, data, STEPS)
    assert only(loop.outcome) is Outcome.OK

    # The states themselves, met again with the graph of `unrolled`, and step by step as `unrolled_adjoint` does.
    at = theta.clone().requires_grad_()
    state = optimizer.start(problem.start(at, data))
    for step in range(STEPS):
        assert torch.equal(state.detach(), loop.states[step])
        with_graph = optimizer.step(
            state, lambda w: loss_gradient(problem.inner_loss, w, at, data, graph=True), loop.size
        )
        alone = optimizer.step(
            loop.states[step].clone().requires_grad_(),
            lambda w: loss_gradient(problem.inner_loss, w, at, data, graph=True),
            loop.size,
        )
        assert torch.equal(with_graph, alone)
        state = with_graph
    assert not bool(stray(state, loop, STEPS).any())

    swept = UnrolledAdjoint().path(problem, loop, range(STEPS + 1))
    for steps in range(STEPS + 1):
        end = loop.prefix(steps)
        whole, adjoint = Unrolled()(problem, end), UnrolledAdjoint()(problem, end)
        for gradient in (whole, adjoint, swept[steps]):
            assert only(gradient.outcome) is Outcome.OK
            assert gradient.value.dtype == theta.dtype and not gradient.value.requires_grad
        by_w, _ = outer_gradients(problem, end)
        # Each of K steps rounds once more, in the N terms of a product with I - aH; sums of them go like the root.
        unit = 2.0**-52 * (steps + 1) * theta.shape[1] ** 0.5 * (row_norms(whole.value) + row_norms(by_w))
        for other in (adjoint, swept[steps]):
            check_ratio(
                "unrolled against adjoint", row_norms(whole.value - other.value), unit, f"{name}, {steps} steps"
            )


@every_problem
def test_unrolled_gradients_are_the_derivative(name: str) -> None:
    """By central differences, smooth or not: see `check_by_differences` for how kinks are kept out."""
    problem = small(name)
    theta, data = theta_and_data(problem, TASKS)
    loop = run_inner(problem, gd(problem), theta, data, 2)
    gradient = UnrolledAdjoint()(problem, loop).value
    check_by_differences(
        "central differences, registered problems",
        problem,
        gd(problem),
        theta,
        data,
        2,
        gradient,
        kinks=name not in ("quadratic", "linear_regression", "logistic", "sinusoid"),
    )


@every_problem
def test_float32_stays_float32_and_near(name: str) -> None:
    """Every operation in the arithmetic that was asked for; the error is of its size, K steps' worth."""
    problem = small(name)
    theta, data = theta_and_data(problem, TASKS, dtype=torch.float32)
    loop = run_inner(problem, gd(problem), theta, data, 2)
    gradient = UnrolledAdjoint()(problem, loop)
    assert loop.states.dtype == loop.gradient_norms.dtype == gradient.value.dtype == torch.float32
    wide = {key: value.double() if value.is_floating_point() else value for key, value in data.items()}
    exact = UnrolledAdjoint()(problem, run_inner(problem, gd(problem), theta.double(), wide, 2))
    by_w, _ = outer_gradients(problem, loop)
    unit = 2.0**-23 * 3 * theta.shape[1] ** 0.5 * (row_norms(exact.value) + row_norms(by_w).double())
    check_ratio("float32 against float64", row_norms(gradient.value.double() - exact.value), unit, name)


# ---- estimators


@every_estimator
def test_estimators_are_pure(name: str) -> None:
    """Shape, arithmetic, determinism, inputs as they were, and no graph left hanging."""
    problem = small("quadratic")
    for dtype in (torch.float64, torch.float32):
        theta, data = theta_and_data(problem, TASKS, dtype=dtype)
        loop = run_inner(problem, gd(problem), theta, data, STEPS)
        before = [x.clone() for x in (loop.theta, loop.states, *data.values())]
        one, two = (make_estimator(name)(problem, loop) for _ in range(2))
        assert one.value.shape == theta.shape and one.value.dtype == dtype and not one.value.requires_grad
        assert one.outcome.shape == (TASKS,) and only(one.outcome) is usual_outcome(name)
        assert torch.equal(one.value, two.value)
        least = 0 if name == "reptile" else 1  # it needs no gradient but the inner loop's own
        assert bool((one.gradient_count >= least).all() and (one.hvp_count >= 0).all())
        for was, now in zip(before, (loop.theta, loop.states, *data.values()), strict=True):
            assert torch.equal(was, now)


@every_estimator
def test_estimators_treat_every_row_alone(name: str) -> None:
    problem = small("quadratic")
    theta, data = theta_and_data(problem, TASKS)
    whole = make_estimator(name)(problem, run_inner(problem, gd(problem), theta, data, STEPS)).value
    theta, data = theta.clone(), {key: value.clone() for key, value in data.items()}
    theta[1] += 1
    data["b"][1] -= 2
    changed = make_estimator(name)(problem, run_inner(problem, gd(problem), theta, data, STEPS)).value
    assert torch.equal(whole[[0, 2]], changed[[0, 2]])
    assert not torch.equal(whole[1], changed[1])


@every_estimator
def test_estimators_report_a_loop_that_diverged_and_spare_the_other_tasks(name: str) -> None:
    problem = small("quadratic")
    theta, data = theta_and_data(problem, TASKS)
    alone = make_estimator(name)(problem, run_inner(problem, gd(problem), theta, data, 400))
    data["A"][1] *= 1e6  # the step is now far too long for task 1
    gradient = make_estimator(name)(problem, run_inner(problem, gd(problem), theta, data, 400))
    assert decode(gradient.outcome) == [usual_outcome(name), Outcome.DIVERGED, usual_outcome(name)]
    assert torch.equal(gradient.value[[0, 2]], alone.value[[0, 2]])


@every_estimator
def test_estimators_accept_a_loop_of_no_steps(name: str) -> None:
    problem = small("quadratic")
    theta, data = theta_and_data(problem, TASKS)
    gradient = make_estimator(name)(problem, run_inner(problem, gd(problem), theta, data, 0))
    assert only(gradient.outcome) is usual_outcome(name)
    own = outer_gradients(problem, run_inner(problem, gd(problem), theta, data, 0))[0]
    if name == "finite_difference":  # eps^(4/5) of the outer loss over theta's scale, which is 1
        unit = 2.0 ** (-52 * 0.8) * (row_norms(own) + problem.outer_loss(theta, theta, data).abs())
        check_ratio("differences without a step", row_norms(gradient.value - own), unit)
    elif name not in NOT_OF_THE_PATH:  # no step was taken: w_0 = theta, and the derivative is the outer loss's own
        assert torch.equal(gradient.value, own)


# ---- linear solvers


@every_solver
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_solvers_solve_a_definite_system(name: str, dtype: torch.dtype) -> None:
    values = torch.tensor([[1.0, 2, 3, 4, 5], [0.5, 0.5, 1, 1, 2]], dtype=dtype)
    matrix, b = symmetric(values), vectors(2, 5, dtype=dtype)
    b[1] = b[1] * 2.0**-60
    (solution,) = make_solver(name).path(times(matrix), b)[-1:]
    assert solution.value.dtype == dtype and solution.value.shape == b.shape
    assert only(solution.outcome) is Outcome.OK
    truth = torch.linalg.solve(matrix.double(), b.double())
    check_ratio(
        f"solver {name}", row_norms(solution.value.double() - truth), torch.finfo(dtype).eps * 5 * row_norms(truth)
    )
    assert bool((solution.residual <= 100 * torch.finfo(dtype).eps).all())


@every_solver
def test_solvers_report_an_indefinite_system(name: str) -> None:
    matrix = symmetric(torch.tensor([[1.0, -2, 3], [1, 2, 3]]).double())
    solution = make_solver(name).path(times(matrix), vectors(2, 3))[-1]
    assert decode(solution.outcome) == [Outcome.NEGATIVE_CURVATURE, Outcome.OK]


# ---- inner optimizers


@every_optimizer
def test_no_steps_are_the_identity(name: str) -> None:
    problem = small("quadratic")
    theta, data = theta_and_data(problem, TASKS)
    loop = run_inner(problem, make_optimizer(name), theta, data, 0)
    assert loop.steps == 0 and torch.equal(loop.final, theta)


@every_optimizer
@pytest.mark.parametrize("problem_name", ["quadratic", "logistic"])
def test_optimizers_are_differentiated_rightly(name: str, problem_name: str) -> None:
    problem, optimizer = small(problem_name), make_optimizer(name)
    theta, data = theta_and_data(problem, TASKS)
    loop: Trajectory = run_inner(problem, optimizer, theta, data, 5)
    whole, adjoint = Unrolled()(problem, loop), UnrolledAdjoint()(problem, loop)
    assert only(whole.outcome) is Outcome.OK and only(adjoint.outcome) is Outcome.OK
    unit = 2.0**-52 * 6 * row_norms(whole.value)
    check_ratio("optimizers, unrolled against adjoint", row_norms(whole.value - adjoint.value), unit, name)
    # A finer step than usual: a step of Adam bends within the size of the gradient's smallest component, and one of
    # L-BFGS within that of the first step.
    check_by_differences("optimizers, central differences", problem, optimizer, theta, data, 5, whole.value, step=1e-5)


@every_optimizer
def test_optimizers_lower_the_inner_loss(name: str) -> None:
    problem = small("quadratic")
    theta, data = theta_and_data(problem, TASKS)
    loop = run_inner(problem, make_optimizer(name), theta, data, 100)
    assert bool((problem.inner_loss(loop.final, theta, data) < problem.inner_loss(theta, theta, data)).all())
    assert loop.optimizer.learning_rate == 0.1
