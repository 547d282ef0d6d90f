"""How fast the inner loop stretches differences, and what that predicts for the digits of an unrolled gradient.

With M_k = dStep/ds at the recorded states, P = M_(K-1) ... M_0 and |P| its greatest singular value, the growth rate is
a finite-time Lyapunov exponent (Benettin, Galgani, Giorgilli and Strelcyn 1980):

    Lambda = (1/K) ln |P|;    on a quadratic with gradient descent    Lambda = ln max |1 - learning_rate * eig(H)|

Two loops that start a rounding apart separate as e^(Lambda K) where Lambda > 0, and meet where it is below. With q =
e^Lambda, u = eps/2 the unit roundoff, lam the strength and L_H the greatest eigenvalue of the inner Hessian, lam
included, the relative error of the gradient goes as

    expanding       u max(K, e^(Lambda K))                   no digit is left at K* = ln(1/u) / Lambda
    contracting     u min(K, 1/(1 - q)) L_H/lam
    strength 0      u K + u tiny min(K, 1/(1 - q)) / (|g| e^(Lambda K))     underflow sets in at ln(|g|/tiny) / -Lambda

or, where roundings walk at random, with sqrt(K) for K and sqrt(min(K, 1/(1 - q^2))) in the second line. These are
models of how roundings add up, not theorems; factors like the root of the dimension are left out.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from diagnostics.checks import whole_number
from diagnostics.draws import normal
from diagnostics.inner import Trajectory
from diagnostics.one_step import take_step
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem
from diagnostics.rows import row_norms
from diagnostics.solvers import known_none


@dataclass(frozen=True)
class Growth:
    """How a loop of K steps stretches differences.

    `rate (B,)` is Lambda: minus infinity where the steps leave no difference, NaN where the loop diverged.
    `uncertainty (B,)`: a singular value of P has a rate this close; it says nothing of a greater one that the random
    start missed. `along (K+1, B)` is `ln |M_(k-1) ... M_0 v|`, from 0 to K Lambda, for the direction v that grows most
    in all K steps. `outcome (B,)` is the loop's.
    """

    rate: Tensor
    uncertainty: Tensor
    along: Tensor
    outcome: Tensor


def growth(
    problem: Problem, loop: Trajectory, *, iterations: int = 20, tolerance: float = 1e-3, seed: int = 0
) -> Growth:
    """The growth rate of a loop, by power iteration on P'P from a random start.

    One iteration takes the unit vector v to x = Pv / |Pv| and to P'x / |P'x|, scaled at each step, since |P| may be
    beyond any exponent. As |Pv| <= |P'x| <= |P|, it ends once ln |P'x| - ln |Pv| <= `tolerance` in every task. An
    iteration costs two passes over the loop. Raises `ValueError` for a loop without steps and for no iterations.
    """
    whole_number("growth: inner steps", loop.steps, 1)
    whole_number("growth: iterations", iterations, 1)
    start = normal(seed, 0, loop.states.shape[-1]).to(loop.states).expand(loop.states.shape[1:])
    found = _iterate(problem, loop, _unit(start)[0])
    for _ in range(iterations - 1):
        growing = found.gain > tolerance
        if known_none(growing):
            break
        found = found.until(_iterate(problem, loop, found.following), growing.any())
    gone = found.along[-1] == -torch.inf
    # |P'P v - |Pv|^2 v| / |Pv|^2, the residual of the eigenpair (|Pv|^2, v) of P'P.
    residual = row_norms(found.gain.exp().unsqueeze(-1) * found.following - found.direction)
    return Growth(
        rate=torch.where(loop.outcome == Outcome.OK.code, found.along[-1] / loop.steps, torch.nan),
        uncertainty=torch.where(gone, 0.0, torch.log1p(residual) / (2 * loop.steps)),
        along=found.along,
        outcome=loop.outcome,
    )


@dataclass(frozen=True)
class _Iteration:
    """Power iteration from v = `direction`: `along` as in `Growth`, `following` = P'Pv / |P'Pv|, `gain` as above."""

    direction: Tensor
    along: Tensor
    following: Tensor
    gain: Tensor

    def until(self, later: "_Iteration", going: Tensor) -> "_Iteration":
        """The later iteration where `going ()`, else this one."""
        return _Iteration(
            **{f.name: torch.where(going, getattr(later, f.name), getattr(self, f.name)) for f in fields(self)}
        )


def _iterate(problem: Problem, loop: Trajectory, direction: Tensor) -> _Iteration:
    forth = range(loop.steps)
    image, along = _carry(direction, forth, lambda step, v: take_step(problem, loop, loop.states[step]).push(v))
    following, back = _carry(image, forth[::-1], lambda step, a: take_step(problem, loop, loop.states[step]).pull(a)[0])
    return _Iteration(direction, along, following, back[-1] - along[-1])


def _unit(v: Tensor) -> tuple[Tensor, Tensor]:
    """`v (B, S)` with rows of length 1, or 0 where they are 0; and the logarithms of their lengths."""
    length = row_norms(v)
    return v / torch.where(length == 0, 1.0, length).unsqueeze(-1), length.log()


def _carry(v: Tensor, steps: Sequence[int], product: Callable[[int, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """`v (B, S)` through all products, at length 1; and the logarithms `(K+1, B)` of the lengths that it would have."""
    logarithms = [torch.zeros_like(v[:, 0])]
    for step in steps:
        v, stretch = _unit(product(step, v))
        logarithms.append(logarithms[-1] + stretch)
    return v, torch.stack(logarithms)


def digits_run_out(rate: Tensor, eps: float) -> Tensor:
    """The step K* at which a bounded loop that expands has no digit left; infinite where it does not expand.

    Assumes that one rounding, relative to the state, is what two loops first differ by, and that the states stay of one
    size. On a quadratic the state grows along with the difference unless it starts at rest in what expands.
    """
    return torch.where(rate > 0, math.log(2 / eps) / rate, torch.where(rate.isnan(), torch.nan, torch.inf))


def underflow_step(rate: Tensor, norm: Tensor, tiny: float) -> Tensor:
    """The step at which an adjoint of length `norm` that shrinks at `rate` is below `tiny`; infinite if it does not.

    Assumes that all of it shrinks so, as with strength 0 on a quadratic once its least eigenvalue is what is left.
    From there on digits are lost to gradual underflow, as many a step as the adjoint shrinks by; all at once where
    subnormal numbers are flushed to zero.
    """
    predicted = (norm.log() - math.log(tiny)) / -rate
    return torch.where(rate < 0, predicted, torch.where(rate.isnan(), torch.nan, torch.inf))


def contracting_error(
    steps: Sequence[int], rate: Tensor, eps: float, condition: Tensor | float, *, walk: bool = False
) -> Tensor:
    """The relative error `(T, B)` after each of `steps`, of a loop that contracts; infinite where it does not.

    `condition` is L_H/lam, by how much the longest adjoint exceeds the gradient. Assumes an error of u in each step,
    all of one sign, or with `walk` of random sign: `u sqrt(min(K, 1/(1 - q^2))) condition`.
    """
    power = 2 if walk else 1
    counted = _counted(steps, power * rate) ** (1 / power)
    return torch.where(rate < 0, 0.5 * eps * counted * condition, torch.inf)


def underflow_error(steps: Sequence[int], rate: Tensor, eps: float, norm: Tensor, tiny: float) -> Tensor:
    """The relative error `(T, B)` that gradual underflow makes in an adjoint of length `norm e^(rate K)`.

    Assumes that each step rounds to a multiple of `eps tiny`, the spacing of the subnormal numbers, and that these
    errors shrink with the adjoint; 0 while the adjoint is not below `tiny`.
    """
    taken = _column(steps, rate)
    length = norm.log() + rate * taken
    relative = (math.log(0.5 * eps) + math.log(tiny) - length).exp() * _counted(steps, rate)
    return torch.where(length < math.log(tiny), relative, 0.0)


def predicted_error(
    steps: Sequence[int],
    rate: Tensor,
    eps: float,
    tiny: float,
    *,
    norm: Tensor,
    condition: Tensor | float | None,
    walk: bool = False,
) -> Tensor:
    """The relative error `(T, B)` of an unrolled gradient after each of `steps`, at most 1; NaN where the rate is.

    Of an arithmetic with machine epsilon `eps` and smallest normal number `tiny`; `norm (B,)` is the outer gradient's.
    `condition` is L_H/lam, or None for strength 0, where the gradient shrinks with the adjoint and nothing is
    amplified; with `walk` roundings walk at random. Assumes what the parts do: see
    `digits_run_out`, `contracting_error` and `underflow_error`.
    """
    taken = _column(steps, rate)
    roundings = taken.clamp(min=1).sqrt() if walk else taken.clamp(min=1)
    expanding = 0.5 * eps * torch.maximum(roundings, (rate * taken).exp())
    if condition is None:
        kept = 0.5 * eps * roundings + underflow_error(steps, rate, eps, norm, tiny)
    else:
        kept = contracting_error(steps, rate, eps, condition, walk=walk)
    return torch.where(rate >= 0, expanding, kept).where(~rate.isnan(), torch.nan).clamp(max=1.0)


def _column(steps: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor([whole_number("steps", count, 0) for count in steps]).to(like).unsqueeze(-1)


def _counted(steps: Sequence[int], rate: Tensor) -> Tensor:
    """How many roundings `(T, B)` still count after each of `steps`: `min(K, 1/(1 - q))`, and at least the last one."""
    taken = _column(steps, rate).clamp(min=1)
    return torch.where(rate < 0, torch.minimum(taken, -1 / torch.expm1(rate)), taken)
