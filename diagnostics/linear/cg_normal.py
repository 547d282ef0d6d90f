"""Conjugate gradients on the normal equations H'H x = H'b (CGLS, Hestenes and Stiefel 1952), batched over tasks.

    q = Hp;  alpha = s's / q'q;  x <- x + alpha p;  r <- r - alpha q;  s <- H'r;  p <- s + (s's new / s's old) p

from r = b, p = s = H'b. H'H is never formed, in whole or in part: q'q stands for p'H'Hp, and s is H' times the residual
of the system itself, which loses fewer digits than a recursion for s does (Bjorck, Elfving and Strakos 1998).

Any matrix will do. The price is the square of the condition number: with kappa that of H, the error of x falls like
((kappa - 1) / (kappa + 1))^k, where CG's, on a positive definite H, falls with the root of kappa. Each iteration takes
two products, H's and that of its transpose, which for a symmetric H is H once more.

q'q cannot be negative, so that an indefinite system is solved like any other. For a symmetric H the curvatures p'Hp and
r'Hr are at hand all the same, and one below zero shows a negative eigenvalue. All vectors are in units of a power of
two of their size, so that nothing underflows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics import outcome
from diagnostics.outcome import Outcome
from diagnostics.rows import row_norms
from diagnostics.solvers import (
    ROUNDING_FLOOR,
    LinearSolution,
    MatVec,
    all_ended,
    check_budget,
    damped,
    exponent_scale,
    posed,
    solvers,
)


@solvers.register("cg_normal")
@dataclass(frozen=True)
class NormalConjugateGradients:
    """CGLS from a zero start, solving `(H + damping I) x = b` for any H by way of H'H, whose condition is H's squared.

    It ends a row when the recursion's residual is at most `relative_tolerance |b|`, or after `iterations`. `keep` names
    the iteration counts whose iterates are returned by `path`; the last is always kept. `products` counts those with H
    and with its transpose: two an iteration, and one at the start. The residual that is reported is formed anew.

    `SINGULAR`: |H'r| is nothing beside |H| |r|, so that H is singular to working precision and b outside its range; the
    value is then a least-squares solution. A symmetric H that is indefinite is solved, and the outcome says
    `NEGATIVE_CURVATURE` where a direction or a residual on the way has shown it; one may go unseen. Raises `ValueError`
    for settings that mean nothing.
    """

    iterations: int
    keep: tuple[int, ...] = ()
    relative_tolerance: float = 0.0
    damping: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        check_budget(
            "CG on the normal equations", self.iterations, self.keep, relative_tolerance=self.relative_tolerance
        )

    def path(
        self, matvec: MatVec, right_hand_side: Tensor, transposed: MatVec | None = None
    ) -> tuple[LinearSolution, ...]:
        """One `LinearSolution` for each iteration count in `keep`, and one for `iterations`."""
        system = posed(matvec, right_hand_side, self.damping, self.relative_tolerance)
        product, b, symmetric = system.product, system.b, transposed is None
        adjoint = product if transposed is None else damped(transposed, self.damping)
        nothing = ROUNDING_FLOOR * system.eps

        x, r, unit = torch.zeros_like(b), b, torch.ones_like(system.scale)  # r in units of `unit`
        frozen = ~(system.b_norm > system.done)  # also a zero right-hand side, and one that is not finite
        s = adjoint(r)
        spent = (~frozen).long()
        size = exponent_scale(s)  # s and p in units of `size * unit`
        s = p = s / size
        ss, h_norm = (s * s).sum(-1), torch.where(frozen, 0.0, row_norms(s) * size.squeeze(-1) / row_norms(r))
        stuck = ~frozen & (ss == 0)
        negative = ~frozen & symmetric & ((r * s).sum(-1) * size.squeeze(-1) < -nothing * h_norm * row_norms(r) ** 2)
        frozen = frozen | stuck
        kept: dict[int, LinearSolution] = {}

        def solution(count: int) -> LinearSolution:
            indefinite = outcome.where(negative, Outcome.NEGATIVE_CURVATURE)
            return system.solution(x, count, spent, h_norm, indefinite, singular=stuck)

        wanted = sorted({*self.keep, self.iterations})
        if 0 in wanted:
            kept[0] = solution(0)
        for count in range(1, self.iterations + 1):
            if not all_ended(frozen):
                q, spent = product(p), spent + 2 * (~frozen).long()
                q_norm = row_norms(q)
                flat = q_norm == 0
                stuck, frozen = stuck | (~frozen & flat), frozen | flat
                h_norm = torch.where(frozen, h_norm, torch.maximum(h_norm, q_norm / row_norms(p)))
                usable = torch.where(frozen, 1.0, q_norm).unsqueeze(-1)
                alpha = (ss.unsqueeze(-1) / usable) * (
                    size / usable
                )  # in this order, so that a tiny H does not overflow
                hold = frozen.unsqueeze(-1)
                x = torch.where(hold, x, x + alpha * p * unit)
                if symmetric:
                    curvature = (p * (q / usable)).sum(-1)  # over |q|; less than roundings of |H| |p| make it
                    negative = negative | (~frozen & (curvature < -nothing * h_norm * row_norms(p) ** 2 / q_norm))
                r = torch.where(hold, r, r - alpha * q)
                shrunk = torch.where(hold, 1.0, exponent_scale(r))
                r, unit = r / shrunk, unit * shrunk

                r_norm, s_new = row_norms(r), adjoint(r)
                size_new = exponent_scale(s_new)
                s_new = s_new / size_new
                ss_new = (s_new * s_new).sum(-1)
                if symmetric:
                    curvature = (r * s_new).sum(-1) * size_new.squeeze(-1)
                    negative = negative | (~frozen & (curvature < -nothing * h_norm * r_norm**2))
                least = ~(row_norms(s_new) * size_new.squeeze(-1) > nothing * h_norm * r_norm)
                beta = (ss_new / torch.where(ss > 0, ss, 1.0)).unsqueeze(-1) * (size_new / size) * shrunk
                p, size = torch.where(hold, p, s_new + beta * p), torch.where(hold, size, size_new)
                ss = ss_new
                ended = ~(r_norm * unit.squeeze(-1) > system.done)
                stuck = stuck | (~frozen & least & ~ended)
                frozen = frozen | ended | least
            if count in wanted:
                kept[count] = solution(count)
        return tuple(kept[count] for count in wanted)
