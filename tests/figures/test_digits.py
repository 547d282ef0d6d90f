"""The section on lost digits: its verdicts follow made-up traces, and its figure draws what they have and lack."""

from math import exp, inf, log, nan

import numpy as np
import pandas as pd
import pytest

from analyses.table import tidy
from figures.digits import STATES, draw, summary, verdicts
from figures.section import Verdict
from figures.traces import COLUMNS, run_out, stretched, traced
from tests.figures.test_sections import texts_outside

KINDS = {"product": 0.2, "sum": 0.0, "elementary": 0.5, "arithmetic": 3.0, "all": 3.2}
EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7, "posit16": 1e-3}


def trace(
    problem="made_up", *, share=0.2, rate=0.02, steps=20, tasks=8, precisions=("float32",), kinds=KINDS, strength=0.5
):
    """A traced loop, errors in units of epsilon: `share` of the adjoint's is the states', times 1 to 2 by task."""
    rows = []
    for precision in precisions:
        unit = EPS[precision]
        for task in range(tasks):
            common = {
                "analysis": "digits", "problem": problem, "seed": 0, "task": task, "inner_optimizer": "gd",
                "inner_lr": 0.1, "strength": strength, "damping": 0.0, "precision": precision, "scaling": "none",
                "target": "exact_arithmetic", "outcome": "ok",
            }  # fmt: skip
            wobble = unit * (1 + task / tasks)
            for k in range(steps + 1):
                back = 1.0 + steps - k
                errors = {
                    "state": k * 0.5, "state_local": 0.5 * (k > 0), "adjoint": back, "adjoint_by_states": share * back,
                    "adjoint_by_sweep": (1 - share) * back, "adjoint_local": 0.25,
                }  # fmt: skip
                for name, error in errors.items():
                    label = {"estimator": f"trace_{name}", "inner_steps": k, "relative_error": error * wobble}
                    rows.append(common | label)
            for kind, error in kinds.items():
                label = {"estimator": f"rounded_{kind}", "inner_steps": steps, "relative_error": error * wobble}
                rows.append(common | label)
            for count in (1, steps):
                label = {"estimator": "predicted_rounding", "inner_steps": count, "growth_rate": rate}
                rows.append(common | label | {"outcome": "prediction", "relative_error": unit})
    return tidy(rows)


def verdict(table) -> Verdict:
    (only,) = verdicts(table)
    return only


def test_the_sweep_loses_the_digits():
    found = verdict(trace(steps=100))
    assert found.answer == "the adjoint's error comes mostly from the sweep's own rounding in float32 (80%)"
    assert "In float32 the adjoint that arrives at the start of 100 inner steps is off by 1.7e-5 [" in found.sentence
    assert "20% of that comes from the wrong states, and 80% from the sweep's own rounding" in found.sentence
    assert "The last state is off by 8.6e-6, where a step alone is by 8.6e-8." in found.sentence


def test_the_states_lose_the_digits_and_the_adjoint_is_the_gradient():
    found = verdict(trace(share=0.9, strength=0.0))
    assert found.answer == "the adjoint's error comes mostly from the wrong states in float32 (90%)"
    assert "start of 20 inner steps, which is the gradient, is off by" in found.sentence


def test_both_alike_and_each_arithmetic_told_apart():
    table = pd.concat([trace(share=0.5), trace(share=0.9, precisions=("float16", "bfloat16"))], ignore_index=True)
    assert verdict(table).answer == (
        "the adjoint's error comes mostly from the wrong states in float16 (90%) and bfloat16 (90%) and from both "
        "alike in float32 (50% from the wrong states)"
    )
    assert verdict(trace(share=0.5)).answer == (
        "the adjoint's error comes from both alike in float32 (50% from the wrong states)"
    )


def test_the_share_is_taken_task_by_task():
    table = trace(tasks=9)
    first = (table["task"] < 5) & (table["inner_steps"] == 0)
    table.loc[first & (table["estimator"] == "trace_adjoint_by_states"), "relative_error"] = 3e-6
    table.loc[first & (table["estimator"] == "trace_adjoint_by_sweep"), "relative_error"] = 1e-6
    assert "from the wrong states in float32 (75%)" in verdict(table).answer


def test_kinds_of_operation_are_ranked():
    sentence = verdict(trace()).sentence
    assert "Rounding elementwise arithmetic alone puts the gradient off by 5.1e-7 (" in sentence
    assert "(elementary functions 8.6e-8, matrix products 3.4e-8, sums 0), and rounding all kinds by 5.5e-7" in sentence
    other = verdict(trace(kinds={"product": 7.0, "arithmetic": 1.0, "all": 8.0})).sentence
    assert "Rounding matrix products alone" in other and "sums" not in other
    assert "Rounding" not in verdict(trace(kinds={})).sentence


def test_an_expanding_loop_runs_out_of_digits_at_the_predicted_step():
    sentence = verdict(trace(rate=0.5, precisions=("float32", "float16"))).sentence
    at = {name: round(log(2 / EPS[name]) / 0.5) for name in ("float32", "float16")}
    assert at == {"float32": 33, "float16": 15}
    assert "stretches a difference by 65% a step (growth rate 0.5)" in sentence
    assert "the digits are predicted to run out at step 33 in float32 and 15 in float16." in sentence
    assert "In the 20 inner steps traced no state's median error reaches 50%." in sentence


def test_digits_that_did_run_out_are_told_beside_the_prediction():
    table = trace(rate=0.5, precisions=("bfloat16",))
    late = (table["estimator"] == "trace_state") & (table["inner_steps"] >= 12)
    table.loc[late, "relative_error"] = 0.9
    assert "run out at step 11 in bfloat16. The states' median error reaches 50% at step 12 in bfloat16." in (
        verdict(table).sentence
    )


@pytest.mark.parametrize(
    ("rate", "said"),
    [(-0.1, "shrinks a difference by 9.5% a step (growth rate -0.1), so no step is predicted"),
     (-inf, "shrinks a difference by 100% a step (growth rate -inf), so no step is predicted"),
     (0.0, "stretches a difference by 0 a step (growth rate 0)."),
     (nan, "The growth rate of the loop is not known.")],
)  # fmt: skip
def test_the_sign_of_the_growth_rate(rate, said):
    assert said in verdict(trace(rate=rate)).sentence
    assert draw(trace(rate=rate))


def test_what_one_rounding_becomes():
    assert stretched(0.1, "float32", 30) == 2.0**-24 * exp(0.1 * 30)
    step = run_out(0.1, "float16_pure")
    assert step is not None and stretched(0.1, "float16", step) == pytest.approx(1, rel=8 * 2.0**-52)  # exp and log
    assert run_out(0.0, "float32") is None and run_out(nan, "float32") is None and run_out(0.1, "posit16") is None
    assert np.isnan(stretched(0.1, "posit16", 1)) and np.isnan(stretched(1e3, "float32", 1e3))


def test_failures():
    table = trace(tasks=4)
    lost = table["outcome"] == "ok"
    table.loc[lost & (table["task"] == 0), "outcome"] = "diverged"
    table.loc[lost & (table["task"] == 0), "relative_error"] = nan
    assert "In float32, diverged in 1 of 4 tasks. The inner loop overflowed" in verdict(table).sentence
    assert "diverged in 1 of 4 tasks" in [text.get_text() for text in draw(table).texts]
    table.loc[lost, "relative_error"] = nan
    found = verdict(table)
    assert (
        found.answer == "no number" and "The adjoint at the start of the loop has no error to divide." in found.sentence
    )
    assert "no number" in [text.get_text() for axes in draw(table).axes for text in axes.texts]


def test_nothing_traced_and_an_empty_table():
    table = trace()
    assert verdict(table[table["estimator"] == "predicted_rounding"]).answer == "not measured"
    assert verdicts(table.iloc[:0]) == () and summary(table.iloc[:0]).empty
    assert draw(table.iloc[:0]).texts[0].get_text() == "no loop was traced"


def test_the_figure_has_a_row_for_the_finest_and_the_coarsest_arithmetic():
    figure = draw(trace(precisions=("float32", "float16", "bfloat16")))
    assert [axes.get_ylabel() for axes in figure.axes[::3]] == ["relative error, float32", "relative error, bfloat16"]


def test_the_states_are_drawn_from_the_first_step_on():
    """The start is exact, and the same in every arithmetic."""
    panel = draw(trace()).axes[0]
    drawn = [np.asarray(line.get_xdata()).tolist() for line in panel.lines if line.get_color() == STATES]
    assert max(drawn, key=len) == list(range(1, 21))


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(column):
    with pytest.raises(ValueError, match=f"figure digits: expected the column {column}"):
        draw(trace(tasks=1, steps=2).drop(columns=column))


@pytest.mark.parametrize(
    "table",
    [
        lambda: trace(tasks=1, steps=1),
        lambda: trace(tasks=1, steps=0),
        lambda: trace().assign(relative_error=inf),
        lambda: trace().assign(relative_error=0.0),
        lambda: trace(precisions=("posit16",)),
        lambda: pd.concat([trace(tasks=2), trace("another[size=3]", kinds={}, steps=5)]),
        lambda: trace(steps=300, tasks=1, precisions=("float64", "bfloat16")),
    ],
)
def test_draws_and_says(table):
    table = table()
    before = table.copy()
    assert not texts_outside(draw(table))
    for found in verdicts(table):
        text = found.answer + found.sentence
        assert found.answer and found.sentence.endswith(".") and "nan" not in text.lower() and "  " not in text
    assert len(summary(table)) and table.equals(before)


def test_summary_has_the_ends_of_the_traces():
    table = summary(trace())
    found = dict(zip(table["error_of"], table["inner_steps"], strict=True))
    assert found["state, accumulated"] == 20 and found["adjoint, accumulated"] == 0
    assert len(table) == 2 + 4 + 5 and len(traced(trace())) > len(table)
