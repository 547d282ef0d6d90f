"""The rescaling section: its verdicts follow made-up tables, and its figure draws what they have and lack."""

from math import nan

import numpy as np
import pandas as pd
import pytest

from analyses.table import tidy
from figures.rescaling import draw, summary, verdicts
from figures.scalings import COLUMNS, scalings, studied, under
from figures.section import Verdict
from tests.figures.test_sections import texts_outside

ROUNDING = {"none": 1e-7, "power_of_two": 1e-7, "standardize": 5e-7, "scale:1000": 2e-6}
APART = {"none": 0.2, "power_of_two": 0.2, "standardize": 0.8, "scale:1000": 0.9}
STATIONARY = {"none": (0.6, 0.3), "power_of_two": (0.6, 0.3), "standardize": (0.9, 0.4), "scale:1000": (0.9, 0.9)}
BACK = {"power_of_two": 1e-8, "standardize": 0.8, "scale:1000": 12.0}


def study(
    problem="made_up",
    *,
    rounding=ROUNDING,
    apart=APART,
    stationary=STATIONARY,
    back=BACK,
    steps=(1, 10, 100),
    tasks=8,
    precisions=("float32",),
    strength=0.5,
):
    """A study with these errors at every number of steps, times 1 to 2 by task; the references are extended."""
    rows = []
    for scaling in rounding:
        two = 4.0 if scaling == "power_of_two" else 1.0
        for task in range(tasks):
            for count in steps:
                common = {
                    "problem": problem, "seed": 0, "task": task, "inner_steps": count, "inner_optimizer": "gd",
                    "scaling": scaling, "inner_lr": 0.1 / two, "strength": strength * two, "damping": 0.0,
                    "reference": "extended", "outcome": "ok", "analysis": "rescaling",
                }  # fmt: skip
                rows += [common | row for row in gradients(scaling, rounding, apart, stationary, back, precisions)]
    table = tidy(rows)
    return table.assign(relative_error=table["relative_error"] * (1 + table["task"].astype(float) / tasks))


def gradients(scaling, rounding, apart, stationary, back, precisions):
    maml = {"estimator": "unrolled_adjoint"}
    implicit = {"estimator": "implicit", "solver": "cg_unchecked", "solver_iterations": 5, "precision": "extended"}
    for place, precision in enumerate(precisions):
        error = rounding[scaling] * 1000**place
        yield maml | {"precision": precision, "target": "exact_arithmetic", "relative_error": error}
    if scaling in back:
        yield maml | {"precision": "extended", "target": "original", "relative_error": back[scaling]}
    if apart:
        yield implicit | {"target": "unrolled", "relative_error": apart[scaling]}
        yield implicit | {"target": "unrolled", "relative_error": 9.0, "solver_iterations": 2}
        yield implicit | {"target": "stationary", "relative_error": stationary[scaling][1]}
        yield maml | {"precision": "extended", "target": "stationary", "relative_error": stationary[scaling][0]}


def fail(table, outcome, state, error, *, scaling, steps, precision="float32"):
    """The table with MAML's gradients of this many steps and more failed."""
    table = table.copy()
    rows = (table["scaling"] == scaling) & (table["inner_steps"] >= steps) & (table["precision"] == precision)
    table.loc[rows, "outcome"] = outcome
    table.loc[rows, "outcome_step"] = state
    table.loc[rows, "relative_error"] = error
    return table


def places(panel, wanted):
    """Where the lines of a panel that are wanted have points."""
    found = [np.asarray(line.get_xdata()).tolist() for line in panel.lines if wanted(line)]
    return [xs for xs in found if xs]


def verdict(table) -> Verdict:
    (only,) = verdicts(table)
    return only


def test_small_rounding_and_a_difference_that_remains():
    found = verdict(study())
    assert found.problem == "made_up"
    assert found.answer.startswith(
        "MAML and iMAML differ without rounding too, by 29% as the data are and 29% to 130% rescaled"
    )
    assert "float32 rounding is at most 2.2e-6 of the difference" in found.answer
    assert (
        "1.4e-7 as the data are, 1.4e-7 under power_of_two (no change), 7.2e-7 under standardize (5 times as much)"
        in (found.sentence)
    )
    assert "the same error in every task at 1 to 100 inner steps: it is one loop" in found.sentence
    assert "at most 1.4e-8 off that of the original problem" in found.sentence
    assert "carried back, is off by 120% under standardize and 17 times under scale:1000" in found.sentence
    assert "(5 CG iterations)" in found.sentence and "Computed in extended precision" in found.sentence
    assert "MAML is the farther of the two as the data are and under power_of_two and standardize." in found.sentence


def test_a_visible_part_and_a_difference_that_is_gone():
    found = verdict(study(rounding=ROUNDING | {"standardize": 0.04, "scale:1000": 2.0}))
    assert "float32 rounding is a visible part of the difference: 5% under standardize" in found.answer
    assert "under scale:1000 they differ by no more than float32 rounds" in found.answer
    assert "29% to 120% rescaled" in found.answer  # without scale:1000
    assert "at most" not in found.answer


def test_rounding_is_that_of_the_coarsest_arithmetic():
    found = verdict(study(precisions=("float64", "float32", "bfloat16")))
    assert "rounding error in bfloat16 at 100 inner steps is 14% as the data are" in found.sentence


def test_underflow_that_power_of_two_removes():
    zero = study(apart={}, strength=0.0, rounding={"none": 1e-7, "power_of_two": 1e-7}, back={"power_of_two": 1e-8})
    found = verdict(fail(zero, "underflow", 60, 1.0, scaling="none", steps=100))
    assert found.answer == "power_of_two moves MAML's underflow in float32 from 100 to beyond 100 inner steps"
    assert "100% as the data are (underflow in 8 of 8 tasks, at state 60)" in found.sentence
    assert "in most tasks from 100 inner steps on (at state 60 of 100) as the data are" in found.sentence
    assert "within 100 inner steps nothing fails so under power_of_two" in found.sentence
    assert "at 1 and 10 inner steps: it is one loop" in found.sentence
    assert "scale the loss" in found.sentence and "iMAML" not in found.sentence


@pytest.mark.parametrize(
    ("steps", "state", "said"),
    [(100, 60, "moves MAML's underflow in float32 from 10 to 100 inner steps"),
     (10, 3, "moves MAML's underflow in float32, at 10 inner steps, from state 6 to 3"),
     (10, 6, "does not move MAML's underflow in float32 (10 inner steps)")],
)  # fmt: skip
def test_underflow_that_power_of_two_moves(steps, state, said):
    table = study(apart={}, strength=0.0, rounding={"none": 1e-7, "power_of_two": 1e-7})
    table = fail(table, "underflow", 6, 1.0, scaling="none", steps=10)
    table = fail(table, "underflow", 96, 1.0, scaling="none", steps=100)  # a longer loop's state says nothing here
    table = fail(table, "underflow", state, 1.0, scaling="power_of_two", steps=steps)
    assert verdict(table).answer == f"power_of_two {said}"


def test_without_imaml_the_answer_is_how_much_rounding_changes():
    found = verdict(study(apart={}, strength=0.0))
    assert found.answer == "rescaled, MAML's rounding error in float32 is 1 to 20 times as large at 100 inner steps"


def test_overflow_has_no_number_and_is_marked():
    table = fail(study(), "diverged", 7, nan, scaling="scale:1000", steps=10)
    found = verdict(table)
    assert "no number under scale:1000 (diverged in 8 of 8 tasks, at state 7)" in found.sentence
    assert "the loop overflows in most tasks from 10 inner steps on (at state 7 of 10) under scale:1000" in (
        found.sentence
    )
    panel = draw(table).axes[0]
    assert places(panel, lambda line: line.get_marker() == "x") == [[10, 100]]


def test_underflow_is_hollow():
    table = fail(study(), "underflow", 7, 1.0, scaling="standardize", steps=100)
    hollow = places(draw(table).axes[0], lambda line: line.get_markerfacecolor() == "white")
    assert hollow == [[100]]


def test_another_error_under_power_of_two_is_told():
    found = verdict(study(rounding=ROUNDING | {"power_of_two": 2e-7}))
    assert "another error in 24 of 24 gradients" in found.sentence and "one loop" not in found.sentence


def test_nothing_rescaled_nothing_measured_and_an_empty_table():
    assert verdict(study(rounding={"none": 1e-7})).answer == "not rescaled"
    table = study()
    assert verdict(table[table["estimator"] == "implicit"]).answer == "not measured"
    assert verdicts(table.iloc[:0]) == () and summary(table.iloc[:0]).empty
    assert draw(table.iloc[:0]).texts[0].get_text() == "no rounding error was measured"


def test_the_units_of_power_of_two_make_no_case_of_their_own():
    table = pd.concat([study(), study(strength=2.0)])  # one problem, two strengths
    names = [found.problem for found in verdicts(table)]
    assert names == ["made_up, strength 0.5", "made_up, strength 2.0"]
    seen = studied(table)
    assert set(seen.loc[seen["scaling"] == "power_of_two", "strength"]) == {0.5, 2.0}
    assert set(seen["inner_lr"]) == {0.1}


def test_a_table_without_strength_or_unscaled_rows_is_one_case():
    table = study().assign(strength=nan)
    assert len(verdicts(table)) == 1
    alone = study(rounding={"power_of_two": 1e-7, "standardize": 2e-7})
    assert len(verdicts(alone)) >= 1 and draw(alone)


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(column):
    with pytest.raises(ValueError, match=f"figure rescaling: expected the column {column}"):
        draw(study(tasks=1).drop(columns=column))


@pytest.mark.parametrize(
    "table",
    [
        lambda: study(tasks=1, steps=(10,), rounding={"none": 1e-7, "power_of_two": 1e-7}),
        lambda: study().assign(relative_error=nan),
        lambda: study().assign(relative_error=np.inf),
        lambda: study().assign(relative_error=0.0),
        lambda: study(apart={}, strength=0.0, back={}),
        lambda: study(
            rounding={"none": 1e-7} | {f"scale:{n}": 1e-7 for n in range(1, 7)},
            apart={}, back={}, precisions=("float64", "posit16"),
        ),
        lambda: pd.concat([study(), study("another[size=3]", apart={})]),
    ],
)  # fmt: skip
def test_draws_and_says(table):
    table = table()
    before = table.copy()
    assert not texts_outside(draw(table))
    for found in verdicts(table):
        text = found.answer + found.sentence
        assert found.answer and found.sentence.endswith(".") and "nan" not in text.lower() and "  " not in text
    assert len(summary(table)) and table.equals(before)


def test_words():
    assert under(["none"]) == "as the data are" and under(["whiten", "none"]) == "as the data are and under whiten"
    table = pd.DataFrame({"scaling": ["scale:1000", "whiten", "scale:0.1", "none", "odd", "power_of_two"]})
    assert scalings(table) == ["none", "power_of_two", "whiten", "scale:0.1", "scale:1000", "odd"]


def test_summary_has_a_row_a_line_and_step():
    table = summary(study())
    assert len(table) == 3 * (4 + 4 + 3)
    row = table[(table["target"] == "unrolled") & (table["scaling"] == "standardize")].iloc[0]
    assert row["relative_error"] == pytest.approx(0.8 * 1.4375)  # the median of 1 + task / 8
