"""Recorded programs: the same bits as the functions that they stand for, or no recording at all."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from diagnostics import recording as module
from diagnostics.arithmetic.precision import enter_rows, precision
from diagnostics.estimators.unrolled import Unrolled
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.hessian import second_order
from diagnostics.inner import optimizers, run_inner
from diagnostics.meta_gradient import outer_gradients
from diagnostics.one_step import take_step
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem
from diagnostics.problem_names import problems
from diagnostics.recording import LONG, Linearised, recorded, recording
from diagnostics.rows import Data, row_norms
from tests.cases import check_ratio, make_optimizer, only, small, theta_and_data, vectors


@pytest.fixture(autouse=True)
def nothing_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_entries", {})


def programs() -> list[bool]:
    """For every function that was asked for: whether there is a recording of it."""
    return [entry.program is not None for entry in module._entries.values()]


def everything(problem: Problem, name: str, theta: Tensor, data: Data) -> list[Tensor]:
    """All that goes through a recording: a loop, its gradients, products at its end, tangents."""
    loop = run_inner(problem, make_optimizer(name), theta, data, 3)
    point = second_order(problem, loop.final, theta, data)
    v, tangent = vectors(len(theta), loop.size).to(theta), vectors(len(theta), loop.states.shape[2]).to(theta)
    step = take_step(problem, loop, loop.states[1])
    found = [loop.states, loop.gradient_norms, point.gradient, point.hessian(v), point.mixed(v), step.push(tangent)]
    found += [*step.pull(tangent), *outer_gradients(problem, loop)]
    for estimator in (Unrolled(), UnrolledAdjoint()):
        gradient = estimator(problem, loop)
        assert not bool((gradient.outcome == Outcome.REPLAY_DIFFERS.code).any())
        found.append(gradient.value)
    return found


# ---- the same bits


# Networks of images take 8 seconds each; each of them and each arithmetic is met once by the tests that take seconds.
LONGER = (torch.float32, "generalized_few_shot"), (torch.bfloat16, "few_shot")


def recorded_with() -> list[Any]:
    cases = [(dtype, name) for dtype in (torch.float32, torch.bfloat16) for name in problems.names()]
    return [pytest.param(*case, marks=[pytest.mark.slow] if case in LONGER else [], id=f"{case[0]}-{case[1]}")
            for case in cases]  # fmt: skip


@pytest.mark.parametrize(("dtype", "name"), recorded_with())
def test_a_recording_gives_the_bits_of_the_original(dtype: torch.dtype, name: str) -> None:
    problem = small(name)
    theta, data = theta_and_data(problem, 3, dtype=dtype)
    with recording("off"):
        expected = everything(problem, "gd", theta, data)
    assert programs() == []
    with recording("now"):
        first, second = (everything(problem, "gd", theta, data) for _ in range(2))
    assert len(programs()) >= 5
    assert all(programs()) or dtype is torch.bfloat16  # a batch norm in bfloat16 writes into views
    for want, *got in zip(expected, first, second, strict=True):
        for found in got:
            assert torch.equal(want.nan_to_num(7.0), found.nan_to_num(7.0)) and not found.requires_grad


SOLVING = ("hessian_free", "lbfgs")  # in every step; 13 and 5 seconds with a network


# Those whose path depends on numbers are not recorded, and say so here.
@pytest.mark.parametrize(
    ("name", "problem_name"),
    [*((name, "logistic" if name in SOLVING else "sinusoid") for name in optimizers.names()),
     *(pytest.param(name, "sinusoid", marks=pytest.mark.slow) for name in SOLVING)],
)  # fmt: skip
def test_every_optimizer_steps_alike_with_and_without(name: str, problem_name: str) -> None:
    problem = small(problem_name)
    theta, data = theta_and_data(problem, 2, dtype=torch.float32)
    with recording("off"):
        expected = everything(problem, name, theta, data)
    with recording("now"):
        found = everything(problem, name, theta, data)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_other_numbers_than_those_recorded_with() -> None:
    """Among them a NaN row and an infinite one: what was simplified must not have depended on the numbers."""
    problem = small("sinusoid")
    theta, data = theta_and_data(problem, 3)
    with recording("now"):
        everything(problem, "gd", theta, data)
        other, theirs = theta_and_data(problem, 3, seed=9)
        other[1] = torch.nan
        theirs["support_y"][2] = torch.inf
        point, loop = (
            second_order(problem, other, other, theirs),
            run_inner(problem, GradientDescent(0.1), theta, data, 1),
        )
        found = [point.gradient, point.hessian(theta), *take_step(problem, loop, other).pull(theta)]
    assert all(programs())
    with recording("off"):
        point = second_order(problem, other, other, theirs)
        expected = [point.gradient, point.hessian(theta), *take_step(problem, loop, other).pull(theta)]
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


# ---- when


def square(x: Tensor) -> Linearised:
    return (x * x,), (lambda v: (2 * x * v,),)


def test_nothing_is_recorded_before_it_pays_and_each_layout_is_a_program_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(module.time, "perf_counter", lambda: 0.4 * LONG * next(clock))
    x = torch.ones(2, 3)
    for expected in (False, False, False, True, True):
        recorded("square", square, x)
        assert programs() == [expected]
    recorded("square", square, x.double())
    recorded("square", square, torch.ones(3, 2).T)
    assert programs() == [True, False, False]


def test_off_means_off_and_an_unknown_mode_is_refused() -> None:
    with recording("off"):
        recorded("square", square, torch.ones(1))
    assert programs() == []
    with pytest.raises(ValueError, match="expected one of off, auto, now, compile, found 'on'"):
        with recording("on"):
            pass


def test_a_tensor_of_another_kind_is_left_alone() -> None:
    problem = small("quadratic")
    theta, data = theta_and_data(problem, 2)
    theta, data = precision("extended").enter(theta), enter_rows(precision("extended"), data)
    with recording("now"):
        run_inner(problem, GradientDescent(0.1), theta, data, 2)
    assert programs() == []


def test_a_dispatch_mode_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(module, "LONG", 0.0)
    with Watching():
        recorded("square", square, torch.ones(1))
    assert programs() == []
    recorded("square", square, torch.ones(1))
    assert programs() == [True]


# ---- what cannot be recorded


def branching(x: Tensor) -> Linearised:
    return (x * 2 if float(x.sum()) > 0 else x * 3,), ()


def writes_into_its_argument(x: Tensor) -> Linearised:
    x.mul_(1.0)
    return (x + 1,), ()


def writes_beside_a_view(x: Tensor) -> Linearised:
    y = x * 2
    view = y[:1]
    y.add_(1)
    return (y, view + 0), ()


@pytest.mark.parametrize("function", [branching, writes_into_its_argument, writes_beside_a_view])
def test_what_cannot_be_recorded_stays_as_it_is(function: Callable[..., Linearised]) -> None:
    with recording("now"):
        for sign in (1.0, -1.0):
            x = torch.full((2,), sign)
            (found, *_), _ = recorded(function, function, x)
            (expected, *_), _ = function(torch.full((2,), sign))
            assert torch.equal(found, expected)
    assert programs() == [False]


def test_random_numbers_are_drawn_anew_at_every_call() -> None:
    def random(x: Tensor) -> Linearised:
        return (x + torch.rand_like(x),), ()

    with recording("now"):
        drawn = [recorded("random", random, torch.zeros(3))[0][0] for _ in range(3)]
    assert programs() == [False]
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])


def test_a_function_that_counts_its_calls_fails_the_comparison() -> None:
    calls = []

    def moving(x: Tensor) -> Linearised:
        calls.append(None)
        return (x * float(len(calls)),), ()

    with recording("now"):
        recorded("moving", moving, torch.ones(1))
    assert programs() == [False]


def test_writing_into_a_temporary_is_recorded_as_making_a_new_tensor() -> None:
    def temporary(x: Tensor) -> Linearised:
        y = x * 3
        y.div_(7).sub_(x)
        return (y.exp(),), ()

    x = torch.linspace(-1, 1, 5)
    with recording("now"):
        (found,), _ = recorded("temporary", temporary, x)
        (again,), _ = recorded("temporary", temporary, x)
    assert programs() == [True]
    assert torch.equal(found, ((x * 3) / 7 - x).exp()) and torch.equal(again, found)


# ---- compiled


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own
@pytest.mark.parametrize("name", ["sinusoid", "few_shot"])
def test_a_compiled_program_differs_by_rounding_and_replays_itself(name: str) -> None:
    """Smooth networks, so that a last bit cannot turn a kink over."""
    problem = small(name, activation="tanh", **({"pool": "average"} if name == "few_shot" else {}))
    theta, data = theta_and_data(problem, 2, dtype=torch.float32)
    loop = run_inner(problem, GradientDescent(problem.learning_rate), theta, data, 4)
    with recording("compile"):
        compiled = run_inner(problem, GradientDescent(problem.learning_rate), theta, data, 4)
        value = Unrolled()(problem, compiled)
    assert only(value.outcome) is Outcome.OK
    expected = Unrolled()(problem, loop).value
    unit = 2.0**-24 * theta.shape[1] ** 0.5 * row_norms(expected)
    check_ratio("compiled", row_norms(value.value - expected), unit, name)
    kept = replace(loop, states=compiled.states)
    assert only(Unrolled()(problem, kept).outcome) is Outcome.REPLAY_DIFFERS
