"""Where digits are lost: against closed forms, against errors put in on purpose, and parts that add up."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diagnostics.arithmetic.after_each import after_each_operation
from diagnostics.arithmetic.precision import Precision, enter_rows, precision
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.growth import growth
from diagnostics.inner import run_inner
from diagnostics.outcome import Outcome, decode
from diagnostics.problem import Problem
from diagnostics.rounding import ROUNDING_KINDS, TwoLoops, backward_rounding, by_kind, forward_rounding, run_again
from diagnostics.rows import Data, row_norms
from tests.cases import check_ratio, gd, small, theta_and_data, vectors
from tests.diagnostics.test_no_loop_over_tasks import Count

FLOAT32, FLOAT64, EXTENDED = precision("float32"), precision("float64"), precision("extended")
BFLOAT16 = precision("bfloat16")
U = 2.0**-53
STEPS = 20


def twice(
    problem: Problem, tasks: int = 3, steps: int = STEPS, tested: Precision = FLOAT32, better: Precision = FLOAT64
) -> TwoLoops:
    theta, data = theta_and_data(problem, tasks)
    with tested.running():
        low = run_inner(problem, gd(problem), tested.enter(theta), enter_rows(tested, data), steps)
    return run_again(problem, low, tested, better)


def hessian_times(loops: TwoLoops, v: Tensor) -> Tensor:
    """`(A + strength I) v` of a quadratic problem, in float64."""
    assert loops.problem.strength is not None
    return (loops.exact.data["A"] @ v.unsqueeze(-1)).squeeze(-1) + loops.problem.strength * v


# ---- forward


@pytest.mark.parametrize("tested", [FLOAT32, BFLOAT16], ids=lambda p: p.name)
def test_on_a_quadratic_the_states_errors_are_those_of_the_closed_form(tested: Precision) -> None:
    problem = small("quadratic", condition=10.0)
    loops = twice(problem, tested=tested)
    found = forward_rounding(loops)
    theta, data, rate = loops.exact.theta, loops.exact.data, problem.learning_rate
    states = loops.low.states.double()
    minimiser = problem.minimizer(theta, data)  # type: ignore[misc]
    truth = theta
    for k in range(STEPS):
        # Each is a difference of what float64 knows to a few roundings; the Hessian's condition is 5.
        unit = 5 * U * (1 + row_norms(minimiser) / row_norms(truth))
        error = row_norms(states[k] - truth) / row_norms(truth)
        check_ratio("rounding, states", (found.accumulated[k] - error).abs(), unit, f"state {k}")
        alone = states[k] - rate * hessian_times(loops, states[k] - minimiser)
        error = row_norms(states[k + 1] - alone) / row_norms(alone)
        check_ratio("rounding, one step", (found.local[k + 1] - error).abs(), unit, f"step {k}")
        truth = truth - rate * hessian_times(loops, truth - minimiser)
    assert bool((found.accumulated[0] == 0).all() and (found.local[0] == 0).all())  # theta is where both begin
    # Roundings of a step: the gradient's, as long as A, b and theta are, times the step; and the subtraction's.
    size = 1 + 2 * row_norms(minimiser) / row_norms(states[1:])
    check_ratio(f"local, {tested.name}", found.local[1:], 0.5 * tested.eps * size)
    assert bool((found.local[1:] > 0.01 * tested.eps).all())


def perturbed(problem: Problem, step: int) -> TwoLoops:
    """A float64 loop taken for float32 whose state after `step` steps was pushed aside by 1e-3, and then went on."""
    theta, data = theta_and_data(problem, 3)
    whole = run_inner(problem, gd(problem), theta, data, STEPS)
    aside = whole.states[step] * (1 + 1e-3 * torch.sign(vectors(3, whole.size)))
    after = run_inner(replace(problem, start=lambda theta, data: aside), gd(problem), theta, data, STEPS - step)
    low = replace(whole, states=torch.cat([whole.states[:step], after.states]))
    return TwoLoops(problem, low, whole, replace(FLOAT64, name="float32", eps=FLOAT32.eps), FLOAT64)


@pytest.mark.parametrize("step", [1, 7, STEPS])
def test_the_step_that_was_wrong_is_the_one_that_is_named(step: int) -> None:
    found = forward_rounding(perturbed(small("sinusoid"), step))
    rest = torch.arange(STEPS + 1) != step
    check_ratio("rounding, the step at fault", (found.local[step] - 1e-3).abs(), 1e-3 * 1e-3, limit=1.0)
    assert bool((found.local[rest] == 0).all())
    assert bool((found.accumulated[:step] == 0).all() and (found.accumulated[step:] > 1e-4).all())


# ---- backward


def test_on_a_quadratic_the_adjoints_errors_are_those_of_the_closed_form() -> None:
    """The adjoint does not see the states but at the end: a_K = C (w_K - c), a_k = (I - rate H) a_(k+1)."""
    problem = small("quadratic", condition=10.0)
    loops = twice(problem)
    found = backward_rounding(loops)

    def adjoints(end: Tensor) -> list[Tensor]:
        carried = [(loops.exact.data["C"] @ (end - loops.exact.data["c"]).unsqueeze(-1)).squeeze(-1)]
        for _ in range(STEPS):
            carried.append(carried[-1] - problem.learning_rate * hessian_times(loops, carried[-1]))
        return carried[::-1]

    exact, between = adjoints(loops.exact.final), adjoints(loops.low.final.double())
    for k in range(STEPS + 1):
        unit = 5 * U * row_norms(exact[-1]) / row_norms(exact[k])
        error = row_norms(between[k] - exact[k]) / row_norms(exact[k])
        check_ratio("rounding, adjoints by states", (found.by_states[k] - error).abs(), unit, f"state {k}")
    # Roundings of one pull are as long as the adjoint that goes in; accumulated, they shrink with the adjoint.
    shorter = torch.stack([row_norms(a) / row_norms(b) for a, b in zip(exact[1:], exact[:-1], strict=True)])
    check_ratio("local, pulls", found.local[:-1], 0.5 * FLOAT32.eps * shorter)
    assert bool((found.local > 0.01 * FLOAT32.eps).all())


def stumbling(at: int) -> tuple[Precision, list[int]]:
    """float64 taken for float32; in it, the `at`-th time that it is entered, each matrix product is 1e-3 too large."""
    entered = [0]

    @contextmanager
    def running() -> Iterator[None]:
        entered[0] += 1
        off = 1e-3 if entered[0] == at else 0.0
        with after_each_operation(lambda x, kind: x * (1 + off) if kind == "product" else x):
            yield

    return replace(FLOAT64, name="float32", eps=FLOAT32.eps, running=running), entered


@pytest.mark.parametrize("pulls", [1, 6, STEPS])
def test_the_pull_that_was_wrong_is_the_one_that_is_named(pulls: int) -> None:
    problem = small("sinusoid")
    theta, data = theta_and_data(problem, 2)
    whole = run_inner(problem, gd(problem), theta, data, STEPS)
    tested, entered = stumbling(pulls + 1)  # the first is the outer gradient
    found = backward_rounding(TwoLoops(problem, whole, whole, tested, FLOAT64))
    assert entered == [STEPS + 1]
    at = STEPS - pulls
    rest = torch.arange(STEPS + 1) != at
    assert bool((found.local[rest] == 0).all() and (found.local[at] > 1e-6).all())
    assert bool((found.accumulated[at + 1 :] == 0).all() and (found.accumulated[: at + 1] > 1e-7).all())
    assert torch.equal(found.by_sweep, found.accumulated) and bool((found.by_states == 0).all())
    assert bool((found.from_states == 0).all()) and torch.equal(found.from_sweep, found.error)


# ---- the gradient's error and its parts


@pytest.mark.parametrize("tested", [FLOAT32, BFLOAT16], ids=lambda p: p.name)
@pytest.mark.parametrize("name", ["sinusoid", "quadratic", "logistic", "linear_regression"])
@pytest.mark.parametrize("steps", [0, 1, STEPS])
def test_the_parts_add_up_to_the_error_of_the_unrolled_gradient(name: str, steps: int, tested: Precision) -> None:
    loops = twice(small(name), 2, steps, tested)
    found = backward_rounding(loops)
    low = UnrolledAdjoint()(loops.problem, loops.low).value.double()
    assert torch.equal(found.gradient, UnrolledAdjoint()(loops.problem, loops.exact).value)
    assert torch.equal(found.error, low - found.gradient)
    rest = row_norms(found.error - found.from_states - found.from_sweep)
    unit = U * (row_norms(found.gradient) + row_norms(low))  # each of the three is the rounded difference of two such
    check_ratio("rounding, parts", rest, unit, f"{name}, {steps} steps")
    assert decode(found.outcome) == [Outcome.OK] * 2
    assert found.accumulated.shape == found.local.shape == (steps + 1, 2)
    if steps == 0:
        assert bool((found.from_states == 0).all())


@pytest.mark.parametrize("name", ["sinusoid", "quadratic"])
@pytest.mark.parametrize("tested", [FLOAT32, FLOAT64], ids=lambda p: p.name)
def test_the_parts_add_up_in_extended_precision_too(name: str, tested: Precision) -> None:
    """Now each difference is right to float64's rounding of itself, and float64 can be the one under test."""
    loops = twice(small(name), 2, 5, tested, EXTENDED)
    forward, found = forward_rounding(loops), backward_rounding(loops)
    parts = row_norms(found.error), row_norms(found.from_states), row_norms(found.from_sweep)
    rest = row_norms(found.error - found.from_states - found.from_sweep)
    check_ratio("rounding, parts, extended", rest, U * sum(parts), name)
    for error in (parts[0] / row_norms(found.gradient), forward.accumulated[-1], found.local[0]):
        assert bool(((error > 0.01 * tested.eps) & (error < 100 * tested.eps)).all())
    if tested is FLOAT32:
        coarser = backward_rounding(twice(loops.problem, 2, 5))
        check_ratio(
            "rounding, float64 for exact", row_norms(coarser.error - found.error), 5 * U * row_norms(found.gradient)
        )


def test_both_parts_are_there_on_the_sinusoid() -> None:
    """And the adjoint's error at the loop's start is that of the gradient, theta being the start but for the term."""
    found = backward_rounding(twice(small("sinusoid", strength=0.0), 4))
    size = row_norms(found.gradient)
    for part in (found.from_states, found.from_sweep):
        assert bool((row_norms(part) > 0.1 * row_norms(found.error)).all())
        assert bool((row_norms(part) / size < 1e-5).all())
    pairs = ((found.error, found.accumulated), (found.from_states, found.by_states), (found.from_sweep, found.by_sweep))
    for vector, curve in pairs:
        # With strength 0 theta enters at the start alone.
        check_ratio("rounding, at the start", (row_norms(vector) / size - curve[0]).abs(), U)


# ---- by kind of operation


@pytest.mark.parametrize("tested", [FLOAT32, BFLOAT16], ids=lambda p: p.name)
def test_the_kinds_together_are_of_the_order_of_their_parts_and_of_the_true_error(tested: Precision) -> None:
    loops = twice(small("sinusoid"), 6, tested=tested)
    found = by_kind(loops)
    assert tuple(found.relative) == ROUNDING_KINDS == ("product", "sum", "elementary", "arithmetic")
    root = torch.stack(list(found.relative.values())).square().sum(0).sqrt()
    assert bool((found.together < 3 * root).all() and (root < 3 * found.together).all()), (root, found.together)
    low, exact = (UnrolledAdjoint()(loops.problem, loop).value.double() for loop in (loops.low, loops.exact))
    true = row_norms(low - exact) / row_norms(exact)
    assert bool((found.together < 10 * true).all() and (true < 10 * found.together).all()), (true, found.together)
    for kind, error in found.errors.items():
        relative = row_norms(error) / row_norms(exact)
        check_ratio("rounding, kinds", (relative - found.relative[kind]).abs(), U * relative, kind)
        assert bool((relative > 0).all())


def test_all_kinds_together_are_bfloat16_itself() -> None:
    """In bfloat16 with float32 accumulation each result is rounded once, and so the gradient's error is `together`.

    But for sums that float32 has on the other side of a rounding boundary: a few of the 2^16 between two bfloat16s.
    """
    loops = twice(small("sinusoid"), 4, 5, BFLOAT16)
    found = backward_rounding(loops)
    true = row_norms(found.error) / row_norms(found.gradient)
    check_ratio("rounding, together", (by_kind(loops).together - true).abs(), 0.01 * true, limit=1.0)


def test_the_kinds_are_the_same_with_extended_precision_for_exact() -> None:
    """What is put right after an operation is of its result, and not of the many that double-double makes of it."""
    plain, extended = (by_kind(twice(small("sinusoid"), 2, 3, better=better)) for better in (FLOAT64, EXTENDED))
    for kind, error in plain.errors.items():
        # A result that float64 has on the other side of a rounding boundary is rounded the other way: one in 2^29.
        unit = 1e-3 * row_norms(error)
        check_ratio("rounding, kinds, extended", row_norms(extended.errors[kind] - error), unit, kind, limit=1.0)


def test_rounding_no_kind_makes_no_error() -> None:
    found = by_kind(twice(small("sinusoid")), ())
    assert found.relative == {} and torch.equal(found.together, torch.zeros(3).double())


def test_a_kind_that_the_problem_does_not_use_makes_no_error() -> None:
    """With strength 0 the gradient of a quadratic is products and arithmetic; a sum is of the loss alone."""
    found = by_kind(twice(small("quadratic", strength=0.0)))
    assert bool((found.relative["sum"] == 0).all() and (found.relative["elementary"] == 0).all())
    assert bool((found.relative["product"] > 0).all() and (found.relative["arithmetic"] > 0).all())


def test_a_product_alone_is_rounded_as_in_the_closed_form() -> None:
    """One unknown, one step, strength 0: the outer gradient C(w - c) and the two products A w, A a are rounded."""
    plain = small("quadratic", dimension=1, strength=0.0)

    def sample(tasks: int, seed: int) -> Data:
        numbers = {key: vectors(tasks, 1, index).view(-1, 1, 1) for index, key in enumerate("AC")}
        return dict(plain.sample(tasks, seed)) | numbers

    loops = twice(replace(plain, sample=sample), 5, steps=1)
    a, c = loops.exact.data["A"][:, 0], loops.exact.data["C"][:, 0]
    b, away, theta = loops.exact.data["b"], loops.exact.data["c"], loops.exact.theta

    def gradient(rounded: bool) -> Tensor:
        def product(x: Tensor, y: Tensor) -> Tensor:
            return (x * y).float().double() if rounded else x * y

        w = theta - 0.5 * (product(a, theta) - b)
        adjoint = product(c, w - away)
        return adjoint - 0.5 * product(a, adjoint)

    truth = gradient(True) - gradient(False)
    # The loss is `w (A w / 2 - b)`, whose gradient autograd gathers from two halves that are rounded alike.
    error = row_norms(by_kind(loops, ("product",)).errors["product"] - truth)
    check_ratio("rounding, product", error, U * row_norms(gradient(False)))
    assert bool((row_norms(truth) > 1e-9 * row_norms(gradient(False))).all())


def test_more_tasks_take_no_more_operations() -> None:
    def operations(tasks: int) -> int:
        loops = twice(small("sinusoid"), tasks, 3)
        with Count() as count:
            for measure in (forward_rounding, backward_rounding, by_kind):
                measure(loops)
            growth(loops.problem, loops.exact, iterations=1)
        return count.operations

    assert operations(2) == operations(5) > 0


# ---- bad input, and failures


def test_a_loop_that_overflows_says_so_and_leaves_the_others_alone() -> None:
    problem = small("quadratic")
    theta, data = theta_and_data(problem, 3)
    data["A"][1] *= 1e10  # beyond float32 after four steps, and far from float64's end
    low = run_inner(problem, gd(problem), theta.float(), enter_rows(FLOAT32, data), 5)
    loops = run_again(problem, low, FLOAT32, FLOAT64)
    forward, backward = forward_rounding(loops), backward_rounding(loops)
    assert decode(loops.outcome) == decode(backward.outcome) == [Outcome.OK, Outcome.DIVERGED, Outcome.OK]
    alone = twice(problem, 3, 5)
    for found, expected in (
        (forward.accumulated, forward_rounding(alone).accumulated),
        (backward.accumulated, backward_rounding(alone).accumulated),
    ):
        assert torch.equal(found[:, [0, 2]], expected[:, [0, 2]])
        assert not bool(found[:, 1].isfinite().all())


def test_a_gradient_that_overflows_on_its_way_back_says_so() -> None:
    problem = small("quadratic", strength=0.0)
    steep = replace(problem, outer_loss=lambda w, theta, data: 1e30 * problem.outer_loss(w, theta, data))

    def sample(tasks: int, seed: int) -> Data:
        data = dict(problem.sample(tasks, seed))
        return data | {"A": data["A"] * 1e3, "b": 0 * data["b"], "c": data["c"]}

    loops = twice(replace(steep, sample=sample, init=lambda seed: 1e-30 * problem.init(seed)), 2, 8)
    assert decode(loops.outcome) == [Outcome.OK] * 2
    assert decode(backward_rounding(loops).outcome) == [Outcome.NOT_FINITE] * 2


def test_an_exact_arithmetic_that_is_no_finer_is_refused() -> None:
    problem = small("quadratic")
    loops = twice(problem)
    with pytest.raises(ValueError, match=r"finer than float32 \(eps 1.19209e-07\), found float32"):
        run_again(problem, loops.low, FLOAT32, FLOAT32)
    with pytest.raises(ValueError, match="kind of operation: expected one of product, sum, .*, found 'view'"):
        by_kind(loops, ("view",))
