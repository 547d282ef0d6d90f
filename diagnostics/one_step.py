"""One inner step as a map of the state, `s -> Step(s, theta)`, and products with its derivative.

With M = dStep/ds at a state: a tangent is pushed ahead, `v -> M v`, an adjoint is pulled back, `a -> M'a`. The reverse
sweep of an unrolled gradient is a chain of pulls:

    a_K = d outer / d s_K,    a_k = M_k' a_(k+1),    theta_bar <- theta_bar + (dStep/dtheta)' a_(k+1)
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.inner import Trajectory, loss_gradient
from diagnostics.meta_gradient import outer_gradients
from diagnostics.problem import Problem


@dataclass(frozen=True)
class Step:
    """A step that was taken from one state: where it leads, `following (B, S)`, and its derivative's products.

    `push(v (B, S)) = (dStep/ds) v`; `pull(a (B, S)) = ((dStep/ds)' a, (dStep/dtheta)' a)`, of shapes `(B, S)` and
    `(B, P)`.
    """

    following: Tensor
    push: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], tuple[Tensor, Tensor]]


def take_step(problem: Problem, loop: Trajectory, state: Tensor) -> Step:
    """The step that the loop's optimizer takes from `state (B, S)`, with its graph."""
    state, theta = state.detach().requires_grad_(), loop.theta.detach().requires_grad_()
    with torch.enable_grad():
        following = loop.optimizer.step(
            state, lambda w: loss_gradient(problem.inner_loss, w, theta, loop.data, graph=True), loop.size
        )

    def push(tangent: Tensor) -> Tensor:
        # The pull is linear in the adjoint, and its derivative in the adjoint is M: reverse over reverse.
        adjoint = torch.zeros_like(following).requires_grad_()
        (pulled,) = torch.autograd.grad(following, state, adjoint, create_graph=True, materialize_grads=True)
        (pushed,) = torch.autograd.grad(pulled, adjoint, tangent, materialize_grads=True)
        return pushed

    def pull(adjoint: Tensor) -> tuple[Tensor, Tensor]:
        by_state, by_theta = torch.autograd.grad(
            following, (state, theta), adjoint, retain_graph=True, materialize_grads=True
        )
        return by_state, by_theta

    return Step(following.detach(), push, pull)


@dataclass(frozen=True)
class Adjoint:
    """The reverse sweep where it has come to a state: `by_state (B, S)`, and `by_theta (B, P)` gathered so far.

    `pull` is the last pull that was made, None at the loop's end.
    """

    by_state: Tensor
    by_theta: Tensor
    pull: Callable[[Tensor], tuple[Tensor, Tensor]] | None


def sweep(
    problem: Problem, loop: Trajectory, running: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Iterator[Adjoint]:
    """The adjoints at the states K, K-1 ... 0 of a loop, each computed inside `running()`; K + 1 of them.

    The last one's `by_theta` is the meta-gradient: it has what came through the loop's start as well.
    """
    with running():
        by_w, by_theta = outer_gradients(problem, loop)
        by_state = torch.cat([by_w, torch.zeros_like(loop.states[0, :, loop.size :])], dim=-1)
        if loop.steps == 0:
            by_theta = _through_start(problem, loop, by_state, by_theta)
    yield Adjoint(by_state, by_theta, None)
    for step in reversed(range(loop.steps)):
        with running():
            taken = take_step(problem, loop, loop.states[step])
            by_state, more = taken.pull(by_state)
            by_theta = by_theta + more
            if step == 0:
                by_theta = _through_start(problem, loop, by_state, by_theta)
        yield Adjoint(by_state, by_theta, taken.pull)


def _through_start(problem: Problem, loop: Trajectory, by_state: Tensor, by_theta: Tensor) -> Tensor:
    theta = loop.theta.detach().requires_grad_()
    with torch.enable_grad():
        state = loop.optimizer.start(problem.start(theta, loop.data))
    if not state.requires_grad:
        return by_theta
    (more,) = torch.autograd.grad(state, theta, by_state)
    return by_theta + more
