"""References that say how far they can be trusted: that they say it truly, and what becomes of the rest."""

import pytest
import torch
from torch import Tensor

from analyses.grid import GridCell
from analyses.grid import measure as measure_grid
from diagnostics import certified as module
from diagnostics.arithmetic.extended import Extended, extended, rounded
from diagnostics.arithmetic.precision import PRECISIONS, Precision, precision
from diagnostics.certified import (
    ACCEPTED,
    COARSER,
    Certified,
    affordable,
    certified,
    certified_stationary,
    certified_unrolled,
    coarser,
)
from diagnostics.inner import Trajectory, run_inner
from diagnostics.outcome import Outcome, decode
from diagnostics.problem import Problem
from diagnostics.problem_names import build
from diagnostics.rows import row_norms
from diagnostics.sweep import Sweep
from tests.cases import check_ratio, gd, only, small, theta_and_data, vectors

EXTENDED, FLOAT64, FLOAT32 = (precision(name) for name in ("extended", "float64", "float32"))
STEPS = (0, 1, 12)
TASKS = 6


def quadratic(condition: float, tasks: int = TASKS) -> tuple[Problem, Trajectory]:
    problem = build("quadratic", dimension=4, condition=condition, strength=1 / condition)
    theta, data = theta_and_data(problem, tasks)
    return problem, run_inner(problem, gd(problem), theta, data, max(STEPS))


def exact_unrolled(problem: Problem, loop: Trajectory, steps: int) -> Tensor:
    """M^K applied to w and to the adjoint, in extended precision: 100 bits where float64 is judged, so exact there."""
    data = {key: extended(value) for key, value in loop.data.items()}
    theta, strength = extended(loop.theta), problem.strength or 0.0

    def by_a(v: Tensor) -> Tensor:
        return (data["A"] @ v.unsqueeze(-1)).squeeze(-1) + strength * v

    w = theta
    for _ in range(steps):
        w = w - problem.learning_rate * (by_a(w) - data["b"] - strength * theta)
    adjoint = (data["C"] @ (w - data["c"]).unsqueeze(-1)).squeeze(-1)
    found = torch.zeros_like(adjoint)
    for _ in range(steps):
        found = found + problem.learning_rate * strength * adjoint
        adjoint = adjoint - problem.learning_rate * by_a(adjoint)
    return found + adjoint


def relative(found: Tensor, truth: Tensor) -> Tensor:
    return row_norms(rounded(extended(found) - truth)) / row_norms(rounded(truth))


def one_sweep(value: Tensor, code: Outcome = Outcome.OK) -> Sweep:
    """A sweep of one end."""
    codes = torch.full(value.shape[:1], code.code).unsqueeze(0)
    return Sweep(value.unsqueeze(0), codes, torch.full_like(codes, torch.nan, dtype=torch.float64), codes, codes)


# ---- the uncertainty bounds the error


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4, 1e6])
def test_the_uncertainty_of_a_float64_reference_bounds_its_error(condition: float) -> None:
    problem, loop = quadratic(condition)
    found = certified_unrolled(problem, loop, STEPS, FLOAT64, FLOAT32)
    assert found.arithmetic == "float64" and found.uncertainty.shape == (len(STEPS), TASKS)
    for end, steps in enumerate(STEPS[1:], start=1):
        error = relative(found.sweep.value[end], exact_unrolled(problem, loop, steps))
        assert bool((error <= found.uncertainty[end]).all()) and bool((error > 0).any())
        # And it is no more than what errors of 2^-43 grow to, or a reference would be refused for nothing.
        check_ratio("uncertainty, float64", found.uncertainty[end], COARSER["float64"] * (1 + steps), condition)


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4, 1e6])
def test_the_uncertainty_of_an_extended_reference_bounds_its_error(condition: float) -> None:
    """The oracle is as fine as the reference, so that both errors count; the uncertainty is 2^20 above either."""
    problem, loop = quadratic(condition, tasks=3)
    found = certified_unrolled(problem, loop, STEPS, EXTENDED, FLOAT64)
    assert found.arithmetic == "extended" and isinstance(found.sweep.value, Extended)
    for end, steps in enumerate(STEPS[1:], start=1):
        error = relative(found.sweep.value[end], exact_unrolled(problem, loop, steps))
        assert bool((error <= found.uncertainty[end]).all())
        check_ratio("uncertainty, extended", found.uncertainty[end], COARSER["extended"] * (1 + steps), condition)


@pytest.mark.parametrize("arithmetic", [FLOAT64, EXTENDED], ids=["float64", "extended"])
@pytest.mark.parametrize("condition", [1.0, 1e3])
def test_the_uncertainty_of_a_stationary_reference_bounds_its_error(condition: float, arithmetic: Precision) -> None:
    problem, loop = quadratic(condition, tasks=3)
    ends = certified_unrolled(problem, loop, STEPS, FLOAT64, FLOAT32).sweep
    found = certified_stationary(problem, loop, ends, 100, arithmetic, FLOAT64)
    assert found.uncertainty.shape == (len(STEPS), 3) and only(found.sweep.outcome) is Outcome.OK
    data, strength = {key: extended(value) for key, value in loop.data.items()}, problem.strength or 0.0
    hessian = data["A"] + strength * torch.eye(4, dtype=torch.float64)
    w = torch.linalg.solve(hessian, data["b"] + strength * extended(loop.theta))
    slope = (data["C"] @ (w - data["c"]).unsqueeze(-1)).squeeze(-1)
    truth = strength * torch.linalg.solve(hessian, slope)
    for end in range(len(STEPS)):
        error = relative(found.sweep.value[end], truth)
        assert bool((error <= found.uncertainty[end]).all())
        # The condition number enters through the minimiser and through the solve.
        check_ratio("uncertainty, stationary", found.uncertainty[end], COARSER[arithmetic.name] * condition**2)


def test_what_judges_coarser_arithmetics_alone_is_certified_by_float64() -> None:
    """Cheaper by half, and far finer than needed: extended precision against float64, where float32 is judged."""
    problem, loop = quadratic(1e2)
    cheap, dear = (certified_unrolled(problem, loop, STEPS, EXTENDED, finest) for finest in (FLOAT32, FLOAT64))
    assert torch.equal(rounded(cheap.sweep.value), rounded(dear.sweep.value))
    plain = certified_unrolled(problem, loop, STEPS, FLOAT64, FLOAT32).sweep.value
    for end in range(len(STEPS)):
        apart = relative(plain[end], cheap.sweep.value[end])
        check_ratio("uncertainty by float64", (cheap.uncertainty[end] - apart).abs(), 2.0**-52 * apart)
    assert bool((dear.uncertainty[1:] < 2.0**-20 * cheap.uncertainty[1:]).all())


def test_the_two_settings_differ_in_nothing_but_the_cut() -> None:
    seen: list[Precision] = []

    def compute(setting: Precision) -> dict[str, Sweep]:
        seen.append(setting)
        return {"x": one_sweep(vectors(2, 3))}

    found = certified(compute, EXTENDED, EXTENDED)
    assert [setting.eps for setting in seen] == [EXTENDED.eps, COARSER["extended"]]
    assert found["x"].uncertainty.tolist() == [[0.0, 0.0]]
    assert coarser(FLOAT64).eps == COARSER["float64"] and coarser(FLOAT64).name != "float64"
    with pytest.raises(KeyError):
        coarser(FLOAT32)


def test_a_number_that_one_setting_alone_has_is_vouched_for_by_nothing() -> None:
    value, gone = torch.ones(3, 2).double(), torch.ones(3, 2).double()
    value[2], gone[1:] = torch.nan, torch.nan
    sweeps = iter([one_sweep(value), one_sweep(gone)])
    found = certified(lambda setting: {"x": next(sweeps)}, FLOAT64, FLOAT32)["x"]
    assert found.uncertainty[0, :2].tolist() == [0.0, torch.inf] and bool(found.uncertainty[0, 2].isnan())
    assert found.cannot_tell(torch.tensor([[0.5, 0.5, 0.5]])).tolist() == [[False, True, False]]


# ---- what a reference cannot tell


def test_an_error_below_a_hundred_uncertainties_is_not_told() -> None:
    known = Certified(one_sweep(torch.ones(4, 2).double()), "float64", torch.tensor([[1e-15, 1e-15, 0.0, torch.nan]]))
    at = ACCEPTED * 1e-15
    told = known.cannot_tell(torch.tensor([[0.999 * at, 1.001 * at, 0.0, 1.0]]))
    assert told.tolist() == [[True, False, False, False]]
    assert known.cannot_tell(torch.tensor([0.0, torch.nan, 1e-300, 1e-300])).tolist() == [True, False, False, False]


def grid(**more: object) -> list[dict[str, object]]:
    given: dict[str, object] = {"steps": (5,), "iterations": (2,), "tasks": 2, "seed": 0}
    return measure_grid(GridCell(problem="quadratic[dimension=3]", **(given | more)))  # type: ignore[arg-type]


def test_rows_say_which_reference_they_were_judged_by_and_what_it_cannot_tell() -> None:
    """Float64 against a float64 reference is not told; against an extended one it is."""
    for seconds, reference, expected in ((0.0, "float64", "unresolved"), (1e9, "extended", "ok")):
        rows = [
            row
            for row in grid(precision="float64", reference_seconds=seconds)
            if row["estimator"] == "unrolled_adjoint" and row["target"] == "unrolled"
        ]
        assert len(rows) == 2
        for row in rows:
            assert row["reference"] == reference and row["outcome"] == expected
            error, uncertainty = row["relative_error"], row["reference_uncertainty"]
            assert isinstance(error, float) and isinstance(uncertainty, float)
            assert (error < ACCEPTED * uncertainty) == (expected == "unresolved")
            assert error < 1e-13  # the number stays in view


def test_every_measured_row_names_its_reference() -> None:
    rows = grid(precision="float32", reference_seconds=0.0)
    for row in rows:
        known = not str(row["estimator"]).startswith(("predicted", "bound"))
        assert (row.get("reference") in ("float64", "extended")) == known, row["estimator"]
    assert {row["reference"] for row in rows if row.get("target") == "exact_solve" and "reference" in row} == {
        "float64"
    }


# ---- which arithmetic can be afforded


@pytest.mark.parametrize("name", ["quadratic", "sinusoid"])
def test_extended_is_taken_while_the_estimate_allows_it(name: str) -> None:
    problem = small(name)
    theta, data = problem.draw(3, 0)

    def taken(steps: int, seconds: float) -> str:
        return affordable(problem, theta, data, steps, seconds).name

    assert taken(0, 0.0) == "float64" and taken(10**6, 10.0) == "float64" and taken(10, 1e9) == "extended"
    for seconds in (1.0, 20.0, 300.0):
        names = [taken(steps, seconds) for steps in (0, 1, 3, 10, 30, 100, 300, 1000, 10**4, 10**5)]
        assert names == sorted(names)  # "extended" first, and never again once it was too much
    for steps in (1, 100):
        names = [taken(steps, seconds) for seconds in (0.0, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4)]
        assert names == sorted(names, reverse=True)


def test_the_estimate_is_of_two_settings_of_so_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = small("quadratic")
    theta, data = problem.draw(2, 0)
    monkeypatch.setattr(module, "SECONDS_A_STEP", 1.0)
    monkeypatch.setattr(module, "SECONDS_A_NUMBER", 0.0)
    for steps in (0, 4):
        need = 2.0 * (steps + 1)
        assert affordable(problem, theta, data, steps, need).name == "extended"
        assert affordable(problem, theta, data, steps, need * 0.999).name == "float64"
    # More tasks keep more numbers.
    monkeypatch.setattr(module, "SECONDS_A_STEP", 0.0)
    monkeypatch.setattr(module, "SECONDS_A_NUMBER", 1.0)
    seconds = 1.0
    while affordable(problem, theta, data, 1, seconds).name == "float64":
        seconds *= 2
    assert affordable(problem, *problem.draw(20, 0), 1, seconds).name == "float64"


def test_a_loop_that_diverges_leaves_its_outcome_in_the_reference() -> None:
    problem, loop = quadratic(10.0, tasks=2)
    data = {key: value.clone() for key, value in loop.data.items()}
    data["A"][1] *= 1e30
    loop = run_inner(problem, gd(problem), loop.theta, data, max(STEPS))
    found = certified_unrolled(problem, loop, STEPS, EXTENDED, FLOAT64)
    assert decode(found.sweep.outcome[-1]) == [Outcome.OK, Outcome.DIVERGED]
    assert bool(found.uncertainty[-1, 0] < 1e-20) and bool(found.uncertainty[-1, 1].isnan())


def test_every_arithmetic_of_a_reference_has_a_coarser_setting() -> None:
    assert set(COARSER) <= set(PRECISIONS)
    for name, eps in COARSER.items():
        assert eps > ACCEPTED * precision(name).eps
