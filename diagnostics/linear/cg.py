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
from diagnostics.outcome import Outcome
from diagnostics.rows import row_norms
from diagnostics.solvers import (
    LinearSolution,
    MatVec,
    System,
    all_ended,
    check_budget,
    posed,
    power_of_two,
    require_symmetric,
    solvers,
)

NARROW = 1e-6  # float16: a format whose smallest normal number is above it has no room for the square of a residual


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

    def path(
        self, matvec: MatVec, right_hand_side: Tensor, transposed: MatVec | None = None
    ) -> tuple[LinearSolution, ...]:
        """One `LinearSolution` for each iteration count in `keep`, and one for `iterations`."""
        require_symmetric("CG", transposed)
        system = posed(matvec, right_hand_side, self.damping, self.relative_tolerance, self.absolute_tolerance)
        return iterated(system, self.iterations, self.keep, past_negative_curvature=self.past_negative_curvature)


def iterated(
    system: System,
    iterations: int,
    keep: tuple[int, ...],
    *,
    past_negative_curvature: bool = False,
    precondition: MatVec | None = None,
    products: int = 0,
) -> tuple[LinearSolution, ...]:
    """The iteration, plain or with a preconditioner: z = r, or `precondition(r)` for a positive definite M^-1.

    `products`: how many a task took before. A row that is frozen has the direction 0 and the step 0: x stays as it is,
    whatever becomes of the row's other numbers.
    """
    b, norm = system.b, row_norms if torch.finfo(system.b.dtype).smallest_normal > NARROW else plain_norms
    x, r, unit = torch.zeros_like(b), b, torch.ones_like(system.scale)  # r, z and p in units of `unit`
    frozen = ~(system.b_norm > system.done)  # also a zero right-hand side, and one that is not finite
    z = b if precondition is None else precondition(b)
    p = torch.where(frozen.unsqueeze(-1), 0.0, z)
    r_norm = norm(b)
    rz = (r * z).sum(-1)
    negative, h_norm = torch.zeros_like(frozen), torch.zeros_like(rz)  # |H| >= h_norm, the largest seen
    beside = torch.zeros_like(rz)  # of the tridiagonal matrix, see `column_norm`
    spent = torch.full_like(frozen, products, dtype=torch.long)
    kept: dict[int, LinearSolution] = {}

    def solution(count: int) -> LinearSolution:
        return system.solution(x, count, spent, h_norm, outcome.where(negative, Outcome.NEGATIVE_CURVATURE))

    wanted = sorted({*keep, iterations})
    if 0 in wanted:
        kept[0] = solution(0)
    shrink = torch.zeros_like(rz)  # |r| over the |r| before
    for count in range(1, iterations + 1):
        if not all_ended(frozen, count):
            hp, spent = system.product(p), spent + (~frozen).long()
            php = (p * hp).sum(-1)
            negative = negative | (~frozen & (php <= 0))
            frozen = frozen | ((php == 0) if past_negative_curvature else (php <= 0))
            usable = torch.where(frozen, 1.0, torch.where(php.isfinite(), php, torch.nan))
            alpha = torch.where(frozen, 0.0, rz / usable).unsqueeze(-1)
            x = torch.addcmul(x, alpha * unit, p)
            r = torch.addcmul(r, -alpha, hp)

            r_norm_before, r_norm = r_norm, norm(r)
            last_shrink, shrink = shrink, r_norm / torch.where(frozen, 1.0, r_norm_before)
            if precondition is None:
                here = usable / torch.where(rz > 0, rz, 1.0)
                seen = column_norm(here + last_shrink * beside, beside, shrink * here)
                beside = shrink * here
            else:
                seen = row_norms(hp) / torch.where(frozen, 1.0, row_norms(p))
            h_norm = torch.where(frozen, h_norm, torch.maximum(h_norm, seen))

            scale = power_of_two(r_norm).unsqueeze(-1)
            r, unit, r_norm = r / scale, unit * scale, r_norm / scale.squeeze(-1)
            z = r if precondition is None else precondition(r)
            rz_before, rz = rz, (r * z).sum(-1)
            beta = (rz / torch.where(frozen, 1.0, rz_before)).unsqueeze(-1) * scale
            frozen = frozen | ~(r_norm * unit.squeeze(-1) > system.done)
            p = torch.where(frozen.unsqueeze(-1), 0.0, torch.addcmul(z, beta, p))
        if count in wanted:
            kept[count] = solution(count)
    return tuple(kept[count] for count in wanted)


def plain_norms(x: Tensor) -> Tensor:
    """Euclidean norms `(B,)` in one pass, for rows whose squares are in range, as those of a scaled residual are."""
    return torch.linalg.vector_norm(x, dim=-1)


def column_norm(on: Tensor, above: Tensor, below: Tensor) -> Tensor:
    """`|H q|` of the Lanczos vector q = r / |r|, which is one column of the tridiagonal matrix that CG's numbers make.

    With d = p'Hp / r'r and s = |r new| / |r old|: on the diagonal d + s^2 d of the step before, beside it s d.
    """
    return row_norms(torch.stack([on, above, below], dim=-1))
