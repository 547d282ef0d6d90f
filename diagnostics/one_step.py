"""One inner step as a map of the state, `s -> Step(s, theta)`, and products with its derivative.

With M = dStep/ds at a state: a tangent is pushed ahead, `v -> M v`, an adjoint is pulled back, `a -> M'a`. The reverse
sweep of an unrolled gradient is a chain of pulls:

    a_K = d outer / d s_K,    a_k = M_k' a_(k+1),    theta_bar <- theta_bar + (dStep/dtheta)' a_(k+1)
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from diagnostics.inner import StepMap, Trajectory
from diagnostics.meta_gradient import outer_gradients
from diagnostics.problem import Problem
from diagnostics.recording import Linearised, recorded


@dataclass(frozen=True)
class Step:
    """A step that was taken from one state: where it leads, `following (B, S)`, and its derivative's products.

    `push(v (B, S)) = (dStep/ds) v`; `pull(a (B, S)) = ((dStep/ds)' a, (dStep/dtheta)' a)`, of shapes `(B, S)` and
    `(B, P)`.
    """

    following: Tensor
    push: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], tuple[Tensor, ...]]


def take_step(problem: Problem, loop: Trajectory, state: Tensor) -> Step:
    """The step that the loop's optimizer takes from `state (B, S)`, and what is needed for its derivative."""
    step = StepMap(problem.inner_loss, loop.optimizer, loop.size, tuple(loop.data))
    tensors = (state, loop.theta, *loop.data.values())
    (following, _), (pull,) = recorded(("pull", step), step.linearised, *tensors)
    pushes: list[Callable[[Tensor], tuple[Tensor, ...]]] = []  # made at the first push: most sweeps make none

    def push(tangent: Tensor) -> Tensor:
        if not pushes:
            pushes.extend(recorded(("push", step), partial(_pushing, step), *tensors)[1])
        return pushes[0](tangent)[0]

    return Step(following, push, pull)


def _pushing(step: StepMap, *tensors: Tensor) -> Linearised:
    """The step with the map `v -> M v`: a pull is linear in the adjoint, and its derivative in the adjoint is M."""
    following, _, inputs = step.with_graph(*tensors)
    adjoint = torch.zeros_like(following).requires_grad_()
    (pulled,) = torch.autograd.grad(following, inputs[0], adjoint, create_graph=True, materialize_grads=True)

    def push(tangent: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(pulled, adjoint, tangent, retain_graph=True, materialize_grads=True)

    return (following.detach(),), (push,)


@dataclass(frozen=True)
class Adjoint:
    """The reverse sweep where it has come to a state: `by_state (B, S)`, and `by_theta (B, P)` gathered so far.

    `pull` is the last pull that was made, None at the loop's end.
    """

    by_state: Tensor
    by_theta: Tensor
    pull: Callable[[Tensor], tuple[Tensor, ...]] | None


def sweep(
    problem: Problem, loop: Trajectory, running: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Iterator[Adjoint]:
    """The adjoints at the states K, K-1 ... 0 of a loop, each computed inside `running()`; K + 1 of them.

    The last one's `by_theta` is the meta-gradient: it has what came through the loop's start as well.
    """
    with running():
        by_state, by_theta = end_adjoint(problem, loop)
        if loop.steps == 0:
            by_theta = through_start(problem, loop, by_state, by_theta)
    yield Adjoint(by_state, by_theta, None)
    for step in reversed(range(loop.steps)):
        with running():
            taken = take_step(problem, loop, loop.states[step])
            by_state, more = taken.pull(by_state)
            by_theta = by_theta + more
            if step == 0:
                by_theta = through_start(problem, loop, by_state, by_theta)
        yield Adjoint(by_state, by_theta, taken.pull)


def end_adjoint(problem: Problem, loop: Trajectory) -> tuple[Tensor, Tensor]:
    """`(a_K (B, S), d outer / dtheta (B, P))` where the loop ended; the outer loss looks at the weights alone."""
    by_w, by_theta = outer_gradients(problem, loop)
    return torch.cat([by_w, torch.zeros_like(loop.states[0, :, loop.size :])], dim=-1), by_theta


def through_start(problem: Problem, loop: Trajectory, by_state: Tensor, by_theta: Tensor) -> Tensor:
    """`theta_bar + (dstart/dtheta)' a_0`."""
    theta = loop.theta.detach().requires_grad_()
    with torch.enable_grad():
        state = loop.optimizer.start(problem.start(theta, loop.data))
    if not state.requires_grad:
        return by_theta
    (more,) = torch.autograd.grad(state, theta, by_state)
    return by_theta + more
