"""The Nystrom inverse (Hataya and Yamada 2023), batched over tasks: a direct solve with a low-rank approximation.

With H = A + shift I and r columns of A, A_r = A_c (A_cc)^+ A_c' = U L U' (see `sketch`), and rho = shift + damping,

    x = (A_r + rho I)^-1 b = U (L + rho)^-1 U'b + (b - U U'b) / rho.

That is Woodbury's formula (I - A_c (rho A_cc + A_c'A_c)^-1 A_c') b / rho without its difference of large numbers. Where
the error of the approximation is e = |A - A_r|, for a semidefinite A,

    |(A_r + rho I)^-1 - (A + rho I)^-1| <= e / (rho (rho + e)).

What rho is matters more than the rank. The paper puts a number of its choice there, which damps a Hessian that has no
proximal term. Here H has one, H = A + strength I: with `shift` the strength, what is approximated is A, whose spectrum
falls off, and the identity is kept exactly, so that the larger the strength, the better the solution. Without, all
eigenvalues of H that the r columns do not catch would count as 0 and not as the strength.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics import outcome
from diagnostics.checks import at_least, whole_number
from diagnostics.linear.dense import Dense
from diagnostics.linear.sketch import columns, sketched
from diagnostics.outcome import Outcome
from diagnostics.solvers import ROUNDING_FLOOR, LinearSolution, MatVec, posed, require_symmetric, solvers


@solvers.register("nystrom")
@dataclass(frozen=True)
class Nystrom:
    """`(A_r + (shift + damping) I)^-1 b` for `H = A + shift I`, symmetric: one solution, from `rank` products.

    The system is `(H + damping I) x = b`, as everywhere, and the residual is that of this system: it says how good the
    approximation is, and the outcome is `UNFINISHED` unless it is of rounding's size, which it hardly ever is. The r
    columns are drawn from `seed`. A rank of N or more leaves nothing out, and is the dense solve.

    `NEGATIVE_CURVATURE`: the r columns show a negative eigenvalue of H; one that they do not meet is not known.
    `SINGULAR`: A_r + rho I is. Raises `ValueError` for settings that mean nothing, and where rank < N for a
    `shift + damping` that is not above 0.
    """

    rank: int = 20
    shift: float = 0.0
    damping: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        whole_number("Nystrom rank", self.rank, 1)
        whole_number("Nystrom seed", self.seed, 0)
        at_least("Nystrom shift", self.shift, 0.0)
        at_least("Nystrom damping", self.damping, 0.0)

    def path(
        self, matvec: MatVec, right_hand_side: Tensor, transposed: MatVec | None = None
    ) -> tuple[LinearSolution, ...]:
        """The one solution there is."""
        require_symmetric("Nystrom", transposed)
        size, rho = right_hand_side.shape[1], self.shift + self.damping
        if self.rank >= size:
            return Dense(self.damping).path(matvec, right_hand_side)
        if not rho > 0:
            raise ValueError(
                f"Nystrom: expected shift + damping > 0 for rank {self.rank} of {size} unknowns, found {rho:g}; "
                "set shift to the strength of the proximal term"
            )
        system = posed(matvec, right_hand_side, self.damping)
        b = system.b
        sketch = sketched(lambda v: matvec(v) - self.shift * v, columns(size, self.rank, self.seed), b, system.eps)

        low = sketch.values + rho
        nothing = ROUNDING_FLOOR * system.eps * (sketch.norm + rho)
        singular = (low.abs() <= nothing.unsqueeze(-1)).any(-1)
        usable = torch.where(low.abs() > nothing.unsqueeze(-1), low, 1.0)
        inside = sketch.coordinates(b)
        x = sketch.spanned(inside / usable) + (b - sketch.spanned(inside)) / rho
        found = outcome.graver(
            outcome.where(sketch.core.amin(-1) + rho < -nothing, Outcome.NEGATIVE_CURVATURE),
            outcome.where(singular, Outcome.SINGULAR),
        )
        spent = torch.full_like(found, self.rank)
        return (system.solution(x, 0, spent, sketch.norm + rho, found),)
