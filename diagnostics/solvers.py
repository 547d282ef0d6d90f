"""What a linear solver is given and gives back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from diagnostics.checks import whole_number
from diagnostics.registry import Registry
from diagnostics.rows import row_norms

MatVec = Callable[[Tensor], Tensor]  # v (B, N) -> H v (B, N), row by row


@dataclass(frozen=True)
class LinearSolution:
    """One approximate solution of `H x = b` a task, and how good it is.

    `value (B, N)`; `outcome (B,)` codes; `residual (B,)`: `|b - H x| / |b|`, computed afresh from `value`;
    `iterations`: the budget under which this value stands (0 for a direct solve); `products (B,)`: the Hessian-vector
    products that a task took, the check of its residual apart.
    """

    value: Tensor
    outcome: Tensor
    residual: Tensor
    iterations: int
    products: Tensor


class LinearSolver(Protocol):
    """Solves `H x = b` for every task at once; symmetric H, of which only products are needed."""

    def path(self, matvec: MatVec, right_hand_side: Tensor) -> tuple[LinearSolution, ...]:
        """The solutions at each budget that the solver was asked to keep; the last is the full one."""
        ...


solvers: Registry[Callable[..., LinearSolver]] = Registry("linear solver", "diagnostics.linear")


def exponent_scale(b: Tensor) -> Tensor:
    """A power of two `(B, 1)` of the size of each row's norm; 1 for rows that are zero or not finite.

    Dividing by it is exact, so that a right-hand side of 1e-30 is solved to the same digits as one of 1.
    """
    norm = row_norms(b).unsqueeze(-1)
    usable = (norm > 0) & norm.isfinite()
    _, exponent = torch.frexp(torch.where(usable, norm, 1.0))
    return torch.ldexp(torch.ones_like(norm), exponent - 1)


def check_budget(name: str, iterations: int, keep: Sequence[int], **tolerances: float) -> None:
    """Raise `ValueError` for iterations, iterates to keep or tolerances that mean nothing."""
    whole_number(f"{name} iterations", iterations, 0)
    if any(not 0 <= kept <= iterations for kept in keep):
        raise ValueError(f"{name}: expected iterations to keep from 0 to {iterations}, found {keep}")
    for what, value in tolerances.items():
        if not value >= 0:
            raise ValueError(f"{name}: expected {what} >= 0, found {value}")


def solution_of(
    b: Tensor, scale: Tensor, x: Tensor, residual: Tensor, codes: Tensor, iterations: int, products: Tensor
) -> LinearSolution:
    """The solution for the right-hand side `scale b`, from x for `b (B, N)` and the norm `(B,)` of what x leaves of b.

    NaN where b is not finite.
    """
    norm = row_norms(b)
    relative = torch.where(norm > 0, residual / torch.where(norm > 0, norm, 1.0), 0.0)
    value = torch.where(b.isfinite().all(-1, keepdim=True), x * scale, torch.nan)
    return LinearSolution(value, codes, relative, iterations, products)
