"""MINRES (Paige and Saunders 1975), batched over tasks: symmetric systems, definite or not.

The Lanczos process writes H in an orthonormal basis v_1 = b / |b|, v_2, ... as a tridiagonal matrix,

    beta_(k+1) v_(k+1) = H v_k - alpha_k v_k - beta_k v_(k-1),   alpha_k = v_k' H v_k,

and x_k is the vector of span(v_1 .. v_k) whose residual |b - H x_k| is least. Rotations make the tridiagonal matrix
upper triangular, one column an iteration, with gamma_k on its diagonal; x_k = x_(k-1) + phi_k w_k, where
w_k = (v_k - delta_k w_(k-1) - epsilon_k w_(k-2)) / gamma_k, and the residual is a product of sines.

Nothing here divides by a curvature p'Hp, so that an indefinite H is solved like any other. What the tridiagonal matrix
says of H on the way:
1. its pivots d_k = alpha_k - beta_k^2 / d_(k-1) are positive as long as it is positive definite, so that a negative one
   shows a negative eigenvalue of H, for a few operations on one number a task. They are those of the matrix shifted up
   by 10 eps |H|, so that rounding errors do not make a semidefinite H indefinite;
2. |H r_(k-1)| <= gamma_k |r_(k-1)|, so that a gamma_k of nothing shows a singular H with b outside its range: x_(k-1)
   is then a least-squares solution, and no later x is better. Where rounding errors hide that, x_k explodes instead.

The recursion for w lets rounding errors grow like the square of the condition number (Sleijpen, van der Vorst and
Modersitzki 2000). So a row that has ended forms its residual anew and starts again from there, unless that is good to
rounding or not half of what it was at the start before: each start solves for what is left to fewer digits.
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
    known_none,
    posed,
    require_symmetric,
    solvers,
)


@solvers.register("minres")
@dataclass(frozen=True)
class MinimalResidual:
    """MINRES from a zero start, solving `(H + damping I) x = b` for a symmetric H, indefinite or not.

    It ends a row when the recursion's residual is at most `relative_tolerance |b|`, or after `iterations`. `keep` names
    the iteration counts whose iterates are returned by `path`; the last is always kept. The residual that is reported
    is formed anew from x.

    An indefinite H is solved, and the outcome says `NEGATIVE_CURVATURE` where the tridiagonal matrix has shown it; a
    negative eigenvalue that the Krylov space of b has not met by the time the row ends, or one of no more than a few
    roundings of |H|, is not known. `SINGULAR`: H is singular and b outside its range; the value is then a
    least-squares solution, to the root of eps. A singular system that has a solution is solved, and OK. `products`
    counts one more than the iterations at each end of a row, where its residual is formed anew to see whether to start
    again. Raises `ValueError` for settings that mean nothing.
    """

    iterations: int
    keep: tuple[int, ...] = ()
    relative_tolerance: float = 0.0
    damping: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        check_budget("MINRES", self.iterations, self.keep, relative_tolerance=self.relative_tolerance)

    def path(
        self, matvec: MatVec, right_hand_side: Tensor, transposed: MatVec | None = None
    ) -> tuple[LinearSolution, ...]:
        """One `LinearSolution` for each iteration count in `keep`, and one for `iterations`."""
        require_symmetric("MINRES", transposed)
        system = posed(matvec, right_hand_side, self.damping, self.relative_tolerance)
        product, b, b_norm, done = system.product, system.b, system.b_norm, system.done
        frozen = ~(b_norm > done)  # also a zero right-hand side, and one that is not finite
        negative, stuck = torch.zeros_like(frozen), torch.zeros_like(frozen)
        spent = torch.zeros_like(frozen, dtype=torch.long)

        zero, one = torch.zeros_like(b_norm), torch.ones_like(b_norm)
        x, v_before, w_before, w = (torch.zeros_like(b) for _ in range(4))
        v = b / torch.where(frozen, one, b_norm).unsqueeze(-1)
        cosine, sine, residual, started = -one, zero, b_norm, b_norm
        beta, delta_bar, epsilon_next = zero, zero, zero
        pivot, h_norm = one, zero  # |H| >= |Hv|, the largest seen
        kept: dict[int, LinearSolution] = {}

        def solution(count: int) -> LinearSolution:
            indefinite = outcome.where(negative, Outcome.NEGATIVE_CURVATURE)
            return system.solution(x, count, spent, h_norm, indefinite, singular=stuck)

        wanted = sorted({*self.keep, self.iterations})
        if 0 in wanted:
            kept[0] = solution(0)
        for count in range(1, self.iterations + 1):
            if not all_ended(frozen):
                # Lanczos: the next column of the tridiagonal matrix, and the next v, times its length.
                hv, spent = product(v), spent + (~frozen).long()
                h_norm = torch.where(frozen, h_norm, torch.maximum(h_norm, row_norms(hv)))
                nothing = ROUNDING_FLOOR * system.eps * h_norm
                ahead = hv - beta.unsqueeze(-1) * v_before
                alpha = (v * ahead).sum(-1)
                ahead = ahead - alpha.unsqueeze(-1) * v
                beta_next = row_norms(ahead)

                # Pivots of the matrix shifted up by a few roundings: a negative one is none of theirs.
                pivot = alpha + nothing - beta / torch.where(pivot > 0, pivot, one) * beta
                negative = negative | (~frozen & (pivot < 0))

                # The rotation before, then the one that takes beta_next away.
                delta = cosine * delta_bar + sine * alpha
                gamma_bar = sine * delta_bar - cosine * alpha
                epsilon_here, epsilon_next = epsilon_next, sine * beta_next
                delta_bar = -cosine * beta_next
                gamma = row_norms(torch.stack([gamma_bar, beta_next], dim=-1))
                usable = torch.where(gamma > 0, gamma, one)
                cosine, sine = gamma_bar / usable, beta_next / usable
                w_next = v - epsilon_here.unsqueeze(-1) * w_before - delta.unsqueeze(-1) * w
                w_before, w = w, w_next / usable.unsqueeze(-1)
                x_next = x + (cosine * residual).unsqueeze(-1) * w

                # No later x is better, or |b| is within a few roundings of |H| |x|.
                hopeless = ~(gamma > nothing) | (nothing * row_norms(x_next) > b_norm)
                stuck = stuck | (~frozen & hopeless)
                frozen = frozen | hopeless
                x = torch.where(frozen.unsqueeze(-1), x, x_next)
                residual = torch.where(frozen, residual, sine * residual)
                beta = beta_next
                v_before, v = v, ahead / torch.where(beta > 0, beta, one).unsqueeze(-1)

                ended = ~frozen & ~(residual > done)
                frozen = frozen | ended
                if not known_none(ended):  # start again where that helps; on an accelerator, look each time
                    rest = b - product(x)
                    spent = spent + ended.long()
                    fresh = row_norms(rest)
                    good = torch.maximum(system.tolerance, system.rounding(row_norms(x), h_norm))
                    again = ended & (fresh > good) & (fresh < started / 2)
                    at = again.unsqueeze(-1)
                    frozen = frozen & ~again
                    started = torch.where(again, fresh, started)
                    residual = torch.where(again, fresh, residual)
                    cosine, sine = torch.where(again, -one, cosine), torch.where(again, zero, sine)
                    beta, delta_bar = torch.where(again, zero, beta), torch.where(again, zero, delta_bar)
                    epsilon_next, pivot = torch.where(again, zero, epsilon_next), torch.where(again, one, pivot)
                    v = torch.where(at, rest / torch.where(again, fresh, one).unsqueeze(-1), v)
                    w, w_before = (torch.where(at, 0.0, old) for old in (w, w_before))
            if count in wanted:
                kept[count] = solution(count)
        return tuple(kept[count] for count in wanted)
