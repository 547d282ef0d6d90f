"""Triangular factorisations in double-words, batched over matrices that never mix.

Both go by halves of the columns (Toledo 1997): with a left half `L1 = [L11; L21]` that is factored,

    LU        U12 = L11^-1 A12,        A22 <- A22 - L21 U12
    Cholesky  L21 = A21 L11^-T,        A22 <- A22 - L21 L21'

so that nearly all the work is in products of matrices, and a few columns are factored one by one. Triangular systems
are solved by halves of the rows in the same way. All is backward stable, `|P A - L U| <= c N u2 |L||U|` with
`u2 = 2^-104`, the error of the double-word operations (Higham 2002, theorems 8.5, 9.3 and 10.3).
"""

import torch
from torch import Tensor

from diagnostics.arithmetic.double_word import Pair, divide, multiply, square_root, subtract
from diagnostics.arithmetic.ozaki import matmul

FEW = 64  # columns up to which halves do not pay


def lu(a: Pair) -> tuple[Pair, Tensor, Tensor]:
    """`(factors (B, N, N), pivots (B, N), info (B,))` of `a (B, N, N)`, laid out as by `torch.linalg.lu_factor_ex`.

    Rows are exchanged for the greatest high word. `info` is the first column, from 1, whose pivot is exactly zero, or
    0. Such a matrix is factored all the same, and solves to infinities and NaN.
    """
    factors = a[0].clone(), a[1].clone()
    batch, size = a[0].shape[:2]
    pivots = torch.empty(batch, size, dtype=torch.int32, device=a[0].device)
    info = torch.zeros(batch, dtype=torch.int32, device=a[0].device)
    _lu(factors, pivots, info, 0, size)
    return factors, pivots, info


def lu_solve(factors: Pair, pivots: Tensor, b: Pair) -> Pair:
    """The solution `(B, N, M)` of `A X = b` from the factors and pivots of `lu`."""
    order = permutation(pivots).unsqueeze(-1).expand_as(b[0])
    x = b[0].gather(1, order), b[1].gather(1, order)
    _solve_lower(factors, x, unit=True)
    _solve_upper(factors, x)
    return x


def lu_solve_transposed(factors: Pair, pivots: Tensor, b: Pair) -> Pair:
    """The solution `(B, N, M)` of `A' X = b`, from the factors and pivots of `lu`: `U' L' P X = b`."""
    x = b[0].clone(), b[1].clone()
    _solve_lower(_transposed(factors), x, unit=False)
    reverse = factors[0].mT.flip(1, 2), factors[1].mT.flip(1, 2)  # L' from its end on is a lower triangle
    x = x[0].flip(1), x[1].flip(1)
    _solve_lower(reverse, x, unit=True)
    order = permutation(pivots).unsqueeze(-1).expand_as(b[0])
    return torch.scatter(x[0], 1, order, x[0].flip(1)), torch.scatter(x[1], 1, order, x[1].flip(1))


def cholesky(a: Pair) -> tuple[Pair, Tensor]:
    """`(L (B, N, N), info (B,))` of a symmetric `a (B, N, N)`, of which the lower triangle is read.

    `info` is the order of the first leading minor that is not positive, or 0; from there on L means nothing.
    """
    factor = a[0].tril(), a[1].tril()
    info = torch.zeros(len(a[0]), dtype=torch.int32, device=a[0].device)
    _cholesky(factor, info, 0, a[0].shape[1])
    return (factor[0].tril_(), factor[1].tril_()), info


def permutation(pivots: Tensor) -> Tensor:
    """The order `(B, N)`, from 0, in which the exchanges `pivots (B, N)`, from 1, leave the rows."""
    batch, size = pivots.shape
    order = torch.arange(size, device=pivots.device).repeat(batch, 1)
    every = torch.arange(batch, device=pivots.device)
    for j, chosen in enumerate((pivots.long() - 1).unbind(1)):
        order[every, chosen], order[:, j] = order[:, j].clone(), order[every, chosen]
    return order


def _lu(a: Pair, pivots: Tensor, info: Tensor, start: int, stop: int) -> None:
    """Factor columns `start` to `stop`, in place, all exchanges of rows included."""
    if stop - start > FEW:
        middle = (start + stop) // 2
        _lu(a, pivots, info, start, middle)
        left, right = slice(start, middle), slice(middle, stop)
        _solve_lower(_part(a, left, left), _part(a, left, right), unit=True)
        below = slice(middle, None)
        _take(_part(a, below, right), matmul(_part(a, below, left), _part(a, left, right)))
        _lu(a, pivots, info, middle, stop)
        return
    every = torch.arange(len(info), device=info.device)
    for j in range(start, stop):
        chosen = a[0][:, j:, j].abs().argmax(-1) + j
        pivots[:, j] = chosen + 1
        for word in a:
            word[every, chosen], word[:, j] = word[:, j].clone(), word[every, chosen]
        pivot = _part(a, slice(j, j + 1), slice(j, j + 1))
        zero = pivot[0] == 0
        _note(info, zero, j)
        below, right = slice(j + 1, None), slice(j + 1, stop)
        column = _part(a, below, slice(j, j + 1))
        _assign(column, divide(column, (torch.where(zero, 1.0, pivot[0]), pivot[1])))  # zeros divided by 1, as LAPACK
        _take(_part(a, below, right), multiply(column, _part(a, slice(j, j + 1), right)))


def _cholesky(a: Pair, info: Tensor, start: int, stop: int) -> None:
    """Factor columns `start` to `stop` of the lower triangle, in place, down to row `stop`."""
    if stop - start > FEW:
        middle = (start + stop) // 2
        above, below = slice(start, middle), slice(middle, stop)
        _cholesky(a, info, start, middle)
        corner = _part(a, below, above)
        _solve_lower(_part(a, above, above), _transposed(corner), unit=False)
        _take(_part(a, below, below), matmul(corner, _transposed(corner)))
        _cholesky(a, info, middle, stop)
        return
    for j in range(start, stop):
        here, below = slice(j, j + 1), slice(j + 1, stop)
        pivot, column = _part(a, here, here), _part(a, below, here)
        _note(info, ~(pivot[0] > 0), j)
        _assign(pivot, square_root(pivot))
        _assign(column, divide(column, pivot))
        _take(_part(a, below, below), multiply(column, _transposed(column)))


def _solve_lower(factor: Pair, b: Pair, unit: bool) -> None:
    """Replace `b (B, N, M)` by the solution of `L X = b` for a lower triangle, with ones on the diagonal if `unit`."""
    size = factor[0].shape[1]
    if size > FEW:
        first, second = slice(0, size // 2), slice(size // 2, size)
        _solve_lower(_part(factor, first, first), _rows(b, first), unit)
        _take(_rows(b, second), matmul(_part(factor, second, first), _rows(b, first)))
        _solve_lower(_part(factor, second, second), _rows(b, second), unit)
        return
    for j in range(size):
        here, below = slice(j, j + 1), slice(j + 1, size)
        if not unit:
            _assign(_rows(b, here), divide(_rows(b, here), _part(factor, here, here)))
        _take(_rows(b, below), multiply(_part(factor, below, here), _rows(b, here)))


def _solve_upper(factor: Pair, b: Pair) -> None:
    """Replace `b (B, N, M)` by the solution of `U X = b` for an upper triangle."""
    size = factor[0].shape[1]
    if size > FEW:
        first, second = slice(0, size // 2), slice(size // 2, size)
        _solve_upper(_part(factor, second, second), _rows(b, second))
        _take(_rows(b, first), matmul(_part(factor, first, second), _rows(b, second)))
        _solve_upper(_part(factor, first, first), _rows(b, first))
        return
    for j in range(size - 1, -1, -1):
        here, above = slice(j, j + 1), slice(0, j)
        _assign(_rows(b, here), divide(_rows(b, here), _part(factor, here, here)))
        _take(_rows(b, above), multiply(_part(factor, above, here), _rows(b, here)))


def _part(a: Pair, rows: slice, columns: slice) -> Pair:
    """A view."""
    return a[0][:, rows, columns], a[1][:, rows, columns]


def _rows(a: Pair, rows: slice) -> Pair:
    return a[0][:, rows], a[1][:, rows]


def _transposed(a: Pair) -> Pair:
    return a[0].mT, a[1].mT


def _assign(a: Pair, to: Pair) -> None:
    a[0].copy_(to[0])
    a[1].copy_(to[1])


def _take(a: Pair, away: Pair) -> None:
    """`a <- a - away`, in place."""
    _assign(a, subtract(a, away))


def _note(info: Tensor, failed: Tensor, column: int) -> None:
    """Record the first column that failed."""
    info[(info == 0) & failed.flatten()] = column + 1
