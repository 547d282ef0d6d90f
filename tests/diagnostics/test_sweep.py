"""Many ends at once are the same numbers as one at a time."""

import torch

from diagnostics.curvature import Spectrum, dense_spectrum, lanczos
from diagnostics.estimators.first_order import FirstOrder
from diagnostics.estimators.implicit import Implicit
from diagnostics.estimators.unrolled import Unrolled
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.hessian import second_order
from diagnostics.inner import Trajectory, run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.linear.dense import Dense
from diagnostics.outcome import Outcome, decode
from diagnostics.problem import Problem
from diagnostics.rows import row_norms
from diagnostics.sweep import along_the_path, implicit_at_ends, outcome_at_ends, spectrum_at_ends, warn_where_indefinite
from tests.cases import check_ratio, gd, small, theta_and_data

ENDS = (0, 3, 6)


def logistic(tasks: int = 3) -> tuple[Problem, Trajectory]:
    problem = small("logistic")
    theta, data = theta_and_data(problem, tasks)
    return problem, run_inner(problem, gd(problem), theta, data, max(ENDS))


def test_along_the_path_is_one_end_at_a_time() -> None:
    problem, loop = logistic()
    for estimator in (Unrolled(), UnrolledAdjoint(), FirstOrder()):
        sweep = along_the_path(estimator, problem, loop, ENDS)
        assert sweep.value.shape == (3, 3, 5) and sweep.outcome.shape == (3, 3)
        for index, steps in enumerate(ENDS):
            alone = estimator(problem, loop.prefix(steps))
            assert torch.equal(sweep.value[index], alone.value)
            assert torch.equal(sweep.outcome[index], alone.outcome)
            assert torch.equal(sweep.gradient_count[index], alone.gradient_count)
            assert torch.equal(sweep.hvp_count[index], alone.hvp_count)


def test_implicit_gradients_at_all_ends_are_one_end_at_a_time() -> None:
    problem, loop = logistic()
    sweeps = implicit_at_ends(ConjugateGradients(4, keep=(1, 2)), problem, loop, ENDS)
    assert len(sweeps) == 3
    for sweep, iterations in zip(sweeps, (1, 2, 4), strict=True):
        for index, steps in enumerate(ENDS):
            alone = Implicit(ConjugateGradients(iterations))(problem, loop.prefix(steps))
            unit = 2.0**-52 * 10 * row_norms(alone.value)  # cond(H) is at most (1/4 + 0.1) / 0.1
            check_ratio("sweep, implicit", row_norms(sweep.value[index] - alone.value), unit)
            assert torch.equal(sweep.outcome[index], alone.outcome)
            assert bool((sweep.hvp_count[index] == iterations).all())
    (exact,) = implicit_at_ends(Dense(), problem, loop, ENDS)
    assert exact.solver_residual.shape == (3, 3)


def test_a_loop_that_diverges_on_the_way_has_good_ends_before() -> None:
    problem = small("quadratic")
    theta, data = theta_and_data(problem, 2)
    data["A"][1] *= 1e60
    loop = run_inner(problem, gd(problem), theta, data, 20)
    at = int(loop.diverged_at[1])
    assert 3 < at < 10
    ends = (0, at - 1, at, 20)
    expected = [[Outcome.OK, Outcome.OK]] * 2 + [[Outcome.OK, Outcome.DIVERGED]] * 2
    assert [decode(row) for row in outcome_at_ends(loop, ends)] == expected
    (sweep,) = implicit_at_ends(Dense(), problem, loop, ends)
    assert [decode(row)[1] is Outcome.DIVERGED for row in sweep.outcome] == [False, False, True, True]
    unrolled = along_the_path(UnrolledAdjoint(), problem, loop, ends)
    assert [decode(row)[1] is Outcome.DIVERGED for row in unrolled.outcome] == [False, False, True, True]
    # Its neighbour is as if alone.
    alone = run_inner(problem, gd(problem), theta[:1], {key: value[:1] for key, value in data.items()}, 20)
    assert torch.equal(unrolled.value[:, :1], along_the_path(UnrolledAdjoint(), problem, alone, ends).value)


def test_the_spectrum_at_the_ends_dense_or_by_lanczos() -> None:
    problem, loop = logistic()
    by_lanczos = spectrum_at_ends(problem, loop, ENDS, iterations=60, dense_below=4)
    written = spectrum_at_ends(problem, loop, ENDS, iterations=60, dense_below=5)
    assert by_lanczos.smallest.shape == written.smallest.shape == (3, 3)
    unit = 2.0**-52 * written.largest * 5**0.5
    check_ratio("sweep, spectrum", (by_lanczos.smallest - written.smallest).abs(), unit)
    check_ratio("sweep, spectrum", (by_lanczos.largest - written.largest).abs(), unit)
    for index, steps in enumerate(ENDS):
        end = loop.prefix(steps)
        hessian = second_order(problem, end.final, end.theta, end.data).hessian
        assert torch.equal(written.smallest[index], dense_spectrum(hessian, end.final).smallest)
        assert torch.equal(by_lanczos.smallest[index], lanczos(hessian, end.final).smallest)


def test_indefinite_ends_are_warned_of_whatever_the_solver_saw() -> None:
    problem, loop = logistic()
    (sweep,) = implicit_at_ends(ConjugateGradients(1), problem, loop, ENDS)
    smallest = torch.tensor([[1.0, -1.0, 0.0], [torch.nan, 1.0, 1.0], [1.0, 1.0, -1e-12]]).double()
    spectrum = Spectrum(smallest, smallest + 5, smallest * 0, smallest * 0, 5)
    warned = warn_where_indefinite(sweep, spectrum)
    at_least = warned.outcome >= Outcome.INDEFINITE.code
    assert at_least.tolist() == [[False, True, True], [True, False, False], [False, False, True]]
    assert torch.equal(warned.value, sweep.value) and torch.equal(warned.hvp_count, sweep.hvp_count)
    assert torch.equal(warned.outcome[~at_least], sweep.outcome[~at_least])
