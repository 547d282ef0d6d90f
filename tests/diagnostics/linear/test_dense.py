"""The dense solve: exact, and honest about indefinite, singular, ill-conditioned and non-finite matrices."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from diagnostics.linear.dense import LARGEST, Dense, written_out
from diagnostics.outcome import Outcome, decode
from diagnostics.rows import row_norms
from diagnostics.solvers import LinearSolver, MatVec
from tests.cases import check_ratio, only, provoked, symmetric, times, vectors


def check_solves(solver: LinearSolver, values: Tensor, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> None:
    """The solution is right to eps kappa |x|, against numpy in float64, and to longdouble by one refinement."""
    matrix = symmetric(values.double(), seed=3).to(dtype)
    b = vectors(len(matrix), matrix.shape[1], dtype=dtype) * scale
    found = solver.path(times(matrix), b)[-1].value.double()
    a, right = matrix.double().numpy(), b.double().numpy()
    for row in range(len(matrix)):
        truth = np.linalg.solve(a[row], right[row]).astype(np.longdouble)
        left = right[row].astype(np.longdouble) - a[row].astype(np.longdouble) @ truth
        truth = truth + np.linalg.solve(a[row], left.astype(float))
        error = np.linalg.norm(((found[row].numpy().astype(np.longdouble) - truth) / scale).astype(float))
        size = values[row].abs()
        unit = (
            torch.finfo(dtype).eps
            * float(size.max() / size.min())
            * float(np.linalg.norm((truth / scale).astype(float)))
        )
        check_ratio(f"dense, {str(dtype)[6:]}", torch.tensor(error), unit, f"n = {a.shape[1]}")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("size", [1, 2, 3, 10, 50])
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
def test_it_solves(size: int, condition: float, dtype: torch.dtype) -> None:
    values = torch.logspace(-float(np.log10(condition)), 0, size, dtype=torch.float64).expand(3, size)
    check_solves(Dense(), values, dtype)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_the_size_of_the_right_hand_side_does_not_matter(scale: float) -> None:
    check_solves(Dense(), torch.tensor([[1.0, 2, 3, 4]]), scale=scale)


def test_an_indefinite_matrix_is_solved_and_reported() -> None:
    values = torch.tensor([[3.0, 1, -2, 0.5], [3, 1, 2, 0.5]]).double()
    check_solves(Dense(), values)
    solution = Dense().path(times(symmetric(values)), vectors(2, 4))[0]
    assert decode(solution.outcome) == [Outcome.NEGATIVE_CURVATURE, Outcome.OK]
    assert float(solution.residual.max()) < 1e-14


@pytest.mark.parametrize(
    "matrix",
    [
        [[0.0, 0.0], [0.0, 0.0]],
        [[1.0, 1.0], [1.0, 1.0]],  # a pivot of exactly zero
        [[2.0, 0.0], [0.0, 0.0]],
        [[1.0, 0.0], [0.0, 1e-18]],
        [[1.0, 1.0], [1.0, 1.0 + 2**-52]],
    ],
    ids=["zero", "rank one", "zero pivot", "tiny pivot", "one rounding from rank one"],
)
def test_a_singular_matrix_is_reported(matrix: list[list[float]]) -> None:
    h = torch.tensor([matrix, [[1.0, 0.0], [0.0, 1.0]]]).double()
    h[0] = torch.tensor(matrix, dtype=torch.float64)
    b = torch.tensor([[1.0, 2.0], [1.0, 2.0]]).double()
    solution = Dense().path(times(h), b)[0]
    assert decode(solution.outcome) == [Outcome.SINGULAR, Outcome.OK]
    assert torch.equal(solution.value[1], b[1])


def test_damping_mends_a_singular_matrix() -> None:
    h, b = torch.ones(1, 2, 2).double(), torch.tensor([[1.0, 2.0]]).double()
    solution = Dense(damping=0.5).path(times(h), b)[0]
    assert only(solution.outcome) is Outcome.OK
    truth = torch.linalg.solve(h + 0.5 * torch.eye(2), b)
    check_ratio("dense, damped", row_norms(solution.value - truth), 2.0**-52 * 5 * row_norms(truth))


def test_an_ill_conditioned_matrix_is_solved_as_well_as_it_can_be_and_its_residual_is_small() -> None:
    values = torch.logspace(-10, 0, 6, dtype=torch.float64).expand(2, 6)
    check_solves(Dense(), values)
    matrix, b = symmetric(values), vectors(2, 6)
    solution = Dense().path(times(matrix), b)[0]
    assert only(solution.outcome) is Outcome.OK
    size = row_norms(solution.value) / row_norms(b)  # LU is backward stable: |b - Hx| <= c eps |H| |x|, |H| = 1
    check_ratio("dense, residual", solution.residual, 2.0**-52 * size)


def test_rows_that_are_not_finite_leave_the_others_alone() -> None:
    matrix = symmetric(torch.ones(4, 3).double() * torch.tensor([1.0, 2, 3]))
    b = vectors(4, 3)
    truth = Dense().path(times(matrix), b)[0].value[0]
    matrix[1, 0, 2] = torch.nan
    matrix[2, 1, 1] = torch.inf
    b[3, 0] = torch.nan
    solution = Dense().path(times(matrix), b)[0]
    assert decode(solution.outcome) == [Outcome.OK] + [Outcome.NOT_FINITE] * 3
    assert torch.equal(solution.value[0], truth)
    assert bool(solution.value[1:].isnan().all())


def test_a_zero_right_hand_side_has_the_zero_solution() -> None:
    solution = Dense().path(times(symmetric(torch.tensor([[1.0, 2.0]]).double())), torch.zeros(1, 2).double())[0]
    assert torch.equal(solution.value, torch.zeros(1, 2).double())
    assert torch.equal(solution.residual, torch.zeros(1).double())
    assert only(solution.outcome) is Outcome.OK


@pytest.mark.parametrize(
    ("value", "outcome"), [(2.0, Outcome.OK), (-2.0, Outcome.NEGATIVE_CURVATURE), (0.0, Outcome.SINGULAR)]
)
def test_one_dimension(value: float, outcome: Outcome) -> None:
    h, b = torch.tensor([[[value]]]).double(), torch.tensor([[3.0]]).double()
    solution = Dense().path(times(h), b)[0]
    assert only(solution.outcome) is outcome
    if value:
        assert float(solution.value) == 3.0 / value


@dataclass(frozen=True)
class BlockDiagonal:
    """A 'dense' solve that sees only the diagonal blocks of the Hessian, as one does that forgets the mixed terms."""

    block: int

    def path(self, matvec: MatVec, right_hand_side: Tensor, transposed: MatVec | None = None):
        h = written_out(matvec, right_hand_side)
        keep = torch.arange(h.shape[1]) // self.block
        h = torch.where(keep.unsqueeze(0) == keep.unsqueeze(1), h, 0.0)
        return Dense().path(times(h), right_hand_side)


def test_a_block_diagonal_solve_fails_the_check() -> None:
    values = torch.tensor([[1.0, 2, 3, 4]]).double()
    check_solves(BlockDiagonal(4), values)  # one block is the whole: the harness is not what fails
    with provoked():
        check_solves(BlockDiagonal(2), values)


def test_the_matrix_is_written_out_column_by_column_and_its_symmetric_part_taken() -> None:
    h = vectors(6, 3).view(2, 3, 3)
    assert torch.equal(written_out(times(h), torch.zeros(2, 3).double()), (h + h.mT) / 2)


def test_too_many_unknowns_are_refused() -> None:
    with pytest.raises(
        ValueError, match=f"expected at most {LARGEST} unknowns, found {LARGEST + 1}; use the solver 'cg'"
    ):
        Dense().path(lambda v: v, torch.zeros(1, LARGEST + 1))
