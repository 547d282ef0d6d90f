"""The precision section says what made-up studies of rounding have in them, and draws whatever a study may lack."""

from collections.abc import Callable, Sequence
from math import nan

import numpy as np
import pandas as pd
import pytest

from analyses.table import tidy
from diagnostics.certified import ACCEPTED
from figures import precision
from figures.axes import error_scale
from figures.rounding_view import IMAML, MAML, ROUNDING, TOLD_BY, failures, medians, one_of_each_epsilon, study
from figures.section import Verdict, sections
from figures.table_view import EPSILON
from tests.figures.test_sections import texts_outside

Error = Callable[[str, float], float]  # of the arithmetic and the number of inner steps
STEPS = (1, 10, 100)
LOW = ("bfloat16", "float16", "float32", "float64")


def few_eps(name: str, count: float) -> float:
    return 4 * EPSILON[name]


def studied(
    *,
    maml: Error = few_eps,
    imaml: Error | None = few_eps,
    difference: Callable[[float], float] = lambda count: 0.25,
    length: float = 0.5,
    settled: Callable[[float], float] | None = lambda count: 1 / max(count, 1),
    precisions: Sequence[str] = LOW,
    reference: str = "extended",
    steps: Sequence[int] = STEPS,
    tasks: int = 8,
    rate: float = -0.1,
    predicted: Error = lambda name, count: 20 * EPSILON[name],
    uncertainty: float = 1e-24,
    problem: str = "made_up",
    strength: float = 1.0,
) -> pd.DataFrame:
    """A study in which every task has these errors, |i - u| = difference |u| and |i| = length |u|.

    `settled` are the exact distances to the stationary gradient; rounded ones are larger by the rounding errors.
    """
    rows = []
    for task in range(tasks):
        for count in steps:
            common = {
                "analysis": "precision", "problem": problem, "seed": 0, "task": task, "inner_optimizer": "gd",
                "inner_steps": count, "inner_lr": 0.1, "strength": strength, "damping": 0.0, "scaling": "none",
                "min_eigenvalue": 0.5, "max_eigenvalue": 5.0, "stationarity": 0.5**count, "outcome": "ok",
            }  # fmt: skip
            certified = {"reference": reference, "reference_uncertainty": uncertainty}
            for name in dict.fromkeys([*precisions, reference]):
                for method, error in (("unrolled_adjoint", maml), ("implicit", imaml)):
                    if error is None:
                        continue
                    implicit = {"solver": "cg_unchecked", "solver_iterations": 5} if method == "implicit" else {}
                    here = common | certified | {"estimator": method, "precision": name} | implicit
                    off = 0.0 if name == reference else error(name, count)
                    if name != reference:
                        rows.append(here | {"target": "exact_arithmetic", "relative_error": off, "norm_ratio": 1.0})
                    if settled is not None:
                        rows.append(here | {"target": "stationary", "relative_error": settled(count) + off})
                    if method == "implicit":
                        apart = {"relative_error": difference(count) + length * off, "norm_ratio": length}
                        rows.append(here | {"target": "unrolled"} | apart)
                if name != reference:
                    model = {"estimator": "predicted_rounding", "target": "exact_arithmetic", "growth_rate": rate}
                    error = {"relative_error": predicted(name, count), "outcome": "prediction", "precision": name}
                    rows.append(common | model | error)
    return tidy(rows)


def failing(table: pd.DataFrame, rows: pd.Series, outcome: str, step: int | None, number: float = nan) -> pd.DataFrame:
    rows = rows & (table["outcome"] != "prediction")
    table.loc[rows, "outcome"] = outcome
    table.loc[rows, "relative_error"] = number
    table.loc[rows, "outcome_step"] = step
    return table


def overflowing(names: Sequence[str] = ("float16",), **more) -> pd.DataFrame:
    """A loop that overflows at step 37 in these arithmetics."""
    table = studied(**more)
    return failing(table, table["precision"].isin(names) & (table["inner_steps"] == 100), "diverged", 37)


def underflowing() -> pd.DataFrame:
    table = studied(imaml=None, settled=None, strength=0.0, predicted=lambda name, count: 1.0 if count > 10 else 1e-3)
    return failing(table, (table["precision"] == "float16") & (table["inner_steps"] == 100), "underflow", 60, 1e39)


def verdict(table: pd.DataFrame) -> Verdict:
    (only,) = sections["precision"].verdicts(table)
    return only


def test_shares_are_formed_within_each_task():
    """|u~ - u| / |i - u| = e/d for MAML and |i~ - i| / |i - u| = e r/d for iMAML; the tasks differ in d, by design."""
    table = studied(tasks=3)
    spread = 2.0 ** table["task"].astype(float)
    apart = table["target"] == "unrolled"
    table["relative_error"] = table["relative_error"].where(~apart, 0.25 * spread)
    rows = study(table, "precision")
    rounding = rows[rows["target"].eq(ROUNDING) & ~rows["theory"]]
    assert len(rounding) == 3 * len(STEPS) * 2 * len(LOW)
    for _, row in rounding.iterrows():
        length = 0.5 if row["method"] == IMAML else 1.0
        assert row["share"] == 4 * EPSILON[row["precision"]] * length / (0.25 * 2.0 ** row["task"])  # powers of two


def test_change_compares_distances_to_the_stationary_gradient():
    rows = study(studied(), "precision")
    here = rows[(rows["target"] == "stationary") & (rows["precision"] == "bfloat16")]
    assert np.allclose(here["change"], 4 * EPSILON["bfloat16"] * here["inner_steps"], rtol=1e-12)
    assert rows.loc[rows["exact"], "change"].isna().all()


def test_of_implicit_gradients_that_with_the_most_iterations_counts():
    few = studied(imaml=lambda name, count: 1.0)
    few["solver_iterations"] = few["solver_iterations"].where(few["solver_iterations"].isna(), 1)
    table = pd.concat([few, studied()], ignore_index=True)
    rows = study(table, "precision")
    assert set(rows.loc[rows["method"] == IMAML, "iterations"]) == {5.0}
    assert verdict(table) == verdict(studied())


def test_a_task_that_two_studies_share_has_one_reference():
    """The finer one, in whatever order they come; the other's float64 rows would pass for exact ones."""
    coarse = studied(reference="float64", precisions=("float32", "float64"), difference=lambda count: 0.5)
    for both in ([coarse, studied()], [studied(), coarse]):
        assert verdict(pd.concat(both, ignore_index=True)) == verdict(studied())


def test_rounding_is_visible_from_the_step_on_at_which_it_reaches_a_hundredth():
    found = verdict(studied(difference=lambda count: 0.5 if count == 1 else 1e-2 if count == 10 else 1e-9))
    assert found.answer == (
        "MAML's rounding is 1% or more of the MAML-iMAML difference in bfloat16 from 1 inner step on (where that is "
        "50%), in float16 from 10 on (1%) and in float32 at 100 (1.0e-9); less in float64"
    )
    assert "in float16 from 10 on (39% of a difference of 1%)" in found.sentence
    assert "in float32 at 100 (more than all of a difference of 1.0e-9)" in found.sentence
    assert "In extended precision MAML and iMAML differ by 50% of MAML's gradient at 1 inner step" in found.sentence
    assert "and by 1.0e-9 at 100." in found.sentence
    assert "MAML's rounding is at most 8.9e-7 in float64 of that" in found.sentence


@pytest.mark.parametrize(("error", "visible"), [(0.0099, False), (0.0101, True)])
def test_visible_is_a_hundredth(error, visible):
    found = verdict(studied(maml=lambda name, count: error, difference=lambda count: 1.0, precisions=("float32",)))
    assert ("less than 1%" in found.answer) is not visible
    assert ("in float32 from 1 inner step on" in found.answer) is visible


def test_no_visible_part_gives_both_numbers():
    found = verdict(studied(precisions=("float32", "float64")))
    assert found.answer == "MAML's rounding is less than 1% of the MAML-iMAML difference in every arithmetic"
    both = "The difference is the same with more digits than float32's: 25% in float32 and 25% in extended precision"
    assert both in found.sentence
    assert "iMAML's rounding is 1%" not in found.sentence


def test_rounding_of_the_implicit_gradient_is_told_apart():
    found = verdict(studied(imaml=lambda name, count: 0.1 if name == "float32" and count > 1 else 1e-9, length=0.5))
    assert "iMAML's rounding is 1% of it or more in float32 from 10 inner steps on." in found.sentence
    assert "The difference is the same with more digits than float64's" in found.sentence  # float32's differs


def test_a_share_that_comes_and_goes_is_listed():
    found = verdict(studied(maml=lambda name, count: 0.1 if count == 10 else 1e-9, precisions=("float32",)))
    assert "difference in float32 at 10 inner steps" in found.answer


def test_sizes_are_in_units_of_epsilon_and_growth_is_measured():
    found = verdict(studied(maml=lambda name, count: count * EPSILON[name], precisions=("float32",)))
    assert "by at most 1.2e-5 (100 eps) in float32" in found.sentence
    assert "iMAML's (5 CG iterations) by at most 4.8e-7 (4 eps) in float32" in found.sentence
    assert "MAML's in float32 grows from 1.2e-7 after 1 inner step to 1.2e-5 after 100" in found.sentence
    assert "growth rate gives 2.4e-6" in found.sentence
    assert "float32 goes from" in verdict(studied()).sentence
    falling = verdict(studied(maml=lambda name, count: EPSILON[name] / count)).sentence
    assert "float32 shrinks from 1.2e-7 after 1 inner step to 1.2e-9" in falling


def test_digits_run_out_where_the_growth_rate_says():
    """ln(2/eps)/rate: 27.7 steps in bfloat16 (eps 2^-7) at a rate of 0.2, 83 in float32; float64 keeps its digits."""
    lost = {"bfloat16": 10, "float16": 100, "float32": 1000, "float64": 1000}
    table = studied(imaml=None, settled=None, rate=0.2, maml=lambda name, count: 1.0 if count >= lost[name] else 1e-3)
    found = verdict(table)
    assert "In bfloat16 no digit of it is left from 10 inner steps on; the growth rate of 0.2 a step" in found.sentence
    assert "predicts it at step 28" in found.sentence
    assert "In float32 digits are left after 100 inner steps, although the growth rate" in found.sentence
    assert "predicts it at step 83" in found.sentence
    assert "In float64" not in found.sentence  # predicted at 184, beyond the loops
    assert found.answer == (
        "no digit of MAML's gradient is left in bfloat16 from 10 inner steps on and in float16 at 100; rounding moves "
        "MAML's gradient by at most 0.1% in float32 and 0.1% in float64"
    )


def test_strength_0_has_no_difference_and_underflow_is_told_with_its_step():
    found = verdict(underflowing())
    assert found.answer.startswith("no digit of MAML's gradient is left in float16 at 100 inner steps; rounding moves")
    assert "The gradient of MAML underflows in float16 in 8 of 8 tasks, from 100 inner steps on (at step 60" in (
        found.sentence
    )
    assert "no digit of it is left at 100 inner steps; the model expects it at 100 inner steps" in found.sentence
    assert "no implicit gradient here (strength 0" in found.sentence and "scale the loss" in found.sentence
    assert "stationary" not in found.sentence


def test_overflow_of_one_arithmetic_is_rounding_and_of_all_is_not():
    one = verdict(overflowing())
    assert "The inner loop overflows in float16 in 8 of 8 tasks, from 100 inner steps on (at step 37)." in one.sentence
    assert "In float16 no digit of it is left at 100 inner steps" in one.sentence
    assert "more digits are no remedy" not in one.sentence and "difference in bfloat16" in one.answer
    every = verdict(overflowing((*LOW, "extended")))
    assert "more digits are no remedy" in every.sentence and "no digit" not in every.sentence
    never = studied()
    never = failing(never, never["task"] >= 0, "diverged", 1)
    assert verdict(never).answer == "no number" and "diverged in 8 of 8 tasks" in verdict(never).sentence


def test_more_digits_help_only_near_the_stationary_gradient():
    same = verdict(studied(precisions=("float32",))).sentence
    assert "change MAML's distance to the stationary gradient by at most 4.8e-5 of itself, in the median" in same
    assert "(1% in float32, 1% in extended precision at 100 inner steps)" in same
    near = verdict(studied(precisions=("float32",), settled=lambda count: 10.0**-count)).sentence
    assert "at most 4.8e-6 of itself up to 1 inner step, in the median task" in near
    assert "and shorten it from 10 inner steps on (4.8e-7 in float32, 1.0e-100 in extended precision at 100" in near


def test_no_minimiser_is_said():
    table = studied()
    table = failing(table, table["target"] == "stationary", "no minimiser", None)
    assert "no minimiser in 8 of 8 tasks" in verdict(table).sentence


def test_the_reference_is_named_with_what_it_cannot_tell():
    assert verdict(studied()).sentence.endswith("Exact arithmetic is extended precision here.")
    found = verdict(studied(reference="float64", precisions=("float16", "float32"), uncertainty=1e-8)).sentence
    # 4 eps of float32 is 5e-7, less than 100 times 1e-8: both methods, 8 tasks, 3 lengths, of twice as many.
    assert "Exact arithmetic is float64 here; 48 of 96 rounding errors are too small for it to tell" in found


def test_indefinite_hessians_are_warned_of():
    table = studied()
    table["min_eigenvalue"] = -1.0
    assert "(warning: inner Hessian indefinite in 8 of 8 tasks)" in verdict(table).sentence


def test_what_a_reference_tells_is_what_the_analysis_says():
    assert TOLD_BY == ACCEPTED


def test_failures_are_counted_by_task_from_their_shortest_loop():
    table = overflowing(tasks=4)
    some = (table["task"] < 3) & (table["inner_steps"] >= 10) & (table["precision"] == "float32")
    table = failing(table, some, "not finite", None)
    found = {
        (row["method"], row["precision"], row["outcome"]): (row["hit"], row["tasks"], row["loop"], row["step"])
        for row in failures(study(table, "precision")).to_dict("records")
    }
    assert found[MAML, "float16", "diverged"] == (4, 4, 100, 37)
    hit, tasks, loop, step = found[IMAML, "float32", "not finite"]
    assert (hit, tasks, loop) == (3, 4, 10) and np.isnan(step)


def test_arithmetics_of_one_epsilon_are_named_once():
    assert one_of_each_epsilon(["bfloat16_pure", "bfloat16", "float32"]) == ["bfloat16", "float32"]


def lines_of(panel):
    """The lines of a panel, without their markers, by colour."""
    return {line.get_color(): line for line in panel.get_lines() if line.get_linestyle() != "None"}


def test_draws_each_arithmetic_and_the_difference():
    figure = precision.draw(studied())
    settled, maml, imaml = figure.axes
    for panel, gap in ((maml, 0.25), (imaml, 0.5)):  # |i - u| is 0.25 |u| and 0.5 |i|
        lines = lines_of(panel)
        assert np.allclose(lines["#222222"].get_ydata(), gap) and np.array_equal(lines["#222222"].get_xdata(), STEPS)
        assert np.allclose(lines["#2f9970"].get_ydata(), 4 * EPSILON["float32"])
        assert maml.get_ylim() == panel.get_ylim()
    assert np.allclose(lines_of(settled)["#2f9970"].get_ydata(), [1, 0.1, 0.01], rtol=1e-3)
    grey = [line for line in maml.get_lines() if line.get_color() == "#8c8c8c"]
    assert len(grey) == len(LOW) and not any(line.get_color() == "#8c8c8c" for line in imaml.get_lines())


def test_a_vanishing_difference_leaves_the_panel_instead_of_stretching_it():
    usual, deep = (precision.draw(studied(difference=gap)) for gap in (lambda count: 0.25, lambda count: 10.0**-count))
    assert usual.axes[1].get_ylim()[0] == deep.axes[1].get_ylim()[0]
    assert np.asarray(lines_of(deep.axes[1])["#222222"].get_ydata())[-1] == 10.0**-100


def test_errors_beyond_all_digits_are_over():
    panel = precision.draw(underflowing()).axes[1]
    assert [text.get_text() for text in panel.get_yticklabels()][-1] == "over" and panel.get_ylim()[1] < 100
    assert error_scale([1e39]).high > 100  # unlike elsewhere


@pytest.mark.parametrize(("table", "marker", "step"), [(overflowing(), "x", 37), (underflowing(), "1", 100)])
def test_failures_are_marked_at_their_step(table, marker, step):
    figure = precision.draw(table)
    (mark,) = [line for line in figure.axes[1].get_lines() if line.get_marker() == marker]
    assert np.array_equal(mark.get_xdata(), [step]) and mark.get_color() == "#ec8fc0"
    words = {"x": "overflow in most tasks", "1": "underflow in most tasks"}
    assert words[marker] in [text.get_text() for text in figure.legends[0].get_texts()]


SAMPLES = {
    "usual": studied,
    "empty": lambda: studied().iloc[:0],
    "one task": lambda: studied(tasks=1),
    "one length": lambda: studied(steps=(10,)),
    "no steps": lambda: studied(steps=(0, 1)),
    "one arithmetic": lambda: studied(precisions=("float32",)),
    "only the exact arithmetic": lambda: studied(precisions=("extended",)),
    "pure": lambda: studied(precisions=("bfloat16", "bfloat16_pure", "float16_pure")),
    "float64 for reference": lambda: studied(reference="float64"),
    "no implicit": lambda: studied(imaml=None),
    "no minimiser": lambda: studied(settled=None),
    "all nan": lambda: studied().assign(relative_error=nan),
    "all infinite": lambda: studied().assign(relative_error=np.inf),
    "all zero": lambda: studied().assign(relative_error=0.0),
    "no model": lambda: (lambda t: t[t["estimator"] != "predicted_rounding"])(studied()),
    "model alone": lambda: (lambda t: t[t["estimator"] == "predicted_rounding"])(studied()),
    "overflow": overflowing,
    "overflow in all": lambda: overflowing((*LOW, "extended")),
    "overflow everywhere": lambda: (lambda t: failing(t, t["task"] >= 0, "diverged", 1))(studied()),
    "underflow": underflowing,
    "unknown arithmetic": lambda: studied().replace({"float16": "posit16"}),
    "many": lambda: pd.concat([underflowing(), *(studied(problem=f"p[size={n}]", tasks=2) for n in range(4))]),
}


@pytest.mark.parametrize("sample", SAMPLES)
def test_draws_says_and_sums_up(sample):
    table = SAMPLES[sample]()
    before = table.copy()
    assert not texts_outside(precision.draw(table))
    for found in precision.verdicts(table):
        text = f"{found.answer} {found.sentence}"
        assert found.answer and found.sentence.endswith(".") and "nan" not in text and " ." not in text, text
        assert "  " not in text and ".." not in text and not found.sentence.startswith(" "), text
    assert list(precision.summary(table).columns)[:3] == ["case", "target", "method"]
    assert table.equals(before)


def test_summary_has_the_shares():
    table = precision.summary(studied())
    here = table[(table["method"] == MAML) & (table["precision"] == "float32") & (table["target"] == ROUNDING)]
    assert here["share_of_difference"].tolist() == [4 * EPSILON["float32"] / 0.25] * len(STEPS)
    assert "predicted_rounding" not in set(table["method"])


def test_medians_leave_out_what_was_not_measured():
    table = studied(tasks=3)
    table = failing(table, (table["task"] == 0) & (table["precision"] == "float32"), "no minimiser", None)
    found = medians(study(table, "precision"))
    here = found[(found["method"] == MAML) & (found["precision"] == "float32") & (found["target"] == ROUNDING)]
    assert (here["relative_error"] == 4 * EPSILON["float32"]).all() and (here["relative_error_missing"] == 1).all()
