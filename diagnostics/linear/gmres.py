"""GMRES (Saad and Schultz 1986), batched over tasks: any matrix, symmetric or not.

The Arnoldi process writes H in an orthonormal basis v_1 = b / |b|, v_2, ...,

    eta_(k+1,k) v_(k+1) = H v_k - sum_(i <= k) eta_(i,k) v_i,   eta_(i,k) = v_i' H v_k,

and x_k = V_k y is the vector of span(v_1 .. v_k) whose residual |b - H x_k| is least. Rotations Q_k make the Hessenberg
matrix upper triangular, Q_k eta = [R_k; 0], so that R_k y = |b| Q_k e_1, its first k entries; the last is the residual.

1. Every H v_k is made orthogonal to the basis twice, by all of it at once: once is not enough where H v_k nearly lies
   in the span, and twice is (Giraud, Langou, Rozloznik and van den Eshof 2005). The solve is then backward stable, to
   eps (|H| |x| + |b|), whatever the condition number.
2. Q_k is kept as one matrix, so that a new column is rotated by one product, and not by k - 1 rotations in turn.
3. The column of a row that has ended is that of the identity, and its right-hand side 0: its y there is 0, and x stays.
4. |R_kk| is at least the smallest singular value of H, so that one of nothing shows a singular H.
5. For a symmetric H, eta is tridiagonal, and a negative pivot of it shows a negative eigenvalue, as in MINRES.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics import outcome
from diagnostics.outcome import Outcome
from diagnostics.rows import row_norms
from diagnostics.solvers import ROUNDING_FLOOR, LinearSolution, MatVec, all_ended, check_budget, posed, solvers


@solvers.register("gmres")
@dataclass(frozen=True)
class GeneralisedMinimalResidual:
    """GMRES from a zero start, never restarted, solving `(H + damping I) x = b` for any H; H' is not needed.

    It keeps a basis: `iterations + 1` vectors `(B, N)`, fewer where all rows end before. A row ends when the
    recursion's residual is at most `max(relative_tolerance, eps) |b|`, after N iterations, or after `iterations`.
    `keep` names the iteration counts whose iterates are returned by `path`; the last is always kept. The residual that
    is reported is formed anew from x. A row does not depend on the others, but on how many there are it may, by
    rounding: the kernels of batched products choose the order of their sums by that.

    `SINGULAR`: H is singular to working precision and b outside its range; the value is then the iterate before that
    showed. A symmetric H that is indefinite is solved, and the outcome says `NEGATIVE_CURVATURE` where the Krylov space
    has shown it. Raises `ValueError` for settings that mean nothing.
    """

    iterations: int
    keep: tuple[int, ...] = ()
    relative_tolerance: float = 0.0
    damping: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        check_budget("GMRES", self.iterations, self.keep, relative_tolerance=self.relative_tolerance)

    def path(
        self, matvec: MatVec, right_hand_side: Tensor, transposed: MatVec | None = None
    ) -> tuple[LinearSolution, ...]:
        """One `LinearSolution` for each iteration count in `keep`, and one for `iterations`."""
        system = posed(matvec, right_hand_side, self.damping, self.relative_tolerance)
        b, b_norm = system.b, system.b_norm
        done = torch.maximum(system.tolerance, system.eps * b_norm)
        frozen = ~(b_norm > done)  # also a zero right-hand side, and one that is not finite
        negative, stuck = torch.zeros_like(frozen), torch.zeros_like(frozen)
        spent = torch.zeros_like(frozen, dtype=torch.long)

        zero, one = torch.zeros_like(b_norm), torch.ones_like(b_norm)
        basis = torch.where(frozen.unsqueeze(-1), 0.0, b / torch.where(frozen, one, b_norm).unsqueeze(-1)).unsqueeze(1)
        rotations = one.view(-1, 1, 1)  # Q_k (B, k + 1, k + 1)
        columns: list[Tensor] = []  # of R, the k-th (B, k)
        beta, pivot, h_norm = zero, one, zero  # |H| >= |Hv|, the largest seen
        kept: dict[int, LinearSolution] = {}

        def solution(count: int) -> LinearSolution:
            x = combined(basis, columns, b_norm.unsqueeze(-1) * rotations[:, :-1, 0])
            # A singular matrix that rounding errors hide makes x explode: |b| is within a few roundings of |H| |x|.
            exploded = ROUNDING_FLOOR * system.eps * h_norm * row_norms(x) > b_norm
            codes = outcome.graver(
                outcome.where(negative, Outcome.NEGATIVE_CURVATURE), outcome.where(exploded, Outcome.SINGULAR)
            )
            return system.solution(x, count, spent, h_norm, codes, singular=stuck)

        wanted = sorted({*self.keep, self.iterations})
        if 0 in wanted:
            kept[0] = solution(0)
        for count in range(1, self.iterations + 1):
            if not all_ended(frozen):
                hv, spent = system.product(basis[:, -1]), spent + (~frozen).long()
                h_norm = torch.where(frozen, h_norm, torch.maximum(h_norm, row_norms(hv)))
                nothing = ROUNDING_FLOOR * system.eps * h_norm
                ahead, eta = orthogonalised(hv, basis)
                beta_before, beta = beta, row_norms(ahead)

                if transposed is None:
                    # Shifted up by a few roundings: a negative pivot is none of theirs.
                    pivot = eta[:, -1] + nothing - beta_before / torch.where(pivot > 0, pivot, one) * beta_before
                    negative = negative | (~frozen & (pivot < 0))

                column = (rotations @ eta.unsqueeze(-1)).squeeze(-1)
                gamma = row_norms(torch.stack([column[:, -1], beta], dim=-1))
                hopeless = ~(gamma > nothing)
                stuck, frozen = stuck | (~frozen & hopeless), frozen | hopeless
                usable = torch.where(frozen, one, gamma)
                cosine, sine = (
                    torch.where(frozen, zero, column[:, -1] / usable),
                    torch.where(frozen, one, beta / usable),
                )
                above = torch.where(frozen.unsqueeze(-1), 0.0, column[:, :-1])
                columns.append(torch.cat([above, usable.unsqueeze(-1)], dim=-1))
                rotations = rotated(rotations, cosine, sine)

                # The Krylov space holds no more than it does: it is invariant, or the whole.
                complete = ~(beta > system.eps * h_norm) | (count >= b.shape[1])
                frozen = frozen | complete | ~(b_norm * rotations[:, -1, 0].abs() > done)
                ahead = ahead / torch.where(frozen, one, beta).unsqueeze(-1)
                basis = torch.cat([basis, torch.where(frozen.unsqueeze(-1), 0.0, ahead).unsqueeze(1)], dim=1)
            if count in wanted:
                kept[count] = solution(count)
        return tuple(kept[count] for count in wanted)


def orthogonalised(v: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """What of `v (B, N)` is orthogonal to the `basis (B, k, N)`, and the coefficients `(B, k)` of the rest in it."""
    coefficients = torch.zeros_like(basis[:, :, 0])
    for _ in range(2):
        more = basis @ v.unsqueeze(-1)
        v = v - (basis.mT @ more).squeeze(-1)
        coefficients = coefficients + more.squeeze(-1)
    return v, coefficients


def rotated(rotations: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """`Q_k (B, k + 1, k + 1)` from `Q_(k-1) (B, k, k)`: its last row and a new one, turned into each other."""
    last, corner = rotations[:, -1:], torch.stack([sine, cosine], dim=-1).unsqueeze(-1)
    turned = torch.cat([cosine.view(-1, 1, 1) * last, -sine.view(-1, 1, 1) * last], dim=1)
    above = torch.cat([rotations[:, :-1], torch.zeros_like(rotations[:, :-1, :1])], dim=-1)
    return torch.cat([above, torch.cat([turned, corner], dim=-1)], dim=1)


def combined(basis: Tensor, columns: list[Tensor], right: Tensor) -> Tensor:
    """`V y (B, N)` where `R y = right (B, k)`, R given by its columns.

    Term by term, so that a row's terms of 0, after it has ended, change no bit of it.
    """
    x = torch.zeros_like(basis[:, 0])
    for k in range(len(columns) - 1, -1, -1):
        y = (right[:, k] / columns[k][:, k]).unsqueeze(-1)
        right = right[:, :k] - y * columns[k][:, :k]
        x = x + y * basis[:, k]
    return x
