"""The loop that a gradient is priced with: the recorded one, of which its estimator looks at no more than is kept."""

from dataclasses import replace

import pytest
import torch

from diagnostics.cost.loop import kept_states
from diagnostics.inner import Trajectory, run_inner
from diagnostics.meta_gradient import estimators
from diagnostics.problem import Problem
from tests.cases import make_estimator, make_optimizer, small, theta_and_data

STEPS = 10


def recorded(name: str = "gd") -> tuple[Problem, Trajectory]:
    problem = small("linear_regression")
    theta, data = theta_and_data(problem, 2)
    return problem, run_inner(problem, make_optimizer(name), theta, data, STEPS)


def test_a_loop_of_no_steps_has_its_start_to_look_at() -> None:
    assert [kept_states(name, 0) for name in ("unrolled_adjoint", "implicit", "checkpointed", "one_step")] == [(0,)] * 4


@pytest.mark.parametrize("name", estimators.names())
def test_an_estimator_looks_at_no_state_that_is_not_kept(name: str) -> None:
    problem, loop = recorded()
    kept = kept_states(name, STEPS)
    states = torch.full_like(loop.states, torch.nan)
    for state in kept or ():
        states[state] = loop.states[state]
    estimator = make_estimator(name)
    blind, seeing = estimator(problem, replace(loop, states=states)).value, estimator(problem, loop).value
    if name == "unrolled":  # it looks at the weights where the record ends, which are its own
        states[-1] = loop.states[-1]
        blind = estimator(problem, replace(loop, states=states)).value
    assert seeing.isfinite().all() and torch.equal(blind, seeing)


@pytest.mark.parametrize("name", ["first_order", "implicit", "reptile"])
def test_the_kept_end_is_needed(name: str) -> None:
    problem, loop = recorded()
    states = loop.states.clone()
    states[STEPS] = torch.nan
    assert not make_estimator(name)(problem, replace(loop, states=states)).value.isfinite().any()


def test_checkpoints_grow_with_the_root_and_whatever_is_not_known_keeps_all() -> None:
    assert kept_states("unrolled", 9) is None
    assert kept_states("checkpointed", 9) == (0, 3, 6, 9)
    assert kept_states("some_new_estimator", 3) == (0, 1, 2, 3)
    counts = [len(kept_states("checkpointed", steps) or ()) for steps in (4, 16, 64, 256)]
    assert counts == [3, 5, 9, 17]


@pytest.mark.parametrize("name", ["first_order", "implicit", "implicit_fixed_point", "reptile", "released_imaml"])
def test_no_more_is_kept_than_is_looked_at(name: str) -> None:
    assert kept_states(name, STEPS) == (STEPS,) and kept_states("one_step", STEPS) == (STEPS - 1, STEPS)
