"""Tolerances: against their formulas written out, against other roundings of real cells, and against real mistakes."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses.compare import compare
from analyses.grid import GridCell, measure
from analyses.settings import resolve
from analyses.table import tidy
from analyses.tolerances import CONSTANT, amplification, condition, larger, tolerances

EPS32 = float(np.finfo(np.float32).eps)


def row(**more: object) -> dict[str, object]:
    known: dict[str, object] = {
        "problem": "p", "task": 0, "seed": 0, "inner_optimizer": "gd", "inner_steps": 10, "inner_lr": 0.1,
        "strength": 1.0, "estimator": "implicit", "precision": "float32", "min_eigenvalue": 0.5, "max_eigenvalue": 5.0,
        "norm_ratio": 1.0, "relative_error": 0.1, "cosine_distance": 0.005, "outcome": "ok", "reference": "float64",
    }  # fmt: skip
    return known | more


@pytest.mark.parametrize(
    ("more", "rho"),
    [({}, 0.95), ({"max_eigenvalue": 30.0}, 2.0), ({"min_eigenvalue": -1.0}, 1.1), ({"inner_lr": 0.0}, 1.0),
     ({"inner_optimizer": "adam"}, 1.0), ({"growth_rate": np.log(1.3)}, 1.3), ({"min_eigenvalue": None}, 1.0),
     ({"min_eigenvalue": 10.0, "max_eigenvalue": 10.0}, 0.0)],
)  # fmt: skip
def test_amplification_is_the_sum_over_the_steps(more: dict[str, object], rho: float) -> None:
    for steps in (0, 1, 10, 200):
        (found,) = amplification(tidy([row(inner_steps=steps, **more)]))
        assert found == pytest.approx(1 + sum(rho**j for j in range(1, steps + 1)), rel=1e-9)


def test_condition_is_that_of_a_solve_and_has_no_bound_where_the_hessian_is_indefinite() -> None:
    rows = tidy([row(), row(estimator="unrolled"), row(min_eigenvalue=-1e-9), row(min_eigenvalue=1e-9)])
    assert condition(rows) == pytest.approx([10.0, 1.0, np.inf, np.inf], rel=1e-4)


def test_the_formulas_written_out() -> None:
    found = tolerances(tidy([row(norm_ratio=2.0, reference_uncertainty=1e-9, min_eigenvalue=1.0, inner_steps=1)]))
    delta = CONSTANT * (EPS32 * 5 * 1.9 * 2.0 + 1e-9 * 2.0)
    assert found["relative_error"][0] == pytest.approx(delta, rel=1e-4)
    assert found["norm_ratio"][0] == pytest.approx(delta, rel=1e-4)
    angle = CONSTANT * (EPS32 * 5 * 1.9 + 1e-9)
    assert found["cosine_distance"][0] == pytest.approx(0.1 * angle + angle**2, rel=1e-4)
    assert found["max_eigenvalue"][0] == pytest.approx(CONSTANT * EPS32 * 1.9 * 5, rel=1e-4)
    assert found["solver_residual"][0] == pytest.approx(CONSTANT * EPS32 * 5 * 1.9, rel=1e-4)


def test_an_unfinished_solve_is_bounded_by_what_it_lacks() -> None:
    early, late = (
        tolerances(tidy([row(solver_iterations=i, solver_residual=1e-3, min_eigenvalue=1e-2)])) for i in (1, 9)
    )
    assert early["relative_error"][0] < 1e-3 * np.sqrt(500)
    exact = tolerances(tidy([row(min_eigenvalue=1e-2)]))["relative_error"][0]
    assert late["relative_error"][0] - exact == pytest.approx(1e-3 * np.sqrt(500), rel=1e-2)


def test_which_run_is_the_first_makes_no_difference() -> None:
    one, other = tidy([row(min_eigenvalue=0.1)]), tidy([row(max_eigenvalue=9.0, norm_ratio=3.0)])
    found = [tolerances(larger(*pair)) for pair in ((one, other), (other, one))]
    assert found[0] == found[1]


SETTINGS = resolve(("steps",), "smoke", {"chunk": 0}, {"precisions": ["float32"]})


@cache
def measured(problem: str, **more: Any) -> pd.DataFrame:
    asked: dict[str, Any] = {"seed": 1, "tasks": 4, "steps": (1, 5), "iterations": (1, 2, 5), "precision": "float32"}
    return tidy(measure(GridCell(problem, **{**asked, "patience": 300, **more}))).assign(analysis="steps", chunk=4)


def outside(expected: pd.DataFrame, found: pd.DataFrame) -> dict[str, int]:
    lines = compare(SETTINGS, {"steps": expected}, {"steps": found}, bitwise=False)
    return {line.column: line.outside for line in lines if line.outside}


@pytest.mark.parametrize("problem", ["quadratic", "sinusoid[strength=50]"])
def test_other_roundings_of_the_same_cell_are_within(problem: str) -> None:
    """Tasks one at a time are multiplied by other kernels than four together."""
    together, alone = measured(problem), measured(problem, chunk=1)
    assert not together["norm_ratio"].equals(alone["norm_ratio"])  # else this shows nothing
    assert outside(together, alone) == {}


@pytest.mark.parametrize(
    ("problem", "mistake"),
    [("quadratic", {"inner_lr": 1.01}), ("quadratic", {"strength": 1.01}), ("quadratic", {"steps": (1, 4)}),
     ("sinusoid[strength=50]", {"inner_lr": 1.01})],
)  # fmt: skip
def test_a_small_mistake_is_outside(problem: str, mistake: dict[str, Any]) -> None:
    """A step size or a strength that is off by one percent, and a loop that ends a step too early."""
    right = measured(problem)
    own = {name: by if name == "steps" else by * float(right[name].iloc[0]) for name, by in mistake.items()}
    wrong = measured(problem, **own)
    asked = ["inner_lr", "strength", "inner_steps"]
    found = outside(right, wrong.assign(**{name: right[name] for name in asked}))
    assert {"norm_ratio", "relative_error", "cosine_distance"} <= set(found)


def test_iterates_of_the_solver_are_told_apart() -> None:
    right = measured("quadratic")
    swapped = right.assign(solver_iterations=right["solver_iterations"].replace({1: 2, 2: 1}))
    assert outside(right, swapped).get("solver_residual", 0) > 10
