"""Solvers with the faults that were found in other libraries fail the checks that ours pass.

Each is written from the description of its fault. The first test holds that the harness is not what fails: without its
fault the same code passes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from diagnostics.linear.cg import ConjugateGradients
from diagnostics.linear.cg_normal import NormalConjugateGradients
from diagnostics.linear.dense import Dense, written_out
from diagnostics.linear.gmres import GeneralisedMinimalResidual
from diagnostics.linear.pcg import PreconditionedConjugateGradients
from diagnostics.rows import row_norms
from diagnostics.solvers import LinearSolution, LinearSolver, MatVec
from tests.cases import provoked, times, vectors
from tests.diagnostics.linear import checks


def solution(
    value: Tensor, matvec: MatVec, b: Tensor, iterations: int, residual: Tensor | None = None
) -> LinearSolution:
    fresh = row_norms(b - matvec(value)) / row_norms(b) if residual is None else residual
    codes = torch.zeros(len(b), dtype=torch.long)
    return LinearSolution(value, codes, fresh, iterations, codes)


@dataclass(frozen=True)
class Loop:
    """Conjugate gradients as in a textbook, but for at most one fault."""

    iterations: int
    tolerance: float | None = None  # leaves at |r| <= tolerance *before* it stores the new iterate (hypertorch)
    stale: bool = False  # the direction is built from the residual before the update (betty 0.1.1, moskomule/hypergrad)
    alpha: float = 1.0  # scales the step's denominator for x, not for the residual (betty's cg_alpha)
    recursive: bool = False  # reports the recursion's residual for that of the value

    def path(self, matvec: MatVec, right_hand_side: Tensor, transposed: MatVec | None = None):
        assert transposed is None
        b = right_hand_side
        x, r, p = torch.zeros_like(b), b, b
        for _ in range(self.iterations):
            hp = matvec(p)
            rr = (r * r).sum(-1, keepdim=True)
            step = rr / (p * hp).sum(-1, keepdim=True)
            x_next, r_next = x + step / self.alpha * p, r - step * hp
            if self.tolerance is not None and bool((row_norms(r_next) <= self.tolerance).all()):
                break
            beta = (r_next * r_next).sum(-1, keepdim=True) / rr
            x, p, r = x_next, (r if self.stale else r_next) + beta * p, r_next
        return (solution(x, matvec, b, self.iterations, row_norms(r) / row_norms(b) if self.recursive else None),)


@dataclass(frozen=True)
class BlockDiagonal:
    """A dense solve that writes each tensor's own block of the Hessian out, and no mixed one (torchopt's solve_inv)."""

    block: int

    def path(self, matvec: MatVec, right_hand_side: Tensor, transposed: MatVec | None = None):
        assert transposed is None
        h = written_out(matvec, right_hand_side)
        tensor = torch.arange(h.shape[1]) // self.block
        blocks = torch.where(tensor.unsqueeze(0) == tensor.unsqueeze(1), h, 0.0)
        value = torch.linalg.solve(blocks, right_hand_side)
        return (solution(value, matvec, right_hand_side, 0),)


@dataclass(frozen=True)
class RightHandSideForTranspose:
    """CG on the normal equations that takes H for H', which is right for a symmetric H only."""

    iterations: int

    def path(self, matvec: MatVec, right_hand_side: Tensor, transposed: MatVec | None = None):
        return NormalConjugateGradients(self.iterations).path(matvec, right_hand_side)


OURS: list[Callable[[int], LinearSolver]] = [
    ConjugateGradients,
    PreconditionedConjugateGradients,
    GeneralisedMinimalResidual,
]
FAULTS: dict[str, Callable[[int], LinearSolver]] = {
    "the iterate before the last": lambda n: Loop(n, tolerance=1e-5),
    "a stale residual in the direction": lambda n: Loop(n, stale=True),
    "a step scaled in the denominator only": lambda n: Loop(n, alpha=0.5),
    "the same, by little": lambda n: Loop(n, alpha=0.99),
}


@pytest.mark.parametrize("make", [Loop, *OURS], ids=["textbook", "cg", "pcg", "gmres"])
@pytest.mark.parametrize("size", [2, 3, 10])
def test_solvers_without_the_faults_pass(make: Callable[[int], LinearSolver], size: int) -> None:
    checks.check_exact_after_n(make, size)
    checks.check_coupled(make(3))  # three different eigenvalues
    checks.check_residual(make(3), checks.spread(3, 20, 1e3), vectors(3, 20))


@pytest.mark.parametrize("size", [2, 3, 10])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_each_fault_fails_the_check_of_n_iterations(fault: Callable[[int], LinearSolver], size: int) -> None:
    with provoked():
        checks.check_exact_after_n(fault, size)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_each_fault_fails_the_check_of_coupled_blocks(fault: Callable[[int], LinearSolver]) -> None:
    with provoked():
        checks.check_coupled(fault(3))


def test_a_converged_solve_of_one_step_that_was_not_stored_is_zero() -> None:
    """The plainest form of hypertorch's: H = 2I, solved by the first step, is left with x = 0."""
    matrix, b = 2 * torch.eye(4).double().expand(2, 4, 4), vectors(2, 4)
    assert torch.equal(Loop(5, tolerance=1e-10).path(times(matrix), b)[-1].value, torch.zeros_like(b))
    for make in OURS:
        checks.check_solves("mutations, 2I", make(5), matrix, b, 1.0)


def test_a_block_diagonal_dense_solve_fails_the_check_of_coupled_blocks() -> None:
    checks.check_coupled(Dense())
    checks.check_coupled(BlockDiagonal(6))  # one block is the whole: the harness is not what fails
    with provoked():
        checks.check_coupled(BlockDiagonal(3))


def test_the_recursions_residual_fails_the_check_of_the_reported_one() -> None:
    """It keeps falling when x has stopped to improve. Twenty unknowns, and 60 iterations."""
    matrix, b = checks.spread(3, 20, 1e3), vectors(3, 20)
    for make in OURS:
        checks.check_residual(make(60), matrix, b)
    checks.check_residual(Loop(30), matrix, b)
    faulty = Loop(60, recursive=True).path(times(matrix), b)[-1]
    honest = ConjugateGradients(60).path(times(matrix), b)[-1]
    assert bool((faulty.residual < honest.residual / 10).all())


def test_taking_h_for_its_transpose_fails_where_h_is_not_symmetric() -> None:
    matrix, b = checks.general(3, 6, 3.0), vectors(3, 6)
    checks.check_solves("mutations, transposed", NormalConjugateGradients(40), matrix, b, 9.0, times(matrix.mT))
    checks.check_solves("mutations, symmetric", RightHandSideForTranspose(40), checks.spread(3, 6, 3.0), b, 9.0)
    with provoked():
        checks.check_solves("mutations, transposed", RightHandSideForTranspose(40), matrix, b, 9.0, times(matrix.mT))


def test_a_preconditioner_taken_for_the_matrix_fails() -> None:
    """What is solved must not depend on M: one Jacobi step, M^-1 b, passes for a diagonal H alone."""

    @dataclass(frozen=True)
    class Jacobi:
        def path(self, matvec: MatVec, right_hand_side: Tensor, transposed: MatVec | None = None):
            diagonal = written_out(matvec, right_hand_side).diagonal(dim1=-2, dim2=-1)
            return (solution(right_hand_side / diagonal, matvec, right_hand_side, 0),)

    diagonal = torch.diag(torch.tensor([1.0, 2, 3, 4]).double()).expand(2, 4, 4)
    checks.check_solves("mutations, Jacobi", Jacobi(), diagonal, vectors(2, 4), 4.0)
    with provoked():
        checks.check_coupled(Jacobi())
