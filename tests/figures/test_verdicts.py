"""The verdicts follow the data: tables whose truth is known, and the same tables changed."""

import re

import pandas as pd
import pytest

from figures.section import Verdict, sections
from tests.figures.made_up import diverged, fail, grid


def verdict(name: str, table: pd.DataFrame) -> Verdict:
    (only,) = sections[name].verdicts(table)
    return only


def worsening(steps, iterations):
    """Good at 2 iterations, worse with more, until 200 steps have been taken."""
    return 0.999 if steps >= 200 and iterations > 2 else {1: 0.9, 2: 0.96, 5: 0.8, 20: 0.61}[iterations]


INDEFINITE = {"stationarity": lambda steps: 2.4 / steps, "indefinite": lambda steps: 0.75 if steps < 200 else 0.0}


def test_more_cg_helps():
    found = verdict("cg", grid())
    assert found.answer == "more CG helps"
    assert "more CG helps" in found.sentence and "positive definite in all 32 tasks" in found.sentence


def test_more_cg_hurts_and_the_curvature_says_why():
    found = verdict("cg", grid(cosine=worsening, stopping=lambda steps, iterations: 0.92, **INDEFINITE))
    assert found.answer == "more CG hurts at 1 to 20 inner steps"
    assert re.search(
        r"falls from 0\.9[56]\d* \[.*\] at 2 CG iterations to 0\.61 \[0\.61, 0\.61\] at 20", found.sentence
    )
    assert "has not converged (the inner gradient is still 12% of its first)" in found.sentence
    assert "indefinite in 24 of 32 tasks, where CG meets negative curvature" in found.sentence
    assert "It falls in the 8 tasks with a positive definite Hessian as well" in found.sentence
    assert "stops at negative curvature keeps 0.92" in found.sentence
    assert re.search(r"At 200 inner steps 5 CG iterations reach 0\.999", found.sentence)
    assert "warning" not in found.sentence  # at 200 steps every Hessian is definite


def test_more_cg_hurts_at_a_definite_hessian_for_another_reason():
    found = verdict("cg", grid(cosine=worsening, stationarity=lambda steps: 2.4 / steps))
    assert "positive definite in all 32 tasks, so CG does approach the solution" in found.sentence
    assert "negative curvature" not in found.sentence


def test_a_fall_in_the_indefinite_tasks_alone_is_told_apart():
    bad, good = grid(cosine=worsening, **INDEFINITE), grid(cosine=lambda steps, iterations: 0.96, **INDEFINITE)
    mixed = good.where(good["min_eigenvalue"] > 0, bad)
    found = verdict("cg", mixed.astype(bad.dtypes))
    assert "It does not fall in the 8 tasks with a positive definite Hessian" in found.sentence


def test_a_fall_within_chance_is_not_called_one():
    noisy = grid(cosine=lambda steps, iterations: 0.9, spread=0.0)
    signs = (noisy["task"] % 2 * 2 - 1) * (noisy["solver_iterations"].fillna(0) == 20) * 0.2
    noisy["cosine"] = (noisy["cosine"] + signs.astype(float)).clip(upper=1.0)
    assert "hurts" not in verdict("cg", noisy).answer


def test_implicit_numbers_at_an_indefinite_hessian_carry_the_warning():
    always = grid(indefinite=lambda steps: 0.25)
    for name in ("steps", "surface"):
        found = verdict(name, always)
        assert "(warning: inner Hessian indefinite in 8 of 32 tasks)" in found.answer + found.sentence, name
    assert "warning" in verdict("steps", always).answer


def test_steps_follow_the_error():
    close = verdict("steps", grid(cosine=lambda steps, iterations: 1 - 0.1 / steps**2, spread=0.0))
    assert close.answer == "the implicit gradient is within 1% of the unrolled one at 200 inner steps"
    far = verdict("steps", grid(cosine=lambda steps, iterations: 0.5))
    assert far.answer.startswith("the implicit gradient is still off by 100%")
    assert "first-order gradient is off by 100%" in far.sentence


def test_no_stationary_gradient_is_said_with_its_reason():
    found = verdict("steps", grid(no_minimiser=True))
    assert "no minimiser reached in 32 of 32 tasks" in found.sentence and "smooth the loss" in found.sentence
    assert (
        "No cosine to the stationary gradient: no minimiser reached in 32 of 32"
        in verdict("surface", grid(no_minimiser=True)).sentence
    )


@pytest.mark.parametrize("name", ["steps", "cg", "surface", "curvature"])
def test_all_diverged(name):
    table = grid()
    table = fail(table, table["seed"] >= 0, "diverged")
    table[["stationarity", "min_eigenvalue", "max_eigenvalue"]] = float("nan")
    found = verdict(name, table)
    assert found.answer == "no number" and "diverged in 32 of 32 tasks" in found.sentence


def test_loops_that_diverge_late_are_not_passed_over():
    for name in ("steps", "cg", "surface", "curvature"):
        assert "diverged in 32 of 32 tasks by 200 inner steps" in verdict(name, diverged()).sentence, name


def test_surface_names_the_cheapest_setting_that_is_kept():
    def cosine(steps, iterations):
        if (steps, iterations) == (1, 1):
            return 0.995  # an accident: larger settings lose it
        return 0.9995 if steps >= 200 and iterations >= 5 else 0.95 if steps >= 20 and iterations >= 2 else 0.5

    found = verdict("surface", grid(cosine=cosine, spread=1e-5))
    assert found.answer == "a cosine of 0.999 from 200 inner steps with 5 CG iterations on"
    assert "0.9 from 20 inner steps with 2 CG iterations" in found.sentence


def test_surface_warns_of_a_good_number_where_the_formula_does_not_apply():
    found = verdict("surface", grid(cosine=worsening, **INDEFINITE))
    assert "A trap: " in found.sentence and "more iterations lose it" in found.sentence


def test_curvature_follows_the_eigenvalues():
    fine = verdict("curvature", grid())
    assert fine.answer == "the formula applies, nearly, from 20 inner steps on"
    assert "positive definite in every task" in fine.sentence
    bad = verdict("curvature", grid(**INDEFINITE))
    assert "indefinite in 24 of 32 tasks at 1 inner step" in bad.sentence and "in 0 of 32 tasks at 200" in bad.sentence
    assert "At 1 to 20 inner steps it is so in most tasks" in bad.sentence
    never = verdict("curvature", grid(indefinite=lambda steps: 0.5))
    assert never.answer == "the formula does not apply in 16 of 32 tasks even at 200 inner steps"


def test_a_loop_that_does_not_settle_is_told_from_its_step_and_curvature():
    restless = grid(stationarity=lambda steps: 0.1 if steps == 20 else 0.5)
    restless["max_eigenvalue"] = 19.5
    assert "2 is where gradient descent becomes unstable" in verdict("curvature", restless).sentence
    restless["max_eigenvalue"] = 1.0
    said = verdict("curvature", restless).sentence
    assert "does not settle" in said and "unstable" not in said


def test_no_interval_is_made_up_for_few_tasks():
    assert "[" not in verdict("steps", grid(tasks=2)).sentence
