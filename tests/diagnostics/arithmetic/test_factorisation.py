"""Factorisations of double-words: backward errors in exact arithmetic, and what torch does with what has no factors."""

import pytest
import torch
from flint import fmpq, fmpq_mat
from torch import Tensor

from diagnostics.arithmetic import factorisation
from diagnostics.arithmetic.double_word import Pair
from diagnostics.arithmetic.factorisation import cholesky, lu, lu_solve, permutation
from diagnostics.arithmetic.ozaki import matmul
from tests.cases import check_ratio
from tests.diagnostics.arithmetic.test_ozaki import exact, fraction, pair

U2 = 2.0**-104
SIZES = [1, 2, 3, 5, 10, 17]


@pytest.fixture(params=[1, 3, 64], ids=["halves of one", "halves of three", "column by column"], autouse=True)
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs with halves of small matrices as well, so that small sizes reach all of the code."""
    monkeypatch.setattr(factorisation, "FEW", request.param)


def without_low(x: Tensor) -> Pair:
    return x, torch.zeros_like(x)


def definite(rows: int, size: int, seed: int = 0, condition: float = 10.0) -> Pair:
    """Symmetric positive definite matrices whose eigenvalues span about `condition` squared."""
    high, low = pair(rows, size, size, seed=seed)
    scale = torch.logspace(0, -float(torch.tensor(condition).log10()), size, dtype=torch.float64).view(1, -1, 1)
    root = matmul((high * scale, low * scale), without_low(torch.eye(size).double().expand(rows, -1, -1)))
    return matmul(root, (root[0].mT, root[1].mT))


def triangles(factors: Pair) -> tuple[Pair, Pair]:
    high, low = factors
    lower = high.tril(-1) + torch.eye(high.shape[1], dtype=torch.float64), low.tril(-1)
    return lower, (high.triu(), low.triu())


def permuted(a: Pair, pivots: Tensor) -> Pair:
    order = permutation(pivots).unsqueeze(-1).expand_as(a[0])
    return a[0].gather(1, order), a[1].gather(1, order)


def backward_errors(a: Pair, left: Pair, right: Pair) -> Tensor:
    """`|A - L R| / |L||R|`, entry by entry, exactly; an error where `|L||R|` is 0 is infinite."""
    found = []
    for row in range(len(a[0])):
        wrong = exact(a, row) - exact(left, row) * exact(right, row)
        scale = exact(left, row, True) * exact(right, row, True)
        for e, s in zip(wrong.entries(), scale.entries(), strict=True):
            found.append(float(abs(fraction(e)) / fraction(s)) if s != 0 else float("inf" if e != 0 else 0))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["normal", "log-normal"])
def test_lu_has_a_small_backward_error(size: int, kind: str) -> None:
    a = pair(3, size, size, seed=size, kind=kind)
    before = a[0].clone(), a[1].clone()
    factors, pivots, info = lu(a)
    assert torch.equal(a[0], before[0]) and torch.equal(a[1], before[1])
    wanted = torch.linalg.lu_factor_ex(a[0])
    assert torch.equal(pivots, wanted.pivots) and pivots.dtype == wanted.pivots.dtype
    assert torch.equal(info, wanted.info) and info.dtype == wanted.info.dtype
    lower, upper = triangles(factors)
    assert float(lower[0].abs().amax()) <= 1
    check_ratio("double-word lu", backward_errors(permuted(a, pivots), lower, upper), size * U2, f"{kind}, N = {size}")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("columns", [1, 4])
def test_the_solution_is_good_to_the_condition(size: int, columns: int) -> None:
    """The error of `x` is at most `c N u2 |A^-1| P'|L||U||x|`; the inverse may be float64's, for a bound."""
    a, b = pair(2, size, size, seed=size), pair(2, size, columns, seed=99)
    factors, pivots, _ = lu(a)
    high, low = lu_solve(factors, pivots, b)
    lower, upper = triangles(factors)
    for row in range(2):
        truth = exact(a, row).solve(exact(b, row))
        wrong = exact((high, low), row) - truth
        error = torch.tensor([float(abs(fraction(e))) for e in wrong.entries()], dtype=torch.float64).view(
            size, columns
        )
        order = permutation(pivots)[row]
        inverse = torch.linalg.inv(a[0][row][order]).abs()
        unit = size * U2 * (inverse @ (lower[0][row].abs() @ (upper[0][row].abs() @ high[row].abs())))
        check_ratio("double-word solve", error, unit, f"N = {size}")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("condition", [1.0, 1e6])
def test_cholesky_has_a_small_backward_error(size: int, condition: float) -> None:
    a = definite(3, size, seed=size, condition=condition)
    above = torch.ones(size, size, dtype=torch.bool).triu(1)
    unread = torch.where(above, torch.nan, a[0]), torch.where(above, torch.nan, a[1])
    factor, info = cholesky(unread)
    assert not info.any() and info.dtype == torch.int32
    assert torch.equal(factor[0], factor[0].tril()) and torch.equal(factor[1], factor[1].tril())
    errors = backward_errors(a, factor, (factor[0].mT, factor[1].mT)).view(3, size, size).tril()
    check_ratio("double-word cholesky", errors, size * U2, f"N = {size}, condition {condition:g}")


def test_a_known_inverse_comes_out() -> None:
    """The Hilbert matrix of order 8, condition 1.5e10: its inverse is of whole numbers, of up to ten digits."""
    size = 8
    hilbert = fmpq_mat(size, size, [fmpq(1, i + j + 1) for i in range(size) for j in range(size)])
    high = torch.tensor([float(fraction(e)) for e in hilbert.entries()], dtype=torch.float64)
    rest = [
        fraction(e) - fraction(fmpq(*h.as_integer_ratio()))
        for e, h in zip(hilbert.entries(), high.tolist(), strict=True)
    ]
    a = high.view(1, size, size), torch.tensor([float(r) for r in rest], dtype=torch.float64).view(1, size, size)
    factors, pivots, _ = lu(a)
    found, _ = lu_solve(factors, pivots, without_low(torch.eye(size).double().unsqueeze(0)))
    truth = torch.tensor([float(fraction(e)) for e in hilbert.inv().entries()], dtype=torch.float64).view(1, size, size)
    scale = truth.abs().amax()
    check_ratio("double-word inverse of Hilbert's matrix", (found - truth).abs(), size * U2 * 1.5e10 * scale)
    assert float((found - truth).abs().amax() / scale) < 1e-3 * float(
        (torch.linalg.inv(a[0]) - truth).abs().amax() / scale
    )


@pytest.mark.parametrize(
    "matrix",
    [
        [[0.0, 0.0], [0.0, 0.0]],
        [[1.0, 1.0], [1.0, 1.0]],
        [[0.0, 1.0], [0.0, 2.0]],
        [[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [1.0, 1.0, 1.0]],
        [[0.0, 1.0, 1.0], [0.0, 2.0, 3.0], [0.0, 4.0, 1.0]],
    ],
    ids=["zero", "rank one", "zero column", "rank two", "first column zero"],
)
def test_a_singular_matrix_is_told_as_torch_tells_it(matrix: list[list[float]]) -> None:
    a = torch.tensor([matrix], dtype=torch.float64)
    factors, pivots, info = lu(without_low(a))
    wanted = torch.linalg.lu_factor_ex(a)
    assert torch.equal(info, wanted.info) and bool(info > 0)
    assert torch.equal(pivots, wanted.pivots)
    assert torch.equal(factors[0], wanted.LU) and not factors[1].any()
    b = torch.arange(1.0, len(matrix) + 1, dtype=torch.float64).view(1, -1, 1)
    x, low = lu_solve(factors, pivots, without_low(b))
    assert not x.isfinite().all() and not torch.linalg.lu_solve(wanted.LU, wanted.pivots, b).isfinite().all()
    assert not low[~x.isfinite()].any()


@pytest.mark.parametrize(
    "diagonal", [[1.0, 2.0, 3.0], [1.0, 0.0, 3.0], [1.0, 2.0, -3.0], [-1.0, 2.0, 3.0], [1.0, torch.nan, 3.0]]
)
def test_cholesky_tells_the_minor_that_is_not_positive(diagonal: list[float]) -> None:
    a = torch.diag(torch.tensor(diagonal, dtype=torch.float64)).unsqueeze(0)
    _, info = cholesky(without_low(a))
    assert torch.equal(info, torch.linalg.cholesky_ex(a).info)


def test_a_pivot_that_only_the_low_word_saves_is_seen() -> None:
    """`[[1, 1], [1, 1 + 2^-80]]` is singular in float64, and here it is not."""
    high = torch.ones(1, 2, 2, dtype=torch.float64)
    low = torch.tensor([[[0.0, 0.0], [0.0, 2.0**-80]]], dtype=torch.float64)
    factors, pivots, info = lu((high, low))
    assert not info.any() and not cholesky((high, low))[1].any()
    b = without_low(torch.tensor([[[1.0], [2.0]]], dtype=torch.float64))
    x, _ = lu_solve(factors, pivots, b)
    assert x.flatten().tolist() == [1 - 2.0**80, 2.0**80]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 0.0, -1e300])
def test_matrices_do_not_mix(bad: float) -> None:
    a, b = definite(4, 7), pair(4, 7, 2, seed=5)
    clean = (*(factors := lu(a))[0], *lu_solve(factors[0], factors[1], b), *cholesky(a)[0])
    for word in a:
        word[1] = bad if word is a[0] else 0.0
    b[0][2, 0, 0], b[1][2, 0, 0] = bad, 0.0
    factors, pivots, info = lu(a)
    solution = lu_solve(factors, pivots, b)
    factor, minor = cholesky(a)
    found = (*factors, *solution, *factor)
    for wanted, word in zip(clean, found, strict=True):
        assert torch.equal(wanted[[0, 3]], word[[0, 3]])
        assert torch.equal(wanted[2], word[2]) or word is solution[0] or word is solution[1]
    assert torch.equal(solution[0][2, :, 1], clean[2][2, :, 1])  # the other right-hand side
    assert not info[[0, 2, 3]].any() and not minor[[0, 2, 3]].any() and bool(minor[1] > 0)
    for row in range(4):
        alone = lu((a[0][row : row + 1], a[1][row : row + 1]))[0]
        assert torch.equal(alone[0].nan_to_num(1.5), factors[0][row : row + 1].nan_to_num(1.5))


@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("columns", [0, 1])
def test_sizes_of_0_and_1(batch: int, size: int, columns: int) -> None:
    a, b = pair(batch, size, size), pair(batch, size, columns, seed=1)
    factors, pivots, info = lu(a)
    wanted = torch.linalg.lu_factor_ex(a[0])
    assert factors[0].shape == factors[1].shape == wanted.LU.shape
    assert pivots.shape == wanted.pivots.shape and info.shape == wanted.info.shape
    x, low = lu_solve(factors, pivots, b)
    assert x.shape == low.shape == b[0].shape
    check_ratio("double-word solve of one", (x - b[0] / a[0]).abs(), 2.0**-53 * x.abs())
    factor, minor = cholesky((a[0].abs(), a[1] * a[0].sign()))
    assert factor[0].shape == factor[1].shape == a[0].shape and not minor.any()


@pytest.mark.parametrize("few", [64], indirect=True)
def test_a_matrix_beyond_one_block_is_factored_as_well() -> None:
    size = 100
    a = definite(1, size)
    factors, pivots, info = lu(a)
    assert not info.any() and torch.equal(pivots, torch.linalg.lu_factor_ex(a[0]).pivots)
    lower, upper = triangles(factors)
    check_ratio("double-word lu", backward_errors(permuted(a, pivots), lower, upper), size * U2, f"N = {size}")
    factor, info = cholesky(a)
    assert not info.any()
    errors = backward_errors(a, factor, (factor[0].mT, factor[1].mT)).view(size, size).tril()
    check_ratio("double-word cholesky", errors, size * U2, f"N = {size}")
