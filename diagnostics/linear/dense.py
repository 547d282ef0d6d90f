"""The exact solve, from the Hessian written out: the oracle for the others, and the default for small problems."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diagnostics import outcome
from diagnostics.arithmetic.precision import epsilon
from diagnostics.outcome import Outcome
from diagnostics.rows import finite_rows, row_norms
from diagnostics.solvers import LinearSolution, MatVec, exponent_scale, solution_of, solvers

LARGEST = 4096  # columns; beyond it one task's matrix alone takes over 128 MiB in float64


@solvers.register("dense")
@dataclass(frozen=True)
class Dense:
    """LU solve of `H + damping I`, whose columns are N products with H; of its symmetric part if H is symmetric.

    A symmetric H that is indefinite is solved like any other, and the outcome says `NEGATIVE_CURVATURE`; a singular
    one says `SINGULAR`. Raises `ValueError` for more than 4096 unknowns.
    """

    damping: float = 0.0

    def path(
        self, matvec: MatVec, right_hand_side: Tensor, transposed: MatVec | None = None
    ) -> tuple[LinearSolution, ...]:
        """The one solution there is."""
        scale = exponent_scale(right_hand_side)
        b = right_hand_side / scale
        unit = torch.eye(b.shape[1], dtype=b.dtype, device=b.device)
        matrix = written_out(matvec, b, symmetric=transposed is None) + self.damping * unit
        usable = (finite_rows(matrix).all(-1) & finite_rows(b)).view(-1, 1)
        safe = torch.where(usable.unsqueeze(-1), matrix, unit)
        factors, pivots, _ = torch.linalg.lu_factor_ex(safe)
        x = torch.linalg.lu_solve(factors, pivots, torch.where(usable, b, 0.0).unsqueeze(-1)).squeeze(-1)

        diagonal = factors.diagonal(dim1=-2, dim2=-1).abs()
        eps = epsilon(b)
        indefinite = torch.zeros_like(usable.squeeze(-1))
        if transposed is None:
            indefinite = torch.linalg.cholesky_ex(safe).info > 0
        singular = diagonal.amin(-1) <= b.shape[1] * eps * diagonal.amax(-1)  # a pivot of zero too, where x is infinite
        codes = outcome.graver(
            outcome.where(indefinite, Outcome.NEGATIVE_CURVATURE),
            outcome.where(singular, Outcome.SINGULAR),
            outcome.where(~usable.squeeze(-1) | (~finite_rows(x) & ~singular), Outcome.NOT_FINITE),
        )
        residual = row_norms(b - (safe @ x.unsqueeze(-1)).squeeze(-1))
        solution = solution_of(b, scale, x, residual, codes, 0, torch.full_like(codes, b.shape[1]))
        return (replace(solution, value=torch.where(usable, solution.value, torch.nan)),)


def written_out(matvec: MatVec, like: Tensor, *, symmetric: bool = True) -> Tensor:
    """The matrix `(B, N, N)` behind a product, column by column; `like (B, N)` gives shape and arithmetic.

    Of one that is `symmetric` the symmetric part, which is nearer to it than what rounding made of the product.
    """
    size = like.shape[1]
    if size > LARGEST:
        raise ValueError(f"dense: expected at most {LARGEST} unknowns, found {size}; use the solver 'cg'")
    unit = torch.eye(size, dtype=like.dtype, device=like.device)
    matrix = torch.stack([matvec(unit[column].expand_as(like)) for column in range(size)], dim=-1)
    return (matrix + matrix.mT) / 2 if symmetric else matrix
