"""bfloat16 and float16 round as defined, carry everything registered, and say where their range ends."""

import inspect
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diagnostics.arithmetic.low import FORMATS, low_precision, scaled_losses, underflow_at
from diagnostics.arithmetic.precision import enter_rows, precision
from diagnostics.estimators.implicit import Implicit
from diagnostics.estimators.unrolled import Unrolled
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.hessian import second_order
from diagnostics.inner import loss_gradient, run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.linear.dense import Dense
from diagnostics.linear.gmres import GeneralisedMinimalResidual
from diagnostics.meta_gradient import estimators, outer_gradients
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.outcome import Outcome, decode
from diagnostics.problem import Problem
from diagnostics.problem_names import problems
from diagnostics.rows import row_norms
from diagnostics.solvers import solvers
from tests.cases import check_ratio, gd, make_estimator, only, refusal, small, theta_and_data, vectors

every_format = pytest.mark.parametrize("name", FORMATS)
TINY = {dtype: torch.finfo(dtype).tiny for dtype, _ in FORMATS.values()}
IMAGES = ("few_shot", "generalized_few_shot")
SMOOTH = {name: {"activation": "tanh", "pool": "average", "norm": "none"} for name in IMAGES}  # no kinks to cross


def every_number(dtype: torch.dtype, seed: int) -> Tensor:
    """All 65,536 bit patterns in random order: subnormals, infinities and NaN included."""
    order = torch.randperm(2**16, generator=torch.Generator().manual_seed(seed))
    return (order - 2**15).to(torch.int16).view(dtype)


@every_format
@pytest.mark.parametrize("operation", ["add", "sub", "mul", "div", "sqrt"])
def test_elementary_arithmetic_is_correctly_rounded(name: str, operation: str) -> None:
    """Against float64, whose result rounded again is correctly rounded too: 53 >= 2 * 11 + 2 (Figueroa 1995)."""
    dtype, _ = FORMATS[name]
    operands = [every_number(dtype, seed) for seed in range(1 if operation == "sqrt" else 2)]
    with low_precision(name):
        value = getattr(torch, operation)(*operands)
    expected = getattr(torch, operation)(*[x.double() for x in operands]).to(dtype)
    assert value.dtype == dtype
    assert torch.equal(value.view(torch.int16)[~expected.isnan()], expected.view(torch.int16)[~expected.isnan()])
    assert torch.equal(value.isnan(), expected.isnan())


@every_format
def test_elementary_functions_are_rounded_once(name: str) -> None:
    """float32's are right to about 2 of its ulp, so all but the closest ties round as float64's do."""
    dtype, _ = FORMATS[name]
    x = every_number(dtype, 0)
    x = x[x.isfinite()]
    for function in (torch.exp, torch.tanh, torch.sigmoid, torch.log1p):
        with low_precision(name):
            value = function(x)
        expected = function(x.double()).to(dtype)
        same = (value == expected) | (value.isnan() & expected.isnan())
        assert float(same.double().mean()) > 0.999, function


def test_the_four_arithmetics_differ_in_how_sums_accumulate() -> None:
    """The sum of 4096 ones: exact with float32 accumulation; without, 1 is lost where the format's integers end."""
    for name, expected in (
        ("bfloat16", 4096.0),
        ("float16", 4096.0),
        ("bfloat16_pure", 256.0),
        ("float16_pure", 2048.0),
    ):
        ones = torch.ones(1, 4096, dtype=FORMATS[name][0])
        with low_precision(name):
            for value in (ones.sum(), ones.sum(-1), ones @ ones.mT, torch.linalg.vector_norm(ones) ** 2):
                assert value.dtype == ones.dtype
                assert float(value) == expected, name


@every_format
def test_overflow_underflow_and_the_functions_that_look_at_bits(name: str) -> None:
    dtype, _ = FORMATS[name]
    limits = torch.finfo(dtype)
    x = torch.tensor([limits.max, limits.tiny, limits.smallest_normal * limits.eps], dtype=dtype)
    with low_precision(name):
        assert (x * 2).isfinite().tolist() == [False, True, True]
        half = (x * 0.5).tolist()
        assert half[1] == limits.tiny / 2 and half[2] == 0.0  # a subnormal number; then a tie, to even
        mantissa, exponent = torch.frexp(x)
        assert torch.equal(torch.ldexp(mantissa, exponent), x) and mantissa.dtype == dtype
        assert float(x.amax()) == limits.max and torch.where(x > 1, x, 0.0).dtype == dtype
        assert torch.eye(2, dtype=dtype).dtype == dtype


@every_format
def test_what_is_not_of_the_format_is_left_alone(name: str) -> None:
    dtype, _ = FORMATS[name]
    third = torch.tensor([1 / 3], dtype=torch.float64)
    low = third.to(dtype)
    with low_precision(name):
        assert torch.equal(third * third, torch.tensor([1 / 3 * (1 / 3)], dtype=torch.float64))
        assert (low * third).dtype == (low.sum(dtype=torch.float64) * third).dtype == torch.float64
        scaled = low * torch.tensor(3.0, dtype=torch.float64)  # a scalar does not widen a vector
        assert scaled.dtype == dtype and (low * 3.0).dtype == dtype
        changed = low.clone()
        same = changed.mul_(3.0)
        torch.add(low, low, out=(out := torch.empty(1, dtype=dtype)))
    assert same is changed and torch.equal(changed, scaled)
    assert torch.equal(out, low + low)


def test_an_operation_without_an_accumulation_of_its_own_is_named() -> None:
    x = torch.ones(3, dtype=torch.float16)
    with low_precision("float16"):
        assert x.cumsum(0).tolist() == [1.0, 2.0, 3.0]
    with (
        pytest.raises(
            NotImplementedError, match=r"aten.cumsum.default has no accumulation in torch.float16 .* 'cumsum'"
        ),
        low_precision("float16_pure"),
    ):
        x.cumsum(0)


def test_function_transforms_work_inside() -> None:
    w = vectors(2, 3).half()
    for name in ("float16", "float16_pure"):
        with low_precision(name):
            mapped = torch.func.vmap(torch.func.grad(lambda w: (torch.tanh(w) ** 2).sum()))(w)
            at = w.clone().requires_grad_()
            (plain,) = torch.autograd.grad((torch.tanh(at) ** 2).sum(), at)
        assert torch.equal(mapped, plain) and mapped.dtype == torch.float16


# ---- everything registered


# Sums that round every term take half a minute on images. Of the others each network and each format is met once.
SHORT = ("few_shot", "bfloat16"), ("generalized_few_shot", "float16")


def settings() -> list[object]:
    return [
        pytest.param(*case, marks=[pytest.mark.slow] if case[0] in IMAGES and case not in SHORT else [])
        for case in ((problem, name) for problem in problems.names() for name in FORMATS)
    ]


@pytest.mark.parametrize(("problem_name", "name"), settings())
def test_everything_runs_unchanged_and_near(problem_name: str, name: str) -> None:
    """Every estimator and solver, in the format's own numbers, off by what its eps and its sums explain."""
    dtype, own = FORMATS[name]
    problem = small(problem_name, **SMOOTH.get(problem_name, {}))
    theta, data = theta_and_data(problem, 2, dtype=dtype)
    exact = run_inner(problem, gd(problem), theta.double(), enter_rows(precision("float64"), data), 2)
    few = theta.shape[1] <= 100
    found = {}
    with low_precision(name):
        loop = run_inner(problem, gd(problem), theta, data, 2)
        for key in estimators.names():
            if message := refusal(key, problem):
                with pytest.raises(ValueError, match=message):
                    make_estimator(key)(problem, loop)
                continue
            needs = inspect.signature(estimators[key]).parameters
            iterative = GeneralisedMinimalResidual(2) if key == "implicit_fixed_point" else ConjugateGradients(2)
            made = estimators[key](**({"solver": Dense() if few else iterative} if "solver" in needs else {}))
            found[key] = made, made(problem, loop)
        point = second_order(problem, loop.final, theta, data)
        for key in solvers.names():
            if few or key != "dense":
                needs = inspect.signature(solvers[key]).parameters
                given = {"iterations": 3, "shift": problem.strength}
                made = solvers[key](**{name: value for name, value in given.items() if name in needs})
                solution = made.path(point.hessian, loop.final)[-1]
                assert solution.value.dtype == dtype and bool(solution.value.isfinite().all())
        if problem.minimizer is not None:
            assert problem.minimizer(theta, data).dtype == dtype
    assert only(loop.outcome) is Outcome.OK
    by_w, _ = outer_gradients(problem, exact)
    for key, (estimator, gradient) in found.items():
        assert gradient.value.dtype == dtype and not gradient.value.requires_grad
        truth = estimator(problem, exact).value
        # Two steps and the ends round 3 times; sums of 10 terms (of 784 and more in images) that are themselves
        # rounded in sequence add their length, and in float32 nothing.
        terms = 3.0 if not own else 3.0 * (784 if problem_name in IMAGES else 10)
        rate = 0.8 if key == "finite_difference" else 1.0  # its step balances rounding against the fifth derivative
        unit = torch.finfo(dtype).eps ** rate * terms * (row_norms(truth) + row_norms(by_w))
        check_ratio(
            f"{name} against float64", row_norms(gradient.value.double() - truth), unit, f"{problem_name}, {key}"
        )
        # In eight bits a step of 0.01 leaves of I - M, which is the step times H, less than M's own rounding.
        singular = {Outcome.SINGULAR} if key == "implicit_fixed_point" and dtype is torch.bfloat16 else set()
        assert {*decode(gradient.outcome)} <= {Outcome.OK, Outcome.UNFINISHED, Outcome.UNRESOLVED, *singular}


# ---- the ends of the range


def halving() -> Problem:
    """Inner and outer loss |w|^2/2: a step of 1/2 halves w, its gradient and the adjoint, without rounding."""
    return Problem.from_task_losses(
        "halving",
        lambda w, theta, data: 0.5 * (w * w).sum(),
        lambda w, theta, data: 0.5 * (w * w).sum(),
        init=lambda seed: torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64),
        sample=lambda tasks, seed: {"x": torch.zeros(tasks, 1, dtype=torch.float64)},
    )


@every_format
def test_underflow_is_found_at_its_step(name: str) -> None:
    """|g_k| = 2^-k is below 2^e first at k = 1 - e; the adjoint likewise, K - k steps on its way back from K."""
    dtype, _ = FORMATS[name]
    first = 1 - round(float(torch.tensor(TINY[dtype]).log2()))
    theta, data = theta_and_data(halving(), 2, dtype=dtype)
    with low_precision(name):
        loop = run_inner(halving(), GradientDescent(0.5), theta, data, first + 2)
    exact = run_inner(
        halving(), GradientDescent(0.5), theta.double(), enter_rows(precision("float64"), data), first + 2
    )
    assert underflow_at(loop.gradient_norms, TINY[dtype], exact.gradient_norms).tolist() == [first] * 2
    assert underflow_at(loop.prefix(first - 1).gradient_norms, TINY[dtype]).tolist() == [-1] * 2
    adjoint = loop.gradient_norms.flip(0)  # of a loss that the state after K steps meets with slope 1
    assert underflow_at(adjoint, TINY[dtype], backward=True).tolist() == [2] * 2


def test_underflow_of_what_is_exactly_zero_is_none() -> None:
    norms = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    exact = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    assert underflow_at(norms, 1e-4).tolist() == [1, 0, -1]
    assert underflow_at(norms, 1e-4, exact).tolist() == [-1, -1, -1]
    assert underflow_at(norms, 1e-4, torch.full((2, 3), 1e-9), backward=True).tolist() == [1, 1, -1]
    assert underflow_at(norms[:, :0], 1e-4).tolist() == []
    assert underflow_at(norms[:1], 1e-4).tolist() == [-1, 0, -1]


@pytest.mark.parametrize("name", ["float16", "float16_pure"])
def test_overflow_is_an_outcome_with_its_step(name: str) -> None:
    """A step of 3 doubles |w| each time: 2^16 is the first power of two beyond 65504."""
    theta, data = theta_and_data(halving(), 1, dtype=torch.float16)
    with low_precision(name):
        loop = run_inner(halving(), GradientDescent(3.0), theta, data, 20)
        gradient = Unrolled()(halving(), loop)
    assert loop.diverged_at.tolist() == [16]
    assert only(gradient.outcome) is Outcome.DIVERGED


# ---- loss scaling


@pytest.mark.parametrize("problem_name", problems.names())
@pytest.mark.parametrize(("dtype", "factor"), [(torch.float32, 2.0**10), (torch.float64, 2.0**-7)])
def test_scaled_losses_are_the_same_loop_bit_for_bit(problem_name: str, dtype: torch.dtype, factor: float) -> None:
    """The states are those of the plain problem. Its meta-gradients add up derivatives in another order, where theta
    or w enters the loss in several places: bit for bit they are those of the factor 1, to rounding the plain ones."""
    plain = small(problem_name)
    one, other = (scaled_losses(plain, by) for by in (1.0, factor))
    theta, data = theta_and_data(plain, 2, dtype=dtype)
    loops = [run_inner(problem, gd(plain), theta, data, 3) for problem in (plain, other)]
    assert torch.equal(loops[0].states, loops[1].states)
    assert torch.equal(loops[0].gradient_norms, loops[1].gradient_norms)
    by_w, _ = outer_gradients(plain, loops[0])
    for estimator in (Unrolled(), UnrolledAdjoint(), Implicit(ConjugateGradients(3))):
        given, first, scaled = (estimator(problem, loops[0]) for problem in (plain, one, other))
        assert torch.equal(first.value * factor, scaled.value), estimator
        assert torch.equal(first.outcome, scaled.outcome)
        # Three steps and the ends, as in the conformance suite's comparison of the two unrolled gradients.
        unit = torch.finfo(dtype).eps * 4 * theta.shape[1] ** 0.5 * (row_norms(given.value) + row_norms(by_w))
        check_ratio("scaled against plain", row_norms(given.value - scaled.value / factor), unit, problem_name)
    v = vectors(2, theta.shape[1], dtype=dtype)
    one, other = (second_order(problem, loops[0].final, theta, data) for problem in (one, other))
    assert torch.equal(one.hessian(v), other.hessian(v)) and torch.equal(one.mixed(v), other.mixed(v))


def test_scaled_losses_keep_higher_derivatives() -> None:
    """The derivatives of a Hessian-vector product in its vector and in the weights."""
    plain = small("logistic")
    theta, data = theta_and_data(plain, 2)
    v = vectors(2, theta.shape[1]).requires_grad_()

    def derivatives(problem: Problem) -> list[Tensor]:
        w = theta.clone().requires_grad_()
        gradient = loss_gradient(problem.inner_loss, w, theta, data, graph=True)
        (product,) = torch.autograd.grad(gradient, w, v, create_graph=True)
        by_v, third = torch.autograd.grad(product.sum(), (v, w))
        return [gradient.detach(), product.detach(), by_v, third]

    for one, other in zip(*[derivatives(scaled_losses(plain, by)) for by in (1.0, 1024.0)], strict=True):
        assert torch.equal(one, other)


def test_scaled_losses_go_through_vmap_and_function_transforms() -> None:
    plain = small("quadratic")
    theta, data = theta_and_data(plain, 3)
    w = vectors(3, theta.shape[1])

    def gradients(problem: Problem) -> Tensor:
        def one(w: Tensor, theta: Tensor, data: dict[str, Tensor]) -> Tensor:
            alone = {key: value.unsqueeze(0) for key, value in data.items()}
            return problem.inner_loss(w.unsqueeze(0), theta.unsqueeze(0), alone).sum()

        return torch.func.vmap(torch.func.grad(one))(w, theta, data)

    assert torch.equal(gradients(plain), gradients(scaled_losses(plain, 2.0**9)))
    hessian, scaled = (
        second_order(problem, w, theta, data).hessian(w) for problem in (plain, scaled_losses(plain, 8.0))
    )
    check_ratio("scaled against plain", row_norms(hessian - scaled), 2.0**-52 * row_norms(hessian))


@pytest.mark.parametrize("name", ["float16", "float16_pure"])
def test_loss_scaling_saves_a_gradient_from_underflow(name: str) -> None:
    """The mean of 1024 squares of 2^-16: each term's derivative, 2^-25, is a tie with zero in float16, but their sum
    over inputs of 1/2 is 2^-16. Scaled by 2^12 nothing is lost but what the result itself would lose."""
    problem = Problem.from_task_losses(
        "tiny",
        lambda w, theta, data: ((data["x"] @ w) ** 2).mean(),
        lambda w, theta, data: (w * w).sum(),
        init=lambda seed: torch.tensor([2.0**-15], dtype=torch.float64),
        sample=lambda tasks, seed: {"x": torch.full((tasks, 1024, 1), 0.5, dtype=torch.float64)},
    )
    theta, data = theta_and_data(problem, 1, dtype=torch.float16)
    assert (
        float(loss_gradient(problem.inner_loss, theta.double(), theta, enter_rows(precision("float64"), data)))
        == 2.0**-16
    )
    with low_precision(name):
        lost = loss_gradient(problem.inner_loss, theta, theta, data)
        saved = loss_gradient(scaled_losses(problem, 2.0**12).inner_loss, theta, theta, data)
    assert float(lost) == 0.0
    assert float(saved) == 2.0**-16


@pytest.mark.parametrize("factor", [3.0, 0.0, -2.0, float("inf"), float("nan")])
def test_loss_scaling_wants_a_power_of_two(factor: float) -> None:
    with pytest.raises(ValueError, match="loss scaling: expected a power of two, .* found"):
        scaled_losses(small("quadratic"), factor)


def test_scaled_losses_state_the_outer_smoothness_that_they_have() -> None:
    problem = small("quadratic")
    _, data = theta_and_data(problem, 2)
    assert problem.constants is not None
    scaled = scaled_losses(problem, 4.0).constants
    assert scaled is not None
    one, other = problem.constants(data), scaled(data)
    assert torch.equal(4 * one.outer_smoothness, other.outer_smoothness)
    assert torch.equal(one.largest, other.largest) and torch.equal(one.smallest, other.smallest)
    unknown = scaled_losses(replace(problem, constants=None), 4.0)
    assert unknown.constants is None
