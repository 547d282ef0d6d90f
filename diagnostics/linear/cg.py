"""Conjugate gradients (Hestenes and Stiefel 1952), batched over tasks.

    alpha = r'r / p'Hp;  x <- x + alpha p;  r <- r - alpha Hp;  p <- r + (r'r new / r'r old) p

Differences from the textbook, and from the versions inside meta-learning libraries:
1. an iterate is stored before any test that may end the loop, so that n iterations solve an n-dimensional system;
2. a row that has converged or broken down is frozen while the others go on, so that it cannot turn into 0/0;
3. the residual that is reported is `b - Hx` formed anew, not the recursion's `r`, which keeps falling when x does
   not improve;
4. a direction with p'Hp <= 0 is an outcome;
5. damping is a named argument and zero unless asked for;
6. r and p are kept in units of a power of two of r's size: r'r of a small r would underflow, in float16 from 1e-2 on;
7. a row whose recursion's residual has fallen to eps^2 |b| is frozen whatever the tolerance: x cannot change any more,
   and going on would end in underflow, where p'Hp <= 0 says nothing about H.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics import outcome
from diagnostics.arithmetic.precision import epsilon
from diagnostics.outcome import Outcome
from diagnostics.rows import row_norms
from diagnostics.solvers import LinearSolution, MatVec, check_budget, exponent_scale, solution_of, solvers

ROUNDING_FLOOR = 10.0  # in units of eps (|H| |x| + |b|): a residual this small is as good as the arithmetic gives


@solvers.register("cg")
@dataclass(frozen=True)
class ConjugateGradients:
    """Conjugate gradients from a zero start, solving `(H + damping I) x = b`.

    It ends a row when the recursion's residual is at most `max(relative_tolerance |b|, absolute_tolerance)`, or after
    `iterations`. `keep` names the iteration counts whose iterates are returned by `path`; the last is always kept.
    Negative curvature stops a row at the iterate before it; with `past_negative_curvature` the recursion goes on, as
    the released implementations of iMAML do, and the outcome says so all the same.
    """

    iterations: int
    keep: tuple[int, ...] = ()
    relative_tolerance: float = 0.0
    absolute_tolerance: float = 0.0
    damping: float = 0.0
    past_negative_curvature: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        check_budget(
            "CG", self.iterations, self.keep,
            relative_tolerance=self.relative_tolerance, absolute_tolerance=self.absolute_tolerance,
        )  # fmt: skip

    def path(self, matvec: MatVec, right_hand_side: Tensor) -> tuple[LinearSolution, ...]:
        """One `LinearSolution` for each iteration count in `keep`, and one for `iterations`."""

        def product(v: Tensor) -> Tensor:
            return matvec(v) + self.damping * v if self.damping else matvec(v)

        scale = exponent_scale(right_hand_side)
        b = right_hand_side / scale
        b_norm = row_norms(b)
        tolerance = torch.clamp(self.relative_tolerance * b_norm, min=0.0)
        if self.absolute_tolerance:
            tolerance = torch.maximum(tolerance, self.absolute_tolerance / scale.squeeze(-1))

        x, r, p = torch.zeros_like(b), b, b  # r and p in units of `unit`
        rr, unit = (r * r).sum(-1), torch.ones_like(scale)
        # From |r| <= eps^2 |b| on, x moves by at most |r| / mu <= eps |x|, for any H not singular to working precision.
        done = torch.maximum(tolerance, epsilon(b) ** 2 * b_norm)
        frozen = ~(rr.sqrt() > done)  # also a zero right-hand side, and one that is not finite
        negative = torch.zeros_like(frozen)
        h_norm = torch.zeros_like(rr)  # |H| >= |Hp| / |p|, the largest seen
        spent = torch.zeros_like(frozen, dtype=torch.long)
        kept: dict[int, LinearSolution] = {}

        def solution(count: int) -> LinearSolution:
            residual = row_norms(b - product(x))
            floor = ROUNDING_FLOOR * epsilon(b) * (h_norm * row_norms(x) + b_norm)
            codes = outcome.graver(
                outcome.where(residual > torch.maximum(tolerance, floor), Outcome.UNFINISHED),
                outcome.where(negative, Outcome.NEGATIVE_CURVATURE),
                outcome.where(~(x.isfinite().all(-1) & b.isfinite().all(-1)), Outcome.NOT_FINITE),
            )
            return solution_of(b, scale, x, residual, codes, count, spent)

        wanted = sorted({*self.keep, self.iterations})
        if 0 in wanted:
            kept[0] = solution(0)
        for count in range(1, self.iterations + 1):
            if not bool(frozen.all()):
                hp, spent = product(p), spent + (~frozen).long()
                php = (p * hp).sum(-1)
                negative = negative | (~frozen & (php <= 0))
                frozen = frozen | ((php == 0) if self.past_negative_curvature else (php <= 0))
                h_norm = torch.where(frozen, h_norm, torch.maximum(h_norm, row_norms(hp) / row_norms(p)))
                alpha = (rr / torch.where(frozen, 1.0, php)).unsqueeze(-1)
                hold = frozen.unsqueeze(-1)
                x = torch.where(hold, x, x + alpha * p * unit)
                r = torch.where(hold, r, r - alpha * hp)
                shrunk = torch.where(hold, 1.0, exponent_scale(r))
                r, unit = r / shrunk, unit * shrunk
                rr_new = (r * r).sum(-1)
                beta = (rr_new / torch.where(frozen, 1.0, rr)).unsqueeze(-1) * shrunk
                p = torch.where(hold, p, r + beta * p)
                rr = rr_new
                frozen = frozen | ~(rr.sqrt() * unit.squeeze(-1) > done)
            if count in wanted:
                kept[count] = solution(count)
        return tuple(kept[count] for count in wanted)
