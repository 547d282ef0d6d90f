"""The one inner loop, and the record of it that every estimator is given.

All estimators differentiate the same `Trajectory`; none runs a loop of its own choosing. One that must rerun the loop
to build a graph checks that it met the recorded states, bit for bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from diagnostics import outcome
from diagnostics.arithmetic.precision import arithmetic_of
from diagnostics.checks import whole_number
from diagnostics.outcome import Outcome
from diagnostics.problem import Loss, Problem
from diagnostics.registry import Registry
from diagnostics.rows import Data, repeat_rows, row_norms, take_rows

Gradient = Callable[[Tensor], Tensor]  # w (B, N) -> d inner_loss / d w (B, N)


class Optimizer(Protocol):
    """An inner optimizer: the map of one state `(B, S)` to the next, given the gradient of the inner loss.

    The state is one flat row a task; its first N columns are the weights, the others (momentum, say) follow, so that
    whoever differentiates the state differentiates all of it.
    """

    @property
    def learning_rate(self) -> float:
        """The size of an inner step."""
        ...

    def start(self, w: Tensor) -> Tensor:
        """The state `(B, S)` at weights `w (B, N)`."""
        ...

    def step(self, state: Tensor, gradient: Gradient, size: int) -> Tensor:
        """The next state; `size` is N, the number of columns that are weights."""
        ...


optimizers: Registry[Callable[..., Optimizer]] = Registry("inner optimizer", "diagnostics.optimizers")


@dataclass(frozen=True)
class Trajectory:
    """An inner loop that was run: from where, how, and every state.

    `states (K+1, B, S)`, `gradient_norms (K+1, B)` of the inner loss, `outcome (B,)` codes, and `diverged_at (B,)`: the
    first step whose state or gradient is not finite, -1 where there is none. `size` is N, the number of weights.
    """

    theta: Tensor
    data: Data
    optimizer: Optimizer
    states: Tensor
    gradient_norms: Tensor
    size: int

    @property
    def steps(self) -> int:
        """K, the number of inner steps."""
        return len(self.states) - 1

    @property
    def final(self) -> Tensor:
        """The weights `(B, N)` where the loop ended."""
        return self.states[-1, :, : self.size]

    @property
    def diverged_at(self) -> Tensor:
        """The first step `(B,)` whose state or gradient is not finite; -1 where there is none."""
        bad = ~(self.states.isfinite().all(-1) & self.gradient_norms.isfinite())
        return torch.where(bad.any(0), bad.to(torch.int8).argmax(0), -1)

    @property
    def outcome(self) -> Tensor:
        """Codes `(B,)`: whether the loop diverged."""
        return outcome.where(self.diverged_at >= 0, Outcome.DIVERGED)

    @property
    def stationarity(self) -> Tensor:
        """The inner gradient's norm `(K+1, B)` relative to that at the loop's start; 0 where both are 0."""
        ratio = self.gradient_norms / self.gradient_norms[0]
        return torch.where(self.gradient_norms == 0, 0.0, ratio)

    def prefix(self, steps: int) -> "Trajectory":
        """The same loop, ended after fewer steps."""
        if not 0 <= steps <= self.steps:
            raise ValueError(f"expected 0 to {self.steps} steps of this trajectory, found {steps}")
        return replace(self, states=self.states[: steps + 1], gradient_norms=self.gradient_norms[: steps + 1])

    def rows(self, rows: slice) -> "Trajectory":
        """The same loop for some of its tasks."""
        return replace(
            self,
            theta=self.theta[rows],
            data=take_rows(self.data, rows),
            states=self.states[:, rows],
            gradient_norms=self.gradient_norms[:, rows],
        )

    def endpoints(self, steps: Sequence[int]) -> "Trajectory":
        """The states after each of `steps` as one batch of `len(steps) * B` rows, the task running fastest.

        For whatever looks only at where a loop ended: each row is the end of a loop whose path is left out.
        """
        chosen = torch.as_tensor(list(steps))
        return replace(
            self,
            theta=self.theta.repeat(len(steps), 1),
            data=repeat_rows(self.data, len(steps)),
            states=self.states[chosen].flatten(0, 1).unsqueeze(0),
            gradient_norms=self.gradient_norms[chosen].flatten().unsqueeze(0),
        )


def loss_gradient(loss: Loss, w: Tensor, theta: Tensor, data: Data, *, graph: bool = False) -> Tensor:
    """The gradient `(B, N)` of a batched loss in `w`; with `graph`, itself differentiable."""
    with torch.enable_grad():
        if not w.requires_grad:
            w = w.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(w, theta, data).sum(), w, create_graph=graph)
    return gradient


def run_inner(problem: Problem, optimizer: Optimizer, theta: Tensor, data: Data, steps: int) -> Trajectory:
    """Run `steps` inner steps from `problem.start(theta, data)`; 0 steps is the identity.

    `theta (B, P)` and the floating-point data must have one arithmetic, which is the loop's. A task that overflows
    goes on as infinities and NaN, without touching the others, and says so in the outcome. Raises `ValueError` for
    steps that are not a whole number >= 0, and for data or theta that are not finite, of mixed arithmetics, or of
    another number of tasks.
    """
    _check_inputs(problem, theta, data, steps)
    w = problem.start(theta, data).detach()
    size = w.shape[1]

    def gradient(w: Tensor) -> Tensor:
        return loss_gradient(problem.inner_loss, w, theta, data)

    states, norms = [optimizer.start(w)], []
    for _ in range(steps):
        weights, seen = states[-1][:, :size], []

        def observed(at: Tensor, weights: Tensor = weights, seen: list[Tensor] = seen) -> Tensor:
            value = gradient(at)
            if not seen and (at is weights or torch.equal(at, weights)):
                seen.append(value)  # the gradient at the state itself; most optimizers ask for it, so none is spent
            return value

        states.append(optimizer.step(states[-1], observed, size).detach())
        norms.append(row_norms(seen[0] if seen else gradient(weights)))
    norms.append(row_norms(gradient(states[-1][:, :size])))
    return Trajectory(theta, data, optimizer, torch.stack(states), torch.stack(norms), size)


def _check_inputs(problem: Problem, theta: Tensor, data: Data, steps: int) -> None:
    whole_number("inner steps", steps, 0)
    for name, x in {"theta": theta, **{f"data[{key!r}]": x for key, x in data.items()}}.items():
        if len(x) != len(theta):
            raise ValueError(
                f"problem {problem.name!r}: expected {len(theta)} tasks as in theta, found {len(x)} in {name}"
            )
        if x.is_floating_point() and arithmetic_of(x) != arithmetic_of(theta):
            raise ValueError(
                f"problem {problem.name!r}: expected one arithmetic, "
                f"found theta in {arithmetic_of(theta)} and {name} in {arithmetic_of(x)}"
            )
        if not x.isfinite().all():
            row = int((~x.isfinite()).reshape(len(x), -1).any(1).nonzero()[0])
            raise ValueError(
                f"problem {problem.name!r}: expected finite numbers, found {name} with NaN or infinity in task {row}"
            )
