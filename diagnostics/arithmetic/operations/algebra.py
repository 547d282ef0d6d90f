"""Matrix products and factorisations."""

import math

import torch
from torch import Tensor

from diagnostics.arithmetic import factorisation, ozaki
from diagnostics.arithmetic.extended import Extended, operation, words, wrap
from diagnostics.arithmetic.operations.pointwise import add, mul

aten = torch.ops.aten


@operation(aten.bmm.default)
def bmm(x: Tensor, y: Tensor) -> Extended:
    """Products of `(B, m, k)` and `(B, k, n)`."""
    if x.shape[0] != y.shape[0]:
        raise ValueError(f"matrix products: expected as many left as right, found {x.shape[0]} and {y.shape[0]}")
    _require_fit(x, y)
    return wrap(ozaki.matmul(words(x), words(y)))


@operation(aten.mm.default)
def mm(x: Tensor, y: Tensor) -> Extended:
    """The product of two matrices."""
    _require_fit(x, y)
    (a, b), (c, d) = words(x), words(y)
    high, low = ozaki.matmul((a.unsqueeze(0), b.unsqueeze(0)), (c.unsqueeze(0), d.unsqueeze(0)))
    return wrap((high.squeeze(0), low.squeeze(0)))


def _require_fit(x: Tensor, y: Tensor) -> None:
    if x.shape[-1] != y.shape[-2]:
        raise ValueError(
            f"matrix product: expected as many columns as rows, found {tuple(x.shape)} times {tuple(y.shape)}; "
            "transpose a factor"
        )


@operation(aten.mv.default)
def mv(x: Tensor, y: Tensor) -> Tensor:
    """A matrix times a vector."""
    return mm(x, y.unsqueeze(-1)).squeeze(-1)


@operation(aten.dot.default, aten.vdot.default)
def dot(x: Tensor, y: Tensor) -> Tensor:
    """The inner product of two vectors."""
    return mm(x.unsqueeze(0), y.unsqueeze(-1)).reshape(())


@operation(aten.addmm.default)
def addmm(x: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Extended:
    """beta x + alpha a b."""
    return _plus(x, mm(a, b), beta, alpha)


@operation(aten.baddbmm.default)
def baddbmm(x: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Extended:
    """beta x + alpha a b, batched."""
    return _plus(x, bmm(a, b), beta, alpha)


def _plus(x: Tensor, product: Extended, beta: float, alpha: float) -> Extended:
    product = product if alpha == 1 else mul(product, alpha)
    if beta == 0:
        return product
    return add(x if beta == 1 else mul(x, beta), product)


@operation(aten.linalg_lu_factor_ex.default)
def lu_factor(matrix: Tensor, *, pivot: bool = True, check_errors: bool = False) -> tuple[Extended, Tensor, Tensor]:
    """P A = L U with partial pivoting, as `torch.linalg.lu_factor_ex`."""
    factors, pivots, info = factorisation.lu(words(_batched(matrix)))
    return wrap(_as(matrix.shape, factors)), pivots.view(matrix.shape[:-1]), info.view(matrix.shape[:-2])


@operation(aten.linalg_lu_solve.default)
def lu_solve(factors: Tensor, pivots: Tensor, b: Tensor, *, left: bool = True, adjoint: bool = False) -> Tensor:
    """The solution of A X = B from the factors of A, of A' X = B with `adjoint`, of X A = B without `left`."""
    if not left:
        return lu_solve(factors, pivots, b.mT, adjoint=not adjoint).mT
    batch = torch.broadcast_shapes(factors.shape[:-2], b.shape[:-2])
    factors, b = factors.expand(*batch, *factors.shape[-2:]), b.expand(*batch, *b.shape[-2:])
    orders = pivots.expand(*batch, pivots.shape[-1]).reshape(math.prod(batch), pivots.shape[-1])
    solve = factorisation.lu_solve_transposed if adjoint else factorisation.lu_solve
    return wrap(_as(b.shape, solve(words(_batched(factors)), orders, words(_batched(b)))))


@operation(aten._linalg_solve_ex.default)
def solve(
    matrix: Tensor, b: Tensor, *, left: bool = True, check_errors: bool = False
) -> tuple[Tensor, Extended, Tensor, Tensor]:
    """`torch.linalg.solve`: the solution, and the factors that it came from."""
    factors, pivots, info = lu_factor(matrix)
    vector = b.dim() == 1 or b.shape == matrix.shape[:-1]
    solution = lu_solve(factors, pivots, b.unsqueeze(-1) if vector else b, left=left)
    return (solution.squeeze(-1) if vector else solution), factors, pivots, info


@operation(aten.linalg_cholesky_ex.default)
def cholesky(matrix: Extended, *, upper: bool = False, check_errors: bool = False) -> tuple[Extended, Tensor]:
    """A = L L', as `torch.linalg.cholesky_ex`."""
    if upper:
        raise TypeError("extended precision: expected the lower Cholesky factor, found upper; transpose the lower one")
    factor, info = factorisation.cholesky(words(_batched(matrix)))
    return wrap(_as(matrix.shape, factor)), info.view(matrix.shape[:-2])


def _batched(x: Tensor) -> Tensor:
    return x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])


def _as(shape: torch.Size, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return pair[0].reshape(shape), pair[1].reshape(shape)
