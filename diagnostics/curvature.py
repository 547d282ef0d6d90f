"""The extreme eigenvalues of the inner Hessian, which decide whether the implicit formula applies.

Lanczos (1950) with full reorthogonalisation, batched over tasks: after m products with H the extreme eigenvalues of
the m x m tridiagonal T lie inside the spectrum of H. A negative one therefore *proves* an indefinite H, up to
rounding; a positive smallest one is evidence, with `uncertainty` (the residual norm |H y - theta y|) as a measure of
how good.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.checks import whole_number
from diagnostics.draws import normal
from diagnostics.linear.dense import written_out
from diagnostics.rows import row_norms
from diagnostics.solvers import MatVec


@dataclass(frozen=True)
class Spectrum:
    """Extreme eigenvalues `(B,)` and the residual norms `(B,)` of the two Ritz pairs; NaN where H is not finite."""

    smallest: Tensor
    largest: Tensor
    smallest_uncertainty: Tensor
    largest_uncertainty: Tensor
    products: int


def lanczos(matvec: MatVec, like: Tensor, iterations: int = 60, seed: int = 0) -> Spectrum:
    """Extreme eigenvalues of the symmetric operator `matvec`, from one random start; `like (B, N)` gives the shape.

    With `iterations >= N` the Krylov space is the whole space and the result is exact to rounding.
    """
    rows, size = like.shape
    whole_number("Lanczos iterations", iterations, 1)
    budget = min(iterations, size)
    # One start for every task: a task's result is its own. All are sent at once, since an accelerator waits for each.
    starts = torch.stack([normal(seed, step, size) for step in range(budget)]).to(like)
    start = starts[0].expand(rows, -1)
    basis = torch.empty(rows, budget, size, dtype=like.dtype, device=like.device)
    basis[:, 0] = start / row_norms(start).unsqueeze(-1)
    diagonal, beside = [], []
    for step in range(budget):
        image = matvec(basis[:, step])
        diagonal.append((basis[:, step] * image).sum(-1))
        span = basis[:, : step + 1]
        for _ in range(2):  # twice is enough: once leaves directions of size eps * |H| behind
            image = image - ((span @ image.unsqueeze(-1)).mT @ span).squeeze(1)
        norm = row_norms(image)
        beside.append(norm)
        if step + 1 < budget:
            # An invariant subspace has been found where the norm is rounding error; any vector then goes on, uncoupled.
            scale = torch.stack(diagonal).abs().amax(0) + torch.stack(beside).amax(0)
            found = norm <= 100 * torch.finfo(like.dtype).eps * scale
            fresh = starts[step + 1].expand(rows, -1)
            for _ in range(2):
                fresh = fresh - ((span @ fresh.unsqueeze(-1)).mT @ span).squeeze(1)
            beside[-1] = torch.where(found, 0.0, norm)
            following = torch.where(found.unsqueeze(-1), fresh, image)
            basis[:, step + 1] = following / row_norms(following).unsqueeze(-1)
    return _ritz(torch.stack(diagonal, -1), torch.stack(beside, -1), budget)


def dense_spectrum(matvec: MatVec, like: Tensor) -> Spectrum:
    """Extreme eigenvalues from the Hessian written out: exact to rounding, and only for small problems."""
    matrix = written_out(matvec, like)
    usable = matrix.isfinite().all(-1).all(-1)
    values = torch.linalg.eigvalsh(torch.where(usable.view(-1, 1, 1), matrix, 0.0))
    smallest = torch.where(usable, values[:, 0], torch.nan)
    rounding = torch.finfo(like.dtype).eps * matrix.shape[-1] * values.abs().amax(-1)
    return Spectrum(smallest, torch.where(usable, values[:, -1], torch.nan), rounding, rounding, like.shape[1])


def _ritz(diagonal: Tensor, beside: Tensor, products: int) -> Spectrum:
    """The extreme eigenvalues of the tridiagonal matrices `(B, m)`, and the residual norms of their Ritz vectors."""
    off = beside[:, :-1]
    tridiagonal = torch.diag_embed(diagonal) + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    usable = tridiagonal.isfinite().all(-1).all(-1)
    values, vectors = torch.linalg.eigh(torch.where(usable.view(-1, 1, 1), tridiagonal, 0.0))
    bounds = (beside[:, -1:] * vectors[:, -1, :]).abs()

    def known(x: Tensor) -> Tensor:
        return torch.where(usable, x, torch.nan)

    return Spectrum(known(values[:, 0]), known(values[:, -1]), known(bounds[:, 0]), known(bounds[:, -1]), products)
