"""What a linear solver is given and gives back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from diagnostics import outcome
from diagnostics.arithmetic.precision import epsilon
from diagnostics.checks import whole_number
from diagnostics.outcome import Outcome
from diagnostics.registry import Registry
from diagnostics.rows import finite_rows, row_norms

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
    """Solves `H x = b` for every task at once, from products with H alone.

    H is symmetric, unless `transposed`, the product with H', is given: that says that it is not. A solver for symmetric
    matrices refuses it then with `ValueError`.
    """

    def path(
        self, matvec: MatVec, right_hand_side: Tensor, transposed: MatVec | None = None
    ) -> tuple[LinearSolution, ...]:
        """The solutions at each budget that the solver was asked to keep; the last is the full one."""
        ...


solvers: Registry[Callable[..., LinearSolver]] = Registry("linear solver", "diagnostics.linear")

ROUNDING_FLOOR = 10.0  # in units of eps (|H| |x| + |b|): a residual this small is as good as the arithmetic gives
ANY_MATRIX = ("cg_normal", "dense", "gmres", "neumann")  # the solvers for matrices that are not symmetric


def require_symmetric(name: str, transposed: MatVec | None) -> None:
    """Raise `ValueError` where a product with H' says that H is not symmetric."""
    if transposed is not None:
        raise ValueError(
            f"{name}: expected a symmetric matrix, found one with a product for its transpose; use one of the solvers "
            f"{', '.join(ANY_MATRIX)}"
        )


@dataclass(frozen=True)
class System:
    """`(H + damping I) x = b` as an iteration meets it, with what it may leave of b.

    `product`: that with `H + damping I`; `b (B, N)`: the right-hand side in units of `scale (B, 1)`, see
    `exponent_scale`; `b_norm (B,)`. A row is solved whose `|b - H x|` is at most `tolerance (B,)`. At `done (B,)`,
    which is eps^2 |b| or more, x cannot change any more, for any H not singular to working precision.
    """

    product: MatVec
    b: Tensor
    scale: Tensor
    b_norm: Tensor
    tolerance: Tensor
    done: Tensor
    eps: float

    def rounding(self, x_norm: Tensor, h_norm: Tensor) -> Tensor:
        """The roundings `eps (|H| |x| + |b|)` that are in any `b - H x`."""
        return self.eps * (h_norm * x_norm + self.b_norm)

    def solution(
        self,
        x: Tensor,
        iterations: int,
        products: Tensor,
        h_norm: Tensor,
        *found: Tensor,
        singular: Tensor | None = None,
    ) -> LinearSolution:
        """The solution that x `(B, N)` is, its residual formed anew, and its outcome.

        `h_norm (B,)`: what is known of |H|; `found`: codes of what the iteration has met; `singular`: the rows whose
        iteration could not go on, which is no failure where x is as good as the arithmetic gives. NaN where b is not
        finite.
        """
        residual, x_norm = row_norms(self.b - self.product(x)), row_norms(x)
        rounding = self.rounding(x_norm, h_norm)
        finite = finite_rows(x) & residual.isfinite() & finite_rows(self.b)
        codes = outcome.graver(
            outcome.where(residual > torch.maximum(self.tolerance, ROUNDING_FLOOR * rounding), Outcome.UNFINISHED),
            outcome.where(~finite, Outcome.NOT_FINITE),
            *found,
        )
        if singular is not None:
            stuck = singular & (residual > torch.maximum(self.tolerance, rounding))
            codes = outcome.graver(codes, outcome.where(stuck, Outcome.SINGULAR))
        return solution_of(self.b, self.scale, x, residual, codes, iterations, products)


def posed(
    matvec: MatVec,
    right_hand_side: Tensor,
    damping: float = 0.0,
    relative_tolerance: float = 0.0,
    absolute_tolerance: float = 0.0,
) -> System:
    """The system of a product with H and a right-hand side `(B, N)`; tolerances as `ConjugateGradients` has them."""
    scale = exponent_scale(right_hand_side)
    b = right_hand_side / scale
    eps, b_norm = epsilon(b), row_norms(b)
    tolerance = relative_tolerance * b_norm
    if absolute_tolerance:
        tolerance = torch.maximum(tolerance, absolute_tolerance / scale.squeeze(-1))
    return System(damped(matvec, damping), b, scale, b_norm, tolerance, torch.maximum(tolerance, eps**2 * b_norm), eps)


def damped(matvec: MatVec, damping: float) -> MatVec:
    """The product with `H + damping I`."""
    return (lambda v: matvec(v) + damping * v) if damping else matvec


def exponent_scale(b: Tensor) -> Tensor:
    """A power of two `(B, 1)` of the size of each row's norm; 1 for rows that are zero or not finite.

    Dividing by it is exact, so that a right-hand side of 1e-30 is solved to the same digits as one of 1.
    """
    return power_of_two(row_norms(b)).unsqueeze(-1)


def power_of_two(norm: Tensor) -> Tensor:
    """The largest power of two `(B,)` that is not above a norm; 1 for norms that are zero or not finite."""
    usable = (norm > 0) & norm.isfinite()
    _, exponent = torch.frexp(torch.where(usable, norm, 1.0))
    return torch.ldexp(torch.ones_like(norm), exponent - 1)


def known_none(rows: Tensor) -> bool:
    """Whether it is known that no row `(B,)` is true.

    The answer of an accelerator would have to be waited for, which empties its queue: it is not asked, and what follows
    is done for rows that it may not concern. So it must be something that leaves those as they are.
    """
    return rows.device.type == "cpu" and not bool(rows.any())


def all_ended(frozen: Tensor) -> bool:
    """Whether it is known that every row is frozen, so that an iteration would change nothing."""
    return known_none(~frozen)


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
    value = torch.where(finite_rows(b).unsqueeze(-1), x * scale, torch.nan)
    return LinearSolution(value, codes, relative, iterations, products)
