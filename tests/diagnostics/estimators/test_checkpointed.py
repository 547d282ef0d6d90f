"""Checkpointing: the numbers of `unrolled_adjoint`, bit for bit, from about 2 sqrt(K) states."""

import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diagnostics.estimators import checkpointed
from diagnostics.estimators.checkpointed import Checkpointed, Checkpoints, checkpoints, run_with_checkpoints
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.inner import StepMap, Trajectory, run_inner
from diagnostics.one_step import Step
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.outcome import Outcome, decode
from diagnostics.problem import Problem
from diagnostics.problem_names import build
from diagnostics.rows import Data
from tests.cases import make_optimizer, only, theta_and_data


def logistic(steps: int, optimizer: str = "gd", tasks: int = 3) -> tuple[Problem, Trajectory]:
    problem = build("logistic[dimension=4]")
    theta, data = theta_and_data(problem, tasks)
    return problem, run_inner(problem, make_optimizer(optimizer), theta, data, steps)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 5, 9, 10, 50, 101])
def test_checkpoints_are_the_square_root_in_number_and_apart(steps: int) -> None:
    at = checkpoints(steps)
    assert at[0] == 0 and at[-1] == steps and list(at) == sorted(set(at))
    gaps = [after - before for before, after in zip(at, at[1:], strict=False)]
    assert max(gaps, default=0) <= -(-(steps**0.5) // 1) and len(gaps) <= steps**0.5 + 1


@pytest.mark.parametrize("optimizer", ["gd", "momentum", "adam"])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 7, 16, 17, 30])
def test_it_equals_the_adjoint_sweep_bit_for_bit(steps: int, optimizer: str) -> None:
    problem, loop = logistic(steps, optimizer)
    adjoint, found = UnrolledAdjoint()(problem, loop), Checkpointed()(problem, loop)
    assert torch.equal(found.value, adjoint.value) and only(found.outcome) is Outcome.OK
    assert torch.equal(found.hvp_count, adjoint.hvp_count)
    # And from a loop that never kept more than its checkpoints.
    kept = run_with_checkpoints(problem, loop.optimizer, loop.theta, loop.data, steps)
    assert torch.equal(kept.kept.states, loop.states[list(checkpoints(steps))])
    assert torch.equal(kept.kept.gradient_norms, loop.gradient_norms[list(checkpoints(steps))])
    assert torch.equal(Checkpointed().from_checkpoints(problem, kept).value, adjoint.value)


def test_a_network_with_a_step_that_adam_bends() -> None:
    problem = build("sinusoid", shots=5, queries=5)
    theta, data = theta_and_data(problem, 2)
    loop = run_inner(problem, make_optimizer("adam"), theta, data, 6)
    assert torch.equal(Checkpointed()(problem, loop).value, UnrolledAdjoint()(problem, loop).value)


@pytest.mark.parametrize("steps", [1, 4, 10, 17])
def test_its_count_is_what_it_takes(steps: int) -> None:
    problem, loop = logistic(steps)
    calls = [0, 0]

    def counted(which: int, loss: Callable[[Tensor, Tensor, Data], Tensor]) -> Callable[[Tensor, Tensor, Data], Tensor]:
        def call(w: Tensor, theta: Tensor, data: Data) -> Tensor:
            calls[which] += 1
            return loss(w, theta, data)

        return call

    watched = replace(problem, inner_loss=counted(0, problem.inner_loss), outer_loss=counted(1, problem.outer_loss))
    found = Checkpointed()(watched, loop)
    segments = len(checkpoints(steps)) - 1
    assert found.gradient_count.tolist() == [sum(calls)] * 3
    assert found.gradient_count.tolist() == [2 * steps - segments + 1] * 3


def peak_of_states(monkeypatch: pytest.MonkeyPatch, problem: Problem, loop: Trajectory) -> int:
    """The most states that were alive at once of those that the estimator made, and its copy of the checkpoints."""
    alive = [0, 0]

    def note(tensor: Tensor) -> None:
        alive[0] += 1
        alive[1] = max(alive[1], alive[0])
        weakref.finalize(tensor, let_go)

    def let_go() -> None:
        alive[0] -= 1

    def watched(problem: Problem, loop: Trajectory, state: Tensor) -> Step:
        taken = take_step(problem, loop, state)
        note(taken.following)
        return taken

    def observed(step: StepMap, state: Tensor, theta: Tensor, data: Data) -> tuple[Tensor, Tensor]:
        following, gradient = advance(step, state, theta, data)
        note(following)
        return following, gradient

    take_step, advance = checkpointed.take_step, checkpointed.advance
    monkeypatch.setattr(checkpointed, "take_step", watched)
    monkeypatch.setattr(checkpointed, "advance", observed)
    kept = Checkpoints.of(loop)
    Checkpointed().from_checkpoints(problem, kept)
    monkeypatch.undo()
    return alive[1] + len(kept.kept.states)


@pytest.mark.parametrize("steps", [9, 25, 100, 400])
def test_it_holds_about_two_roots_of_states(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, loop = logistic(steps, tasks=1)
    peak = peak_of_states(monkeypatch, problem, loop)
    # The states of a segment, the one that a step leads to from each end, and the two ends of the loop.
    assert 2 * steps**0.5 - 2 <= peak <= 2 * steps**0.5 + 3


def test_it_looks_at_checkpoints_only() -> None:
    problem, loop = logistic(11)
    states = torch.zeros_like(loop.states)
    at = list(checkpoints(11))
    states[at] = loop.states[at]
    found = Checkpointed()(problem, replace(loop, states=states))
    assert torch.equal(found.value, Checkpointed()(problem, loop).value) and only(found.outcome) is Outcome.OK


@pytest.mark.parametrize("step", [0, 4, 8, 11])
def test_a_checkpoint_that_differs_in_its_last_bit_is_noticed(step: int) -> None:
    problem, loop = logistic(11)
    assert step in checkpoints(11)
    states = loop.states.clone()
    states[step, 1, 2] = torch.nextafter(states[step, 1, 2], torch.tensor(10.0).double())
    found = Checkpointed()(problem, replace(loop, states=states))
    assert decode(found.outcome) == [Outcome.OK, Outcome.REPLAY_DIFFERS, Outcome.OK]


def test_a_loss_that_is_not_the_same_twice_is_noticed() -> None:
    problem, calls = build("quadratic[dimension=3]"), [0]

    def noisy(w: Tensor, theta: Tensor, data: Data) -> Tensor:
        calls[0] += 1
        return problem.inner_loss(w, theta, data) * (1 + 1e-9 * calls[0])

    restless = replace(problem, inner_loss=noisy)
    theta, data = theta_and_data(problem, 2)
    loop = run_inner(restless, GradientDescent(0.5), theta, data, 5)
    assert only(Checkpointed()(restless, loop).outcome) is Outcome.REPLAY_DIFFERS


def test_a_loop_that_diverges_between_checkpoints_says_so() -> None:
    problem = build("quadratic[dimension=3]")
    theta, data = theta_and_data(problem, 2)
    data["A"][1] *= 1e8
    kept = run_with_checkpoints(problem, GradientDescent(0.5), theta, data, 100)
    assert decode(Checkpointed().from_checkpoints(problem, kept).outcome) == [Outcome.OK, Outcome.DIVERGED]


@pytest.mark.parametrize("steps", [-1, 2.0, True])
def test_steps_that_are_none_are_refused(steps: int) -> None:
    problem, loop = logistic(0)
    with pytest.raises(ValueError, match="inner steps: expected a whole number >= 0"):
        run_with_checkpoints(problem, loop.optimizer, loop.theta, loop.data, steps)
