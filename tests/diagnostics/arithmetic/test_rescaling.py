"""Rescaled data: what it does to the moments, and the gradient carried back to the original coordinates.

The unit of error of a carried gradient is `eps * cond(M) * |g|`: M^-1 takes the weights and the gradient there, and M
back.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from diagnostics.arithmetic.rescaling import RESCALINGS, parse, rescale
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.inner import loss_gradient, run_inner
from diagnostics.inputs import Inputs, linear_inputs, second_moment
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.problem import Problem
from diagnostics.problem_names import build, problems
from diagnostics.rows import Data, row_norms
from tests.cases import central_difference, check_ratio, gd, outer_value, small, theta_and_data, vectors

EPS = 2.0**-52
TASKS = 3
NAMES = ("none", "power_of_two", "standardize", "whiten", "scale:1e-3", "scale:1e4")
every_problem = pytest.mark.parametrize("name", problems.names())
every_rescaling = pytest.mark.parametrize("rescaling", NAMES)
sizes = pytest.mark.parametrize("size", [1, 2, 5, 20])


def stated(problem: Problem) -> Inputs:
    assert problem.inputs is not None
    return problem.inputs


def moment(problem: Problem, data: Data) -> Tensor:
    return stated(problem).moment(data)


def condition(problem: Problem, data: Data) -> Tensor:
    """cond(M)^2 of the whitening of the data; the standardizing M is no worse."""
    values = torch.linalg.eigvalsh(moment(problem, data))
    return values[:, -1] / values[:, 0]


def outer_gradient(problem: Problem, w: Tensor, theta: Tensor, data: Data) -> Tensor:
    return loss_gradient(problem.outer_loss, w, theta, data)


# ---- names


def test_names_are_parsed() -> None:
    assert parse("whiten") == ("whiten", 1.0) and parse("scale:1e-3") == ("scale", 1e-3)
    assert all(parse(name.replace("<factor>", "2"))[1] in (1.0, 2.0) for name in RESCALINGS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("standardise", "unknown rescaling 'standardise'; did you mean 'standardize'"),
        ("scale", "did you mean 'scale:<factor>'"),
        ("", "unknown rescaling ''; known: none, power_of_two"),
        ("whiten:2", "did you mean 'whiten'"),
        *((f"scale:{bad}", "expected scale:<factor> with a finite factor > 0") for bad in ("", "0", "-1", "inf", "x")),
        ("loss_scale:nan", "expected loss_scale:<factor> with a finite factor > 0"),
        ("loss_scale", "did you mean 'loss_scale:<factor>'"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse(name)
    assert "\n" not in str(caught.value)


def test_scaled_losses_are_the_same_loop_and_the_gradient_is_carried_back() -> None:
    problem = small("logistic")
    theta, data = theta_and_data(problem, 2)
    scaled = rescale("loss_scale:1024", problem, gd(problem), theta, data)
    plain, there = (run_inner(p, gd(problem), theta, data, 5) for p in (problem, scaled.problem))
    assert torch.equal(plain.states, there.states) and scaled.carry_back is not None
    gradients = [UnrolledAdjoint()(p, loop).value for p, loop in ((problem, plain), (scaled.problem, there))]
    # The graph adds up what comes to w in another order, once a step.
    away = row_norms(scaled.carry_back(gradients[1]) - gradients[0])
    check_ratio("loss scale", away, 2.0**-52 * 5 * row_norms(gradients[0]))
    assert bool((row_norms(gradients[1]) > 1000 * row_norms(gradients[0])).all())
    with pytest.raises(ValueError, match="expected a power of two, which scales without rounding, found 1000"):
        rescale("loss_scale:1000", problem, gd(problem), theta, data)


# ---- every problem


@every_problem
@every_rescaling
def test_every_problem_is_rescaled_or_says_why_not(name: str, rescaling: str) -> None:
    """Where the weights undo the map, the rescaled problem has the same losses at its start, and its gradient there
    carried back is that of the original: without an inner step the chain rule is all there is.
    """
    problem = small(name)
    theta, data = theta_and_data(problem, TASKS)
    before = {key: x.clone() for key, x in data.items()}
    try:
        found = rescale(rescaling, problem, gd(problem), theta, data, 2)
    except ValueError as error:
        assert rescaling in str(error) and repr(name) in str(error) and "use" in str(error) and "\n" not in str(error)
        return
    assert all(torch.equal(x, before[key]) for key, x in data.items())
    assert found.theta.dtype == torch.float64 and found.theta.shape == theta.shape
    loop = run_inner(found.problem, found.optimizer, found.theta, found.data, 2)
    assert loop.states.isfinite().all()
    if found.carry_back is None:
        assert torch.equal(found.theta, theta)
        return
    there = UnrolledAdjoint()(found.problem, loop.prefix(0)).value
    truth = UnrolledAdjoint()(problem, run_inner(problem, gd(problem), theta, data, 0)).value
    unit = EPS * theta.shape[1] ** 0.5
    kappa = condition(problem, data) if rescaling in ("whiten", "standardize") else torch.ones(TASKS).double()
    check_ratio(
        "carried back at the start", row_norms(found.carry_back(there) - truth), unit * kappa * row_norms(truth)
    )
    if rescaling != "power_of_two":
        for loss in ("inner_loss", "outer_loss"):
            old = getattr(problem, loss)(theta, theta, data)
            new = getattr(found.problem, loss)(found.theta, found.theta, found.data)
            # The quadratic's losses are sums of terms larger than they.
            scale = old.abs() + row_norms(theta) ** 2 + row_norms(truth) * row_norms(theta)
            check_ratio("loss at the start", (new - old).abs(), unit * kappa * scale, f"{name}, {rescaling}")


def test_which_problems_refuse_what() -> None:
    refused = set()
    for name in problems.names():
        problem = small(name)
        theta, data = theta_and_data(problem, 1)
        for rescaling in NAMES:
            try:
                rescale(rescaling, problem, gd(problem), theta, data)
            except ValueError:
                refused.add((name, rescaling))
    assert refused == {("few_shot", "whiten"), ("generalized_few_shot", "whiten")}


@every_problem
@pytest.mark.parametrize("rescaling", ["standardize", "whiten", "scale:3"])
def test_the_map_of_theta_is_differentiated_rightly(name: str, rescaling: str) -> None:
    """The rescaled problem as a function of the original theta, by central differences, after two steps."""
    of_images = name in ("few_shot", "generalized_few_shot")
    problem = small(name, **({"activation": "tanh", "pool": "average"} if of_images else {}))
    theta, data = theta_and_data(problem, TASKS)
    if of_images and rescaling == "whiten":
        return
    optimizer = GradientDescent(0.01)
    found = rescale(rescaling, problem, optimizer, theta, data)
    if found.carry_back is None:
        return
    loop = run_inner(problem, optimizer, found.theta, found.data, 2)
    gradient = found.carry_back(UnrolledAdjoint()(problem, loop).value)

    def value(at: Tensor) -> Tensor:
        return outer_value(problem, optimizer, rescale(rescaling, problem, optimizer, at, data).theta, found.data, 2)

    for seed in range(3):
        u = vectors(TASKS, theta.shape[1], seed)
        u = u / row_norms(u).unsqueeze(-1)
        slope, uncertainty = central_difference(value, theta, u, 1e-3, roundings=4.0)
        check_ratio("carried back, central differences", (slope - (gradient * u).sum(-1)).abs(), uncertainty, name)
        assert bool((uncertainty <= 1e-4 * row_norms(gradient)).all())


# ---- the moments


@pytest.mark.parametrize("name", ["quadratic", "linear_regression", "logistic"])
@pytest.mark.parametrize("kappa", [1.0, 1e4])
@sizes
def test_whitened_inputs_have_the_identity_for_a_moment(name: str, kappa: float, size: int) -> None:
    problem = build(name, dimension=size, condition=kappa, **({} if name == "quadratic" else {"examples": size}))
    theta, data = theta_and_data(problem, TASKS)
    whitened = rescale("whiten", problem, gd(problem), theta, data)
    error = torch.linalg.matrix_norm(moment(problem, whitened.data) - torch.eye(size).double(), 2)
    check_ratio("whitened moment", error, EPS * size**0.5 * kappa, f"{name}, size {size}")


@pytest.mark.parametrize("name", ["quadratic", "linear_regression", "logistic"])
@sizes
def test_standardized_inputs_have_a_moment_of_unit_diagonal(name: str, size: int) -> None:
    problem = build(name, dimension=size, **({} if name == "quadratic" else {"examples": size}))
    theta, data = theta_and_data(problem, TASKS)
    found = rescale("standardize", problem, gd(problem), theta, data)
    new, old = moment(problem, found.data), moment(problem, data)
    spread = old.diagonal(dim1=-2, dim2=-1).sqrt()
    truth = old / (spread.unsqueeze(1) * spread.unsqueeze(2))  # the correlations stay what they were
    check_ratio("standardized moment", (new - truth).abs(), EPS * size**0.5, f"{name}, size {size}")
    assert float((new.diagonal(dim1=-2, dim2=-1) - 1).abs().max()) < 30 * EPS * size**0.5


@pytest.mark.parametrize("rescaling", ["standardize", "whiten"])
@pytest.mark.parametrize("shots", [2, 10])
def test_the_sinusoid_is_centred_too(rescaling: str, shots: int) -> None:
    problem = build("sinusoid", shots=shots)
    theta, data = theta_and_data(problem, TASKS)
    found = rescale(rescaling, problem, gd(problem), theta, data)
    x = found.data["support_x"]
    # The mean cancels to eps of the size of x, relative to the spread.
    unit = EPS * (1 + data["support_x"].abs().amax((1, 2)) / data["support_x"].std(1, correction=0).squeeze(-1))
    check_ratio("centred", x.mean(1).abs().squeeze(-1), unit)
    check_ratio("unit deviation", (x.std(1, correction=0).squeeze(-1) - 1).abs(), unit)
    # The query is changed by the support's numbers, and the targets are not.
    mean, spread = data["support_x"].mean(1, keepdim=True), data["support_x"].std(1, correction=0, keepdim=True)
    check_ratio("query", (found.data["query_x"] - (data["query_x"] - mean) / spread).abs(), unit.view(-1, 1, 1) * 10)
    assert torch.equal(found.data["support_y"], data["support_y"])


def test_images_are_standardized_as_one_feature_and_the_weights_stay() -> None:
    problem = small("few_shot")
    theta, data = theta_and_data(problem, TASKS)
    found = rescale("standardize", problem, gd(problem), theta, data)
    images = found.data["support_images"].flatten(1)
    check_ratio("centred images", images.mean(1).abs(), EPS * images.shape[1] ** 0.5)
    check_ratio("unit images", (images.std(1, correction=0) - 1).abs(), EPS * images.shape[1] ** 0.5)
    assert found.carry_back is None and torch.equal(found.theta, theta)


# ---- closed forms


@sizes
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_whitening_a_quadratic_makes_its_gradient_a_multiple_of_the_outer_one(size: int, steps: int) -> None:
    """With A' = I the Jacobian is the number j = l/(1+l) + (1 - a(1+l))^K / (1+l), and carrying back makes C'(w' - c')
    of C(w - c).
    """
    problem = build("quadratic", dimension=size, condition=50.0, strength=0.1)
    theta, data = theta_and_data(problem, TASKS)
    found = rescale("whiten", problem, GradientDescent(0.3), theta, data)
    assert found.carry_back is not None
    loop = run_inner(found.problem, found.optimizer, found.theta, found.data, steps)
    gradient = found.carry_back(UnrolledAdjoint()(found.problem, loop).value)
    root = _root(data["A"])  # M^-1
    w = torch.linalg.solve(root, loop.final)
    j = 0.1 / 1.1 + (1 - 0.3 * 1.1) ** steps / 1.1
    truth = j * outer_gradient(problem, w, theta, data)
    check_ratio("whitened closed form", row_norms(gradient - truth), EPS * 50.0 * row_norms(truth), (size, steps))


@sizes
@pytest.mark.parametrize("name", ["quadratic", "linear_regression"])
@pytest.mark.parametrize("rescaling", ["standardize", "whiten", "scale:0.3", "scale:1.5"])
def test_the_carried_gradient_is_that_of_a_preconditioned_loop(name: str, rescaling: str, size: int) -> None:
    """`w <- w - a (M M' (Aw - b) + l (w - theta))` in the original coordinates, by dense matrices."""
    condition, steps, step, strength = 20.0, 6, 0.3, 0.1
    problem = build(name, dimension=size, condition=condition, strength=strength)
    theta, data = theta_and_data(problem, TASKS)
    if name == "quadratic":
        a, b, c, aim = data["A"], data["b"], data["C"], _times(data["C"], data["c"])
    else:
        (a, b), (c, aim) = (
            (second_moment(data[f"{side}_x"]), _times(data[f"{side}_x"].mT, data[f"{side}_y"]) / 40)
            for side in ("support", "query")
        )
    factor = {"standardize": a.diagonal(dim1=-2, dim2=-1).rsqrt().diag_embed(), "whiten": torch.linalg.inv(_root(a))}
    by = factor[rescaling] if rescaling in factor else parse(rescaling)[1] * torch.eye(size).double().expand_as(a)
    metric = by @ by.mT
    eye = torch.eye(size).double()
    w, jacobian = theta, eye.expand_as(a)
    for _ in range(steps):
        w = w - step * (_times(metric, _times(a, w) - b) + strength * (w - theta))
        jacobian = jacobian - step * (metric @ a @ jacobian + strength * (jacobian - eye))
    truth = _times(jacobian.mT, _times(c, w) - aim)
    found = rescale(rescaling, problem, GradientDescent(step), theta, data)
    assert found.carry_back is not None
    loop = run_inner(found.problem, found.optimizer, found.theta, found.data, steps)
    gradient = found.carry_back(UnrolledAdjoint()(found.problem, loop).value)
    # Each of K steps adds a rounding, of terms as large as theta and b; a step may stretch by |1 - a (eig + l)| <= 1,
    # but the oracle's own, in coordinates of condition cond(M), by that.
    scale = row_norms(truth) + row_norms(theta) + row_norms(b) + row_norms(aim)
    unit = EPS * steps * size**0.5 * condition * scale
    check_ratio("preconditioned loop", row_norms(gradient - truth), unit, f"{name}, {rescaling}, size {size}")


@pytest.mark.parametrize("name", ["quadratic", "linear_regression", "logistic"])
@pytest.mark.parametrize("exponent", [-30, 1, 17])
def test_scaling_by_a_power_of_two_is_exact(name: str, exponent: int) -> None:
    """With the step and the strength scaled along it is the same loop: the same bits."""
    factor = 2.0**exponent
    problem = small(name, strength=0.1)
    theta, data = theta_and_data(problem, TASKS)
    plain = run_inner(problem, GradientDescent(0.3), theta, data, 5)
    found = rescale(f"scale:{factor!r}", small(name, strength=0.1 * factor**2), GradientDescent(0.3), theta, data)
    assert found.carry_back is not None
    optimizer = GradientDescent(0.3 / factor**2)
    loop = run_inner(found.problem, optimizer, found.theta, found.data, 5)
    assert torch.equal(loop.states * factor, plain.states)
    gradient = found.carry_back(UnrolledAdjoint()(found.problem, loop).value)
    assert torch.equal(gradient, UnrolledAdjoint()(problem, plain).value)


def test_a_problem_of_ones_own_can_state_its_inputs() -> None:
    """Ridge regression written for one task is rescaled as the native one is."""
    native = small("linear_regression", strength=0.1)

    def own(strength: float) -> Problem:
        def loss(prefix: str) -> Callable[[Tensor, Tensor, Data], Tensor]:
            return lambda w, theta, data: 0.5 * ((data[f"{prefix}_x"] @ w - data[f"{prefix}_y"]) ** 2).mean()

        problem = Problem.from_task_losses(
            "mine", loss("support"), loss("query"), native.init, native.sample, strength=strength
        )
        return replace(problem, inputs=linear_inputs(own, ("support_y", "query_y")))

    theta, data = theta_and_data(native, TASKS)
    for rescaling in NAMES:
        values = []
        for problem in (native, own(0.1)):
            found = rescale(rescaling, problem, GradientDescent(1e-3), theta, data, 2)
            loop = run_inner(found.problem, found.optimizer, found.theta, found.data, 2)
            assert found.carry_back is not None
            values.append(found.carry_back(UnrolledAdjoint()(found.problem, loop).value))
        assert found.powers.outer != 0 or rescaling != "power_of_two"
        unit = EPS * condition(native, data) * row_norms(values[0])
        check_ratio("own against native", row_norms(values[0] - values[1]), unit, rescaling)


# ---- what is refused


@dataclass(frozen=True)
class Case:
    rescaling: str
    message: str
    change: Callable[[Problem, Tensor, Data], tuple[Problem, Tensor, Data]]


def _without_inputs(problem: Problem, theta: Tensor, data: Data) -> tuple[Problem, Tensor, Data]:
    return replace(problem, inputs=None), theta, data


def _first_feature_zero(problem: Problem, theta: Tensor, data: Data) -> tuple[Problem, Tensor, Data]:
    x = data["support_x"].clone()
    x[1, :, 0] = 0.0
    return problem, theta, {**data, "support_x": x}


def _query_y_infinite(problem: Problem, theta: Tensor, data: Data) -> tuple[Problem, Tensor, Data]:
    return problem, theta, {**data, "query_y": data["query_y"] / 0}


def _query_x_large(problem: Problem, theta: Tensor, data: Data) -> tuple[Problem, Tensor, Data]:
    return problem, theta, {**data, "query_x": 1e20 * data["query_x"]}


CASES = [
    *(
        Case(name, "does not state its inputs; state them with dataclasses.replace", _without_inputs)
        for name in ("standardize", "whiten", "scale:2")
    ),
    Case("standardize", "found problem 'linear_regression' with feature 0 constant in task 1", _first_feature_zero),
    Case("whiten", "can be inverted, found problem 'linear_regression' with eigenvalues from", _first_feature_zero),
    Case("none", "expected float64, .* found torch.float32 in theta", lambda p, t, d: (p, t.float(), d)),
    Case("whiten", r"found NaN or infinity in data\['query_y'\]", _query_y_infinite),
    Case("scale:1e300", "rescaled: expected finite numbers, found NaN or infinity", _query_x_large),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rescaling)
def test_what_cannot_be_rescaled_is_refused_in_one_line(case: Case) -> None:
    problem = small("linear_regression")
    problem, theta, data = case.change(problem, *theta_and_data(problem, TASKS))
    with pytest.raises(ValueError, match=case.message) as caught:
        rescale(case.rescaling, problem, gd(problem), theta, data)
    assert "\n" not in str(caught.value) and case.rescaling in str(caught.value)


@pytest.mark.parametrize("rescaling", ["standardize", "whiten"])
def test_a_single_point_has_no_deviation(rescaling: str) -> None:
    problem = build("sinusoid", shots=1)
    theta, data = theta_and_data(problem, TASKS)
    with pytest.raises(ValueError, match="more examples"):
        rescale(rescaling, problem, gd(problem), theta, data)
    # Nor have three equal ones, although their mean is rounded.
    problem = build("sinusoid", shots=3)
    theta, data = theta_and_data(problem, TASKS)
    data["support_x"][:] = 0.1
    with pytest.raises(ValueError, match="more examples"):
        rescale(rescaling, problem, gd(problem), theta, data)


def test_images_are_not_whitened() -> None:
    problem = small("few_shot")
    with pytest.raises(ValueError, match="whiten: the inputs of problem 'few_shot' .* use standardize"):
        rescale("whiten", problem, gd(problem), *theta_and_data(problem, TASKS))


def _root(matrix: Tensor) -> Tensor:
    values, basis = torch.linalg.eigh(matrix)
    return (basis * values.sqrt().unsqueeze(1)) @ basis.mT


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
