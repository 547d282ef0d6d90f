"""The one inner loop, and the record of it that every estimator is given.

All estimators differentiate the same `Trajectory`; none runs a loop of its own choosing. One that must rerun the loop
to build a graph checks that it met the recorded states, bit for bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from diagnostics import outcome
from diagnostics.arithmetic.extended import Extended
from diagnostics.arithmetic.precision import arithmetic_of
from diagnostics.checks import whole_number
from diagnostics.outcome import Outcome
from diagnostics.problem import Loss, Problem
from diagnostics.recording import Linearised, compiling, recorded
from diagnostics.registry import Registry
from diagnostics.rows import Data, finite_rows, repeat_rows, row_norms, take_rows

Gradient = Callable[[Tensor], Tensor]  # w (B, N) -> d inner_loss / d w (B, N)


@dataclass(frozen=True)
class InnerGradient:
    """The inner loss as an optimizer sees it, for every task at once: its gradient, and for second-order methods more.

    Called with `w (B, N)` it gives the gradient `(B, N)`. With `graph` whatever it gives can be differentiated;
    without, it is detached. `seen` collects the pairs of points and gradients, where someone wants to know.
    """

    loss: Loss
    theta: Tensor
    data: Data
    graph: bool = False
    seen: list[tuple[Tensor, Tensor]] | None = None

    def __call__(self, w: Tensor) -> Tensor:
        """The gradient `(B, N)` at `w (B, N)`."""
        gradient = loss_gradient(self.loss, w, self.theta, self.data, graph=self.graph)
        if self.seen is not None:
            self.seen.append((w, gradient))
        return gradient

    def value(self, w: Tensor) -> Tensor:
        """The loss `(B,)` at `w (B, N)`."""
        with torch.set_grad_enabled(self.graph):
            return self.loss(w, self.theta, self.data)

    def products(self, w: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The gradient `(B, N)` at `w (B, N)`, and the map `v (B, N) -> H v` with the Hessian there."""
        at = w
        if not (self.graph and w.requires_grad):
            w = w.detach().requires_grad_()
        gradient = loss_gradient(self.loss, w, self.theta, self.data, graph=True)
        shown = gradient if self.graph else gradient.detach()
        if self.seen is not None:
            self.seen.append((at, shown))

        def product(v: Tensor) -> Tensor:
            if not gradient.requires_grad:  # a loss that is linear in w
                return torch.zeros_like(v)
            with torch.enable_grad():
                (value,) = torch.autograd.grad(
                    gradient, w, v, create_graph=self.graph, retain_graph=True, materialize_grads=True
                )
            return value

        return shown, product


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

    def step(self, state: Tensor, gradient: InnerGradient, size: int) -> Tensor:
        """The next state; `size` is N, the number of columns that are weights."""
        ...


optimizers: Registry[Callable[..., Optimizer]] = Registry("inner optimizer", "diagnostics.optimizers")


def make_optimizer(name: str, problem: Problem, learning_rate: float | None = None) -> Optimizer:
    """The optimizer of that name with the learning rate asked for, or else with the usual one.

    That is the problem's own, but for optimizers whose steps have a natural length (`natural_rate`), as Newton's has.
    Raises `ValueError` for an unknown name.
    """
    made = optimizers[name]
    return made(learning_rate or getattr(made, "natural_rate", problem.learning_rate))


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

    @cached_property
    def diverged_at(self) -> Tensor:
        """The first step `(B,)` whose state or gradient is not finite; -1 where there is none."""
        bad = ~(finite_rows(self.states) & self.gradient_norms.isfinite())
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
        chosen = torch.as_tensor(list(steps), device=self.theta.device)
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


@dataclass(frozen=True)
class StepMap:
    """One inner step as a map of tensors, `(state (B, S), theta (B, P), *data) -> following (B, S)`.

    With it comes the gradient `(B, N)` of the inner loss at the state, which most optimizers ask for anyway.
    """

    loss: Loss
    optimizer: Optimizer
    size: int
    names: tuple[str, ...]  # of the data

    def alone(self, *tensors: Tensor) -> Linearised:
        """The step and the gradient, nothing kept for derivatives."""
        following, gradient = self._taken(False, *tensors)
        return (following.detach(), gradient), ()

    def gradient(self, state: Tensor, theta: Tensor, *data: Tensor) -> Linearised:
        """The gradient at the state alone."""
        named = dict(zip(self.names, data, strict=True))
        return (loss_gradient(self.loss, state[:, : self.size], theta, named),), ()

    def with_graph(self, *tensors: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """The step and the gradient with their graph, and the `(state, theta)` that it leads to."""
        state, theta = (x.detach().requires_grad_() for x in tensors[:2])
        with torch.enable_grad():
            following, gradient = self._taken(True, state, theta, *tensors[2:])
        return following, gradient, (state, theta)

    def linearised(self, *tensors: Tensor) -> Linearised:
        """The step and the gradient, and the map `a (B, S) -> ((dStep/ds)' a, (dStep/dtheta)' a)`."""
        following, gradient, inputs = self.with_graph(*tensors)

        def pull(adjoint: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(following, inputs, adjoint, retain_graph=True, materialize_grads=True)

        return (following.detach(), gradient.detach()), (pull,)

    def _taken(self, graph: bool, state: Tensor, theta: Tensor, *data: Tensor) -> tuple[Tensor, Tensor]:
        seen: list[tuple[Tensor, Tensor]] = []
        gradient = InnerGradient(self.loss, theta, dict(zip(self.names, data, strict=True)), graph, seen)
        following = self.optimizer.step(state, gradient, self.size)
        weights = state if state.shape[1] == self.size else state[:, : self.size]
        if not (seen and _the_same(seen[0][0], weights)):
            gradient(weights)
            return following, seen[-1][1]
        return following, seen[0][1]


def _the_same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are one, or, where they have no memory of their own, hold the same numbers."""
    if a is b:
        return True
    if isinstance(a, Extended):
        return torch.equal(a, b)
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()


def advance(step: StepMap, state: Tensor, theta: Tensor, data: Data) -> tuple[Tensor, Tensor]:
    """The state `(B, S)` that follows, and the gradient `(B, N)` at this one; nothing is kept for derivatives."""
    # What is compiled differs in its last bits from other code for the same map, so that there must be only one.
    kind, linearise = ("pull", step.linearised) if compiling() else ("step", step.alone)
    (following, gradient), _ = recorded((kind, step), linearise, state, theta, *data.values())
    return following, gradient


def run_inner(
    problem: Problem,
    optimizer: Optimizer,
    theta: Tensor,
    data: Data,
    steps: int,
    keep: Sequence[int] | None = None,
) -> Trajectory:
    """Run `steps` inner steps from `problem.start(theta, data)`; 0 steps is the identity.

    `theta (B, P)` and the floating-point data must have one arithmetic, which is the loop's. A task that overflows
    goes on as infinities and NaN, without touching the others, and says so in the outcome. With `keep`, only the states
    after so many steps are kept, and the trajectory counts these: with `(steps,)` its memory does not grow with the
    steps. Raises `ValueError` for steps that are not a whole number >= 0, for states to keep beyond them, and for data
    or theta that are not finite, of mixed arithmetics or devices, or of another number of tasks.
    """
    _check_inputs(problem, theta, data, steps)
    kept = frozenset(range(steps + 1) if keep is None else keep)
    if not kept or not kept <= frozenset(range(steps + 1)):
        raise ValueError(f"expected some of the states after 0 to {steps} steps to keep, found {sorted(kept)}")
    w = problem.start(theta, data).detach()
    step = StepMap(problem.inner_loss, optimizer, w.shape[1], tuple(data))
    state, at = optimizer.start(w), {count: place for place, count in enumerate(sorted(kept))}
    # Filled in place: stacking a list of states would hold each of them twice.
    states, norms = state.new_zeros(len(kept), *state.shape), state.new_zeros(len(kept), len(state))
    for count in range(steps):
        following, gradient = advance(step, state, theta, data)
        if count in at:
            states[at[count]], norms[at[count]] = state, row_norms(gradient)
        state = following
    if steps in at:
        (end,), _ = recorded(("gradient", step), step.gradient, state, theta, *data.values())
        states[at[steps]], norms[at[steps]] = state, row_norms(end)
    return Trajectory(theta, data, optimizer, states, norms, step.size)


def _check_inputs(problem: Problem, theta: Tensor, data: Data, steps: int) -> None:
    whole_number("inner steps", steps, 0)
    named = {"theta": theta, **{f"data[{key!r}]": x for key, x in data.items()}}
    for name, x in named.items():
        if len(x) != len(theta):
            raise ValueError(
                f"problem {problem.name!r}: expected {len(theta)} tasks as in theta, found {len(x)} in {name}"
            )
        if x.is_floating_point() and arithmetic_of(x) != arithmetic_of(theta):
            raise ValueError(
                f"problem {problem.name!r}: expected one arithmetic, "
                f"found theta in {arithmetic_of(theta)} and {name} in {arithmetic_of(x)}"
            )
        if x.device != theta.device:
            raise ValueError(
                f"problem {problem.name!r}: expected one device, found theta on {theta.device} and {name} on {x.device}"
            )
    finite = torch.stack([x.isfinite().all() for x in named.values()])
    if not bool(finite.all()):  # one question for all of them, since an accelerator's answer is waited for
        name, x = list(named.items())[finite.tolist().index(False)]
        row = int((~x.isfinite()).reshape(len(x), -1).any(1).nonzero()[0])
        raise ValueError(
            f"problem {problem.name!r}: expected finite numbers, found {name} with NaN or infinity in task {row}"
        )
