"""What a linear solver is given and gives back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

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
