"""Nystrom's low-rank approximation of a symmetric matrix, from products with it alone, batched over tasks.

    A_r = Y (O'Y)^+ Y' = U L U',    Y = A O,

for a test matrix O `(N, r)`, the same for every task. `columns` takes r columns of the unit matrix, so that Y is r
columns of A (Hataya and Yamada 2023); `gaussian` an orthonormal basis of r random vectors (Frangella, Tropp and Udell
2023).

From the eigenvalues D of the core O'Y = V D V', those of rounding's size left out, Y V |D|^-1/2 = Q R and the
eigenvalues of R sign(D) R' = W L W', U = Q W. For a semidefinite A this does what the shift of Frangella et al. does,
which keeps a Cholesky factor of the core from breaking down, and it does for an indefinite A too. The r products are
made in the arithmetic of the solve, the factors of Y in float64: the approximation is cruder than that by far.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.arithmetic.precision import PRECISIONS, arithmetic_of
from diagnostics.solvers import ROUNDING_FLOOR, MatVec


@dataclass(frozen=True)
class Sketch:
    """`A_r = U L U'`: `vectors (B, N, r)` U, orthonormal columns, and `values (B, r)`, in the arithmetic of the solve.

    `core (B, r)`: the eigenvalues of O'AO, for an orthonormal O, so that one below zero shows a negative one of A.
    `norm (B,)`: the largest |L|. A value of zero is one that was left out. Rows that are not finite are zero.
    """

    vectors: Tensor
    values: Tensor
    core: Tensor
    norm: Tensor

    def coordinates(self, v: Tensor) -> Tensor:
        """`U'v (B, r)` of `v (B, N)`."""
        return (self.vectors.mT @ v.unsqueeze(-1)).squeeze(-1)

    def spanned(self, coordinates: Tensor) -> Tensor:
        """`U c (B, N)` of `c (B, r)`."""
        return (self.vectors @ coordinates.unsqueeze(-1)).squeeze(-1)


def columns(size: int, rank: int, seed: int) -> Tensor:
    """`rank` distinct columns `(N, rank)` of the unit matrix, drawn from the seed."""
    chosen = torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:rank]
    return torch.eye(size, dtype=torch.float64)[:, chosen]


def gaussian(size: int, rank: int, seed: int) -> Tensor:
    """An orthonormal basis `(N, rank)` of the span of random vectors, drawn from the seed."""
    draw = torch.randn(size, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(draw).Q


def sketched(product: MatVec, test: Tensor, like: Tensor, eps: float) -> Sketch:
    """The approximation from `product` with A and an orthonormal `test (N, r)`: r products.

    `like (B, N)` gives shape and arithmetic, of epsilon `eps`.
    """
    arithmetic = PRECISIONS[arithmetic_of(like)]
    entered = arithmetic.enter(test.to(like.device))
    test = arithmetic.leave(entered)
    y = torch.stack(
        [arithmetic.leave(product(torch.zeros_like(like) + entered[:, j])) for j in range(test.shape[1])], dim=-1
    )
    y = torch.where(y.isfinite().all(-1, keepdim=True).all(-2, keepdim=True), y, 0.0)
    size = y.abs().amax((-2, -1), keepdim=True)  # so that nothing overflows on the way
    y = y / torch.where(size > 0, size, 1.0)

    core = test.mT @ y
    found, basis = torch.linalg.eigh((core + core.mT) / 2)
    cutoff = ROUNDING_FLOOR * max(eps, torch.finfo(torch.float64).eps) * torch.linalg.matrix_norm(y).unsqueeze(-1)
    used = found.abs() > cutoff
    root = torch.where(used, found.abs(), 1.0).rsqrt() * used
    orthonormal, triangle = torch.linalg.qr(y @ basis * root.unsqueeze(-2))
    signed = triangle * found.sign().unsqueeze(-2) @ triangle.mT
    values, turned = torch.linalg.eigh((signed + signed.mT) / 2)
    values = torch.where(values.abs() > cutoff, values, 0.0) * size.squeeze(-1)
    return Sketch(
        arithmetic.enter(orthonormal @ turned),
        arithmetic.enter(values),
        arithmetic.enter(found * size.squeeze(-1)),
        arithmetic.enter(values.abs().amax(-1)),
    )
