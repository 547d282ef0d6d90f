"""Preconditioned conjugate gradients, batched over tasks: CG in the metric of an M near H whose inverse is cheap.

    z = M^-1 r;  alpha = r'z / p'Hp;  x <- x + alpha p;  r <- r - alpha Hp;  p <- z + (r'z new / r'z old) p

The number of iterations goes with the root of the condition number of M^-1/2 H M^-1/2 in place of H's. Two choices:

1. `diagonal`: that of H. For as many unknowns as probes or fewer, exactly, by one product with each unit vector;
   beyond, by s probes of random signs (Bekas, Kokiopoulou and Saad 2007),

       d = (1/s) sum_k v_k * (H v_k),    d_i right to (sum_(j /= i) H_ij^2 / s)^1/2.

   An entry that is smaller than its own standard error is replaced by that, so that a lucky small one does not blow up
   a coordinate; one that is still not positive, which an exact diagonal has only where H is not positive definite, by
   the mean size of the row's.
2. `nystrom`: a low-rank approximation A_r = U L U' of A = H - shift I (see `sketch`), and, with l the smallest of the
   approximation's r eigenvalues and rho = shift + damping,

       M^-1 = (l + rho) U (L + rho I)^-1 U' + (I - U U')      (Frangella, Tropp and Udell 2023)

   Large eigenvalues of A come to about l + rho; those that were not caught are left alone, and lie below. Eigenvalues
   of A_r that are not positive are left alone too, so that M is positive definite whatever H is.

Both are factored once; what that took counts as products. M decides how fast, never what is solved.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.arithmetic.precision import PRECISIONS, arithmetic_of
from diagnostics.checks import at_least, one_of, whole_number
from diagnostics.linear.cg import iterated
from diagnostics.linear.sketch import gaussian, sketched
from diagnostics.solvers import LinearSolution, MatVec, System, check_budget, posed, require_symmetric, solvers


@solvers.register("pcg")
@dataclass(frozen=True)
class PreconditionedConjugateGradients:
    """CG with a preconditioner from a zero start, solving `(H + damping I) x = b`, H symmetric and positive definite.

    `preconditioner`: `diagonal`, from `probes` products, or `nystrom`, from `rank` products with `H - shift I`, where
    `shift` is the part of H that is known to be a multiple of the identity (the strength of a proximal term). Both are
    drawn from `seed`. A row ends, and `keep` and the outcome are, as those of `ConjugateGradients`; the tolerance is on
    |b - Hx|, not on its size in the metric of M. Raises `ValueError` for settings that mean nothing.
    """

    iterations: int
    preconditioner: str = "diagonal"
    keep: tuple[int, ...] = ()
    relative_tolerance: float = 0.0
    absolute_tolerance: float = 0.0
    damping: float = 0.0
    probes: int = 32
    rank: int = 20
    shift: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        check_budget(
            "PCG", self.iterations, self.keep,
            relative_tolerance=self.relative_tolerance, absolute_tolerance=self.absolute_tolerance,
        )  # fmt: skip
        one_of("PCG preconditioner", self.preconditioner, ("diagonal", "nystrom"))
        whole_number("PCG probes", self.probes, 2)
        whole_number("PCG rank", self.rank, 1)
        whole_number("PCG seed", self.seed, 0)
        at_least("PCG shift", self.shift, 0.0)

    def path(
        self, matvec: MatVec, right_hand_side: Tensor, transposed: MatVec | None = None
    ) -> tuple[LinearSolution, ...]:
        """One `LinearSolution` for each iteration count in `keep`, and one for `iterations`."""
        require_symmetric("PCG", transposed)
        system = posed(matvec, right_hand_side, self.damping, self.relative_tolerance, self.absolute_tolerance)
        if self.preconditioner == "diagonal":
            inverse, products = self.diagonal(system)
        else:
            inverse, products = self.nystrom(matvec, system)
        return iterated(system, self.iterations, self.keep, precondition=inverse, products=products)

    def diagonal(self, system: System) -> tuple[MatVec, int]:
        """The product with the inverse of the diagonal, and the products that it took."""
        arithmetic = PRECISIONS[arithmetic_of(system.b)]
        entries = arithmetic.enter(positive(*diagonal_of(system.product, system.b, self.probes, self.seed)))
        return lambda r: r / entries, min(self.probes, system.b.shape[1])

    def nystrom(self, matvec: MatVec, system: System) -> tuple[MatVec, int]:
        """The product with the inverse of the low-rank preconditioner, and the products that it took."""
        size, rho = system.b.shape[1], self.shift + self.damping
        rank = min(self.rank, size)
        sketch = sketched(lambda v: matvec(v) - self.shift * v, gaussian(size, rank, self.seed), system.b, system.eps)
        used = sketch.values > 0
        least = torch.where(used, sketch.values, torch.inf).amin(-1, keepdim=True)
        gain = torch.where(
            used, (torch.where(used, least, 0.0) + rho) / torch.where(used, sketch.values + rho, 1.0), 1.0
        )
        return lambda r: r + sketch.spanned((gain - 1) * sketch.coordinates(r)), rank


def diagonal_of(product: MatVec, like: Tensor, probes: int, seed: int) -> tuple[Tensor, Tensor]:
    """The diagonal `(B, N)` of the matrix behind a product, and its standard error, 0 where N <= probes: it is exact.

    In float64, from products in the arithmetic of `like (B, N)`. The probes are the same in every row.
    """
    arithmetic, size = PRECISIONS[arithmetic_of(like)], like.shape[1]
    if size <= probes:
        signs = torch.eye(size, dtype=torch.float64)
    else:
        draw = torch.randint(0, 2, (probes, size), generator=torch.Generator().manual_seed(seed))
        signs = 2 * draw.double() - 1
    signs = signs.to(like.device)
    entered = arithmetic.enter(signs)
    terms = torch.stack(
        [signs[k] * arithmetic.leave(product(torch.zeros_like(like) + entered[k])) for k in range(len(signs))]
    )
    if size <= probes:
        return terms.sum(0), torch.zeros_like(terms[0])
    mean = terms.mean(0)
    return mean, ((terms - mean) ** 2).sum(0).div(probes * (probes - 1)).sqrt()


def positive(entries: Tensor, error: Tensor) -> Tensor:
    """A diagonal `(B, N)` that can be divided by: see the module for what is put in place of which entries."""
    sizes = torch.where(entries.isfinite(), entries.abs(), 0.0)
    mean = sizes.mean(-1, keepdim=True)
    entries = torch.maximum(entries, error)
    return torch.where(entries > 0, entries, torch.where(mean > 0, mean, 1.0))
