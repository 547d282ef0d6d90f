"""Where an unrolled gradient loses its digits: on the way forward or back, at which step, in which kind of operation.

One loop is run twice from the same numbers: in the arithmetic under test, `low`, and in a far better one, `exact`. With
s_k the states, a_k the adjoints, g the gradient, and `between` the exact sweep along the low states,

    forward     |s_k low - s_k exact| / |s_k exact|          and of each step alone, from the same low state
    backward    |a_k low - a_k exact| / |a_k exact|          and of each pull alone, of the same low adjoint there
    gradient    g low - g exact = (g between - g exact) + (g low - g between)
                                  the forward's states    the sweep's own rounding

Every difference is formed in the exact arithmetic, and every norm of it in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diagnostics import outcome
from diagnostics.arithmetic.after_each import KINDS, after_each_operation
from diagnostics.arithmetic.precision import Precision, enter_rows
from diagnostics.checks import one_of
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.inner import Trajectory, run_inner
from diagnostics.one_step import sweep, take_step
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem
from diagnostics.rows import row_norms

ROUNDING_KINDS = tuple(kind for kind in KINDS if kind != "movement")  # the kinds of operation that are not exact


@dataclass(frozen=True)
class TwoLoops:
    """The loop under test, `low`, and the same loop from the same numbers in a better arithmetic, `exact`."""

    problem: Problem
    low: Trajectory
    exact: Trajectory
    tested: Precision
    better: Precision

    def lift(self, x: Tensor) -> Tensor:
        """A result of the arithmetic under test, the same number in the better one."""
        return self.better.enter(self.tested.leave(x))

    def relative(self, x: Tensor, truth: Tensor) -> Tensor:
        """`|x - truth| / |truth|` along the last dimension, of numbers of the better arithmetic; 0 where x is truth."""
        return _relative(row_norms(self.better.leave(x - truth)), row_norms(self.better.leave(truth)))

    @property
    def outcome(self) -> Tensor:
        """Codes `(B,)`: whether either loop diverged."""
        return outcome.graver(self.low.outcome, self.exact.outcome)


def run_again(problem: Problem, low: Trajectory, tested: Precision, better: Precision) -> TwoLoops:
    """Run the loop `low`, of the arithmetic `tested`, again from its own numbers in the arithmetic `better`.

    `tested` must not be finer than float64, through which the numbers go. Raises `ValueError` unless `better` has an
    epsilon below that of `tested`.
    """
    if not better.eps < tested.eps:
        raise ValueError(
            f"expected an exact arithmetic finer than {tested.name} (eps {tested.eps:g}), "
            f"found {better.name} (eps {better.eps:g}); take a finer one"
        )
    theta = better.enter(tested.leave(low.theta))
    data = {key: tested.leave(x) if x.is_floating_point() else x for key, x in low.data.items()}
    with better.running():
        exact = run_inner(problem, low.optimizer, theta, enter_rows(better, data), low.steps)
    return TwoLoops(problem, low, exact, tested, better)


@dataclass(frozen=True)
class ForwardRounding:
    """Relative errors of the states, `(K+1, B)` each: `accumulated` since the start, and `local` to the step there.

    The first row of both is the error of the loop's start.
    """

    accumulated: Tensor
    local: Tensor


def forward_rounding(loops: TwoLoops) -> ForwardRounding:
    """What each step of the low loop was wrong by, and what had become of it."""
    low = loops.lift(loops.low.states)
    accumulated = loops.relative(low, loops.exact.states)
    local = [accumulated[0]]
    for step in range(loops.low.steps):
        with loops.better.running():
            following = take_step(loops.problem, loops.exact, low[step]).following
        local.append(loops.relative(low[step + 1], following))
    return ForwardRounding(accumulated, torch.stack(local))


@dataclass(frozen=True)
class BackwardRounding:
    """Relative errors of the adjoints, `(K+1, B)` each, row k at state k; the sweep goes from the last row up.

    `accumulated` since the sweep's start, relative to the exact adjoint there; of it `by_states`, what an exact sweep
    along the low states would have, and `by_sweep`, what the low sweep adds. `local` to the pull that leads to state
    k; its last row is that of the outer gradient at the end of the low loop.

    `gradient (B, P)` is exact; `error = from_states + from_sweep` is what the low one is off by. All in float64.
    `outcome (B,)` says whether the loops and the gradients are finite.
    """

    accumulated: Tensor
    by_states: Tensor
    by_sweep: Tensor
    local: Tensor
    gradient: Tensor
    error: Tensor
    from_states: Tensor
    from_sweep: Tensor
    outcome: Tensor


def backward_rounding(loops: TwoLoops) -> BackwardRounding:
    """What each pull of the low sweep was wrong by, what had become of it, and whose the gradient's error is.

    Three sweeps go side by side and only norms are kept: low along the low states, exact along the low states, exact
    along the exact states.
    """
    along_low = replace(loops.exact, states=loops.lift(loops.low.states))
    sweeps = (
        sweep(loops.problem, loops.low, loops.tested.running),
        sweep(loops.problem, along_low, loops.better.running),
        sweep(loops.problem, loops.exact, loops.better.running),
    )
    norms: list[Tensor] = []
    gathered: list[Tensor] = []
    arrived = None
    for low, between, exact in zip(*sweeps, strict=True):
        left, arrived = arrived, loops.lift(low.by_state)
        pulled = between.by_state
        if left is not None and between.pull is not None:
            with loops.better.running():
                pulled, _ = between.pull(left)
        pairs = ((arrived, exact.by_state), (between.by_state, exact.by_state), (arrived, between.by_state))
        apart = [row_norms(loops.better.leave(x - y)) for x, y in pairs]
        length = row_norms(loops.better.leave(exact.by_state))
        norms.append(torch.stack([*(_relative(x, length) for x in apart), loops.relative(arrived, pulled)]))
        gathered = [loops.lift(low.by_theta), between.by_theta, exact.by_theta]
    accumulated, by_states, by_sweep, local = torch.stack(norms[::-1], dim=1)
    low, between, exact = gathered
    error = loops.better.leave(low - exact)
    unexplained = ~error.isfinite().all(-1) & (loops.outcome == Outcome.OK.code)
    return BackwardRounding(
        accumulated,
        by_states,
        by_sweep,
        local,
        gradient=loops.better.leave(exact),
        error=error,
        from_states=loops.better.leave(between - exact),
        from_sweep=loops.better.leave(low - between),
        outcome=outcome.graver(loops.outcome, outcome.where(unexplained, Outcome.NOT_FINITE)),
    )


@dataclass(frozen=True)
class KindRounding:
    """Relative errors `(B,)` of the gradient, by the one kind of operation that was rounded; `together`, by all.

    `errors` are the vectors `(B, P)`, in float64, that `relative` measures. They need not add up to `together`: where
    roundings of one kind change how those of another go on, there is a rest, small while the error is.
    """

    relative: dict[str, Tensor]
    errors: dict[str, Tensor]
    together: Tensor


def by_kind(loops: TwoLoops, kinds: Sequence[str] = ROUNDING_KINDS) -> KindRounding:
    """The error of the gradient when only the results of one kind of operation are rounded to the tested arithmetic.

    All else is computed in the better one, in the forward loop and in the sweep. A matrix product, a sum and a formula
    that is one kernel are rounded once, at their end: partial sums are not, so that the product's part is the least
    that it can be. `together` rounds all of `kinds`. Raises `ValueError` for a kind that is none.
    """
    kinds = tuple(one_of("kind of operation", kind, ROUNDING_KINDS) for kind in kinds)
    exact = _rounded(loops, ())
    errors = {kind: loops.better.leave(_rounded(loops, (kind,)) - exact) for kind in kinds}
    length = row_norms(loops.better.leave(exact))
    together = loops.better.leave(_rounded(loops, kinds) - exact)
    return KindRounding(
        {kind: _relative(row_norms(error), length) for kind, error in errors.items()},
        errors,
        _relative(row_norms(together), length),
    )


def _rounded(loops: TwoLoops, kinds: Sequence[str]) -> Tensor:
    """The gradient `(B, P)` in the better arithmetic, with the results of operations of `kinds` rounded."""

    def change(result: Tensor, kind: str) -> Tensor:
        return loops.lift(loops.tested.enter(result)) if kind in kinds else result

    exact = loops.exact
    with loops.better.running(), after_each_operation(change):
        loop = run_inner(loops.problem, exact.optimizer, exact.theta, exact.data, exact.steps)
        return UnrolledAdjoint()(loops.problem, loop).value


def _relative(error: Tensor, length: Tensor) -> Tensor:
    return torch.where(error == 0, 0.0, error / length)
