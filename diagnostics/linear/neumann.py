"""The truncated Neumann series (Lorraine, Vicol and Duvenaud 2020), batched over tasks.

    x_j = a sum_(i <= j) (I - aH)^i b,   t_0 = b,   t_(i+1) = t_i - a H t_i,   x_j = x_(j-1) + a t_j

For a positive definite H with eigenvalues from mu to L the series converges where a < 2 / L, and

    |x_j - x| <= max(|1 - a mu|, |1 - a L|)^(j+1) |x|,   so <= (1 - a mu)^(j+1) |b| / mu   where a <= 1 / L.

For any other H it converges where all eigenvalues of I - aH are below 1 in size. The term t_(j+1) is the residual
b - H x_j, so that three things show on the way, for no further product:
1. t'Ht < 0: a symmetric H is indefinite and the series diverges; of another H it says nothing, and is not asked;
2. |t| grows: with t'Ht >= 0 all along, which for a semidefinite H needs a L > 2, the step is too large. Where H is
   not symmetric it may grow for a while and converge all the same, so that only far more growth is called divergence;
3. Ht = 0: H is singular and b outside its range.

t is kept in units of a power of two of its size, so that it does not underflow in float16.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics import outcome
from diagnostics.outcome import Outcome
from diagnostics.rows import row_norms
from diagnostics.solvers import LinearSolution, MatVec, all_ended, check_budget, exponent_scale, posed, solvers

POWER_ITERATIONS = 20
# The estimate of L is never too large. Scaled up by 4/3, it gives the step 2 / (4/3 L) = 1.5 / L, which converges as
# long as the estimate is above 3/4 of L.
MARGIN = 4 / 3
GROWN = 2.0  # times the smallest |t| before: far more than rounding errors do to one that should not grow
TRANSIENT = 1e3  # the same for an H that is not symmetric, whose series may grow for a while before it converges


@solvers.register("neumann")
@dataclass(frozen=True)
class Neumann:
    """The Neumann series up to its term `iterations`, solving `(H + damping I) x = b`: `iterations` products.

    `step` is a, or None for `1.5 / |H|`: |H| is then estimated by 20 power iterations from a fixed random start, which
    are counted as products. The estimate is never above |H|, and the step converges where it is above 3/4 of |H|; its
    expected relative error is at most 0.9 ln(N) / 19 for any H (Kuczynski and Wozniakowski 1992), and far less
    where some eigenvalues stand apart. A row ends when a term, which is the residual of the sum before it, is at most
    `relative_tolerance |b|`. `keep` names the j whose sums are returned by `path`; the last is always kept.

    The series stops before the term that shows it to diverge: `NEGATIVE_CURVATURE` for an indefinite H,
    `SOLVER_DIVERGED` for a step above 2 / |H|. A negative eigenvalue that the terms are still to grow along is not
    known. `SINGULAR`: the rest of b is in the null space of H. For an H that is not symmetric no step need converge,
    and the one that is chosen may be too long where another does. Raises `ValueError` for settings that mean nothing.
    """

    iterations: int
    step: float | None = None
    keep: tuple[int, ...] = ()
    relative_tolerance: float = 0.0
    damping: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        check_budget("Neumann", self.iterations, self.keep, relative_tolerance=self.relative_tolerance)
        if self.step is not None and not 0 < self.step < float("inf"):
            raise ValueError(f"Neumann: expected a finite step > 0, or None, found {self.step}")

    def path(
        self, matvec: MatVec, right_hand_side: Tensor, transposed: MatVec | None = None
    ) -> tuple[LinearSolution, ...]:
        """One `LinearSolution` for each j in `keep`, and one for `iterations`."""
        system = posed(matvec, right_hand_side, self.damping, self.relative_tolerance)
        product, b, b_norm, done = system.product, system.b, system.b_norm, system.done
        frozen = ~(b_norm > done)  # also a zero right-hand side, and one that is not finite
        negative, grown, stuck = (torch.zeros_like(frozen) for _ in range(3))
        spent = torch.zeros_like(frozen, dtype=torch.long)

        if self.step is None:
            h_norm = norm_estimate(product, b)
            step = (2 / MARGIN / torch.where(h_norm > 0, h_norm, 1.0)).unsqueeze(-1)
            spent = spent + POWER_ITERATIONS
        else:
            h_norm, step = torch.zeros_like(b_norm), torch.full_like(b_norm, self.step).unsqueeze(-1)
        growth = GROWN if transposed is None else TRANSIENT
        t, unit, smallest = b, torch.ones_like(system.scale), b_norm  # t in units of `unit`
        x = torch.where(frozen.unsqueeze(-1), torch.zeros_like(b), step * b)
        kept: dict[int, LinearSolution] = {}

        def solution(count: int) -> LinearSolution:
            indefinite = outcome.where(negative, Outcome.NEGATIVE_CURVATURE)
            diverged = outcome.where(grown, Outcome.SOLVER_DIVERGED)
            return system.solution(x, count, spent, h_norm, indefinite, diverged, singular=stuck)

        wanted = sorted({*self.keep, self.iterations})
        if 0 in wanted:
            kept[0] = solution(0)
        for count in range(1, self.iterations + 1):
            if not all_ended(frozen):
                ht, spent = product(t), spent + (~frozen).long()
                ht_norm = row_norms(ht)
                h_norm = torch.where(frozen, h_norm, torch.maximum(h_norm, ht_norm / row_norms(t)))
                if transposed is None:
                    negative = negative | (~frozen & ((t * ht).sum(-1) < 0))
                stuck = stuck | (~frozen & (ht_norm == 0))
                t = t - step * ht
                shrunk = exponent_scale(t)
                t, unit = t / shrunk, unit * shrunk
                length = row_norms(t) * unit.squeeze(-1)
                frozen = frozen | negative | stuck
                grown = grown | (~frozen & (length > growth * smallest))
                smallest = torch.minimum(smallest, length)
                frozen = frozen | grown | ~(length > done)
                x = torch.where(frozen.unsqueeze(-1), x, x + step * t * unit)
            if count in wanted:
                kept[count] = solution(count)
        return tuple(kept[count] for count in wanted)


def norm_estimate(product: MatVec, like: Tensor) -> Tensor:
    """`|H v|` of the last `v (B, N)` of 20 power iterations: `(B,)`, at most |H|.

    The start is the same standard normal vector in every row; `like (B, N)` gives shape and arithmetic.
    """
    draw = torch.randn(like.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = torch.zeros_like(like) + draw.to(like.device).expand_as(like).to(like.dtype)
    estimate = torch.zeros_like(row_norms(v))
    for _ in range(POWER_ITERATIONS):
        length = row_norms(v)
        v = product(v / torch.where(length > 0, length, 1.0).unsqueeze(-1))
        estimate = torch.maximum(estimate, row_norms(v))
    return estimate
