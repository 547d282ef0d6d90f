"""Conjugate gradients (Hestenes and Stiefel 1952), batched over tasks.

    alpha = r'r / p'Hp;  x <- x + alpha p;  r <- r - alpha Hp;  p <- r + (r'r new / r'r old) p

Differences from the textbook, and from the versions inside meta-learning libraries:
1. an iterate is stored before any test that may end the loop, so that n iterations solve an n-dimensional system;
2. a row that has converged or broken down is frozen while the others go on, so that it cannot turn into 0/0;
3. the residual that is reported is `b - Hx` formed anew, not the recursion's `r`, which keeps falling when x does
   not improve;
4. a direction with p'Hp <= 0 is an outcome;
5. damping is a named argument and zero unless asked for;
6. r and p are kept in units of a power of two, so that r'r of a small r does not underflow, as in float16 from 1e-2 on;
7. a row whose recursion's residual has fallen to eps^2 |b| is frozen whatever the tolerance: x cannot change any more,
   and going on would end in underflow, where p'Hp <= 0 says nothing about H.
"""

from dataclasses import dataclass
from typing import NamedTuple

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
    known_none,
    posed,
    power_of_two,
    require_symmetric,
    solvers,
)

NARROW = 1e-6  # float16: a format whose smallest normal number is not below it has no room for the square of a residual


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
    b, narrow = system.b, torch.finfo(system.b.dtype).smallest_normal > NARROW
    norm, middle = (row_norms, 1.0) if narrow else (plain_norms, 2.0**20)  # 1: every residual is brought back to 1
    x, r, unit = torch.zeros_like(b), b, torch.ones_like(system.scale)  # r, z and p in units of `unit`
    frozen = ~(system.b_norm > system.done)  # also a zero right-hand side, and one that is not finite
    z = b if precondition is None else precondition(b)
    p = torch.where(frozen.unsqueeze(-1), 0.0, z)
    r_norm = norm(b)
    rz = (r * z).sum(-1)
    negative = torch.zeros_like(frozen)
    steps: list[Step] = []
    kept: dict[int, LinearSolution] = {}

    def solution(count: int) -> LinearSolution:
        spent, h_norm = told(steps, like=r_norm)
        codes = outcome.where(negative, Outcome.NEGATIVE_CURVATURE)
        return system.solution(x, count, products + spent, h_norm, codes)

    wanted = sorted({*keep, iterations})
    if 0 in wanted:
        kept[0] = solution(0)
    for count in range(1, iterations + 1):
        if not all_ended(frozen):
            hp, live = system.product(p), ~frozen
            php = (p * hp).sum(-1)
            ahead = php <= 0
            negative = negative | (live & ahead)
            frozen = frozen | ((php == 0) if past_negative_curvature else ahead)
            usable = torch.where(frozen, 1.0, php + (php - php))  # an infinite one makes NaN, and no step of length 0
            alpha = torch.where(frozen, 0.0, rz / usable).unsqueeze(-1)
            x = torch.addcmul(x, alpha * unit, p)
            r = torch.addcmul(r, -alpha, hp)

            r_norm_before, r_norm = r_norm, norm(r)
            seen = None if precondition is None else row_norms(hp) / row_norms(p)
            steps.append(Step(live, ~frozen, usable, rz, r_norm / r_norm_before, seen))

            scale = change_of_unit(r_norm, middle)
            if scale is not None:
                r, unit, r_norm = r / scale.unsqueeze(-1), unit * scale.unsqueeze(-1), r_norm / scale
            z = r if precondition is None else precondition(r)
            rz_before, rz = rz, r_norm * r_norm if precondition is None else (r * z).sum(-1)
            beta = (rz / rz_before if scale is None else rz / rz_before * scale).unsqueeze(-1)
            frozen = frozen | ~(r_norm * unit.squeeze(-1) > system.done)
            p = torch.addcmul(z, beta, p)
            if not known_none(frozen):
                p = torch.where(frozen.unsqueeze(-1), 0.0, p)
        if count in wanted:
            kept[count] = solution(count)
    return tuple(kept[count] for count in wanted)


class Step(NamedTuple):
    """What one iteration has learnt of each row `(B,)`.

    Whether it took a product, whether it took a step, p'Hp, r'z, |r new| / |r old|, and with a preconditioner |Hp| /
    |p|. Without a step the others mean nothing.
    """

    live: Tensor
    stepped: Tensor
    php: Tensor
    rz: Tensor
    shrink: Tensor
    seen: Tensor | None


def told(steps: list[Step], like: Tensor) -> tuple[Tensor, Tensor]:
    """How many products each row took, and the largest |H v| / |v| `(B,)` among them, which |H| is not below.

    Without a preconditioner v is the Lanczos vector r / |r|, and `H v` a column of the tridiagonal matrix that CG's
    numbers make. With d = p'Hp / r'r and s = |r new| / |r old| of a step, and d', s' of the step before, the column is
    s' d' above the diagonal, d + s'^2 d' on it, and s d below.
    """
    if not steps:
        return torch.zeros_like(like, dtype=torch.long), torch.zeros_like(like)
    live, stepped = torch.stack([step.live for step in steps]), torch.stack([step.stepped for step in steps])
    if steps[0].seen is None:
        rz = torch.stack([step.rz for step in steps])
        on = torch.stack([step.php for step in steps]) / torch.where(rz > 0, rz, 1.0)
        shrink = torch.stack([step.shrink for step in steps])
        below = shrink * on
        above, shrink_before = (torch.cat([torch.zeros_like(rows[:1]), rows[:-1]]) for rows in (below, shrink))
        seen = row_norms(torch.stack([on + shrink_before * above, above, below], dim=-1))
    else:
        seen = torch.stack([step.seen for step in steps if step.seen is not None])
    return live.sum(0), torch.where(stepped, seen, 0.0).amax(0)


def change_of_unit(norm: Tensor, middle: float) -> Tensor | None:
    """Powers of two `(B,)` that bring the norms which have left `1/middle .. middle` back to 1; None where all are 1.

    What a row is divided by depends on that row alone, and changes no digit.
    """
    outside = ~((norm > 1 / middle) & (norm < middle))
    return None if known_none(outside) else torch.where(outside, power_of_two(norm), 1.0)


def plain_norms(x: Tensor) -> Tensor:
    """Euclidean norms `(B,)` in one pass, for rows whose squares are in range, as those of a scaled residual are."""
    return torch.linalg.vector_norm(x, dim=-1)
