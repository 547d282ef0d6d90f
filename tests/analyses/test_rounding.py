"""The study of rounding: its errors are of the expected sizes, and underflow sets in where it should."""

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pandas as pd
import pytest
import torch

from analyses import digits, precision, rescaling, rounding
from analyses.rounding import Loop, RoundingCell, held_by_all, measure, measure_spec, studies
from analyses.settings import resolve
from analyses.table import COLUMNS, tidy
from diagnostics.arithmetic.precision import PRECISIONS, Precision
from diagnostics.arithmetic.rescaling import rescale
from diagnostics.inner import Trajectory, optimizers
from diagnostics.problem_names import build
from tests.cases import check_ratio, small

CONTRACTING = "quadratic[dimension=4,condition=10]"  # cond(H) = 5.5
SHRINKING = "quadratic[dimension=4,strength=0,condition=2,learning_rate=1.0]"  # the adjoint loses one bit a step
LOW = ("bfloat16", "float16", "float32")
RATE = math.log(0.5)
FEW, MANY = (10, 100), (10, 118, 136, 250)  # inner steps


@lru_cache
def study(**given: Any) -> pd.DataFrame:
    """The rows of a small cell."""
    plain: dict[str, Any] = {"seed": 0, "tasks": 2, "iterations": (2,), "reference_seconds": 0.0}
    return tidy(measure(RoundingCell(**(plain | given))))


def unrolled(rows: pd.DataFrame, target: str = "exact_arithmetic", **where: object) -> pd.DataFrame:
    rows = rows[(rows.estimator == "unrolled_adjoint") & (rows.target == target)]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows


# ---- what rounding alone does to a gradient


WINDOWS = {"bfloat16": (1e-3, 1e-1), "float16": (1e-5, 1e-2), "float32": (1e-8, 1e-5), "float64": (1e-17, 1e-13)}


@pytest.mark.parametrize("arithmetic", LOW)
def test_on_a_contracting_quadratic_an_arithmetic_keeps_its_digits(arithmetic: str) -> None:
    rows = unrolled(study(problem=CONTRACTING, steps=FEW, precisions=LOW), precision=arithmetic)
    low, high = WINDOWS[arithmetic]
    if arithmetic == "float32":
        rows = pd.concat([rows, unrolled(study(problem=CONTRACTING, steps=(1000,), precisions=("float32",)))])
    assert set(rows.inner_steps) >= set(FEW) and set(rows.task) == {0, 1}
    assert (rows.outcome == "ok").all() and (rows.reference == "float64").all()
    assert rows.relative_error.between(low, high).all(), rows.relative_error.tolist()
    # It does not grow with the steps beyond what still counts of them, 1/(1 - q) = 10 of a condition number of 5.5.
    unit = PRECISIONS[arithmetic].eps * 10 * 5.5
    check_ratio("rounding over steps", torch.tensor(rows.relative_error.tolist()), unit, arithmetic, limit=1.0)


def test_float64_is_told_by_extended_precision() -> None:
    rows = study(problem=CONTRACTING, steps=(10, 30), precisions=("float32", "float64"), reference_seconds=1e9)
    for arithmetic in ("float32", "float64"):
        found = unrolled(rows, precision=arithmetic)
        low, high = WINDOWS[arithmetic]
        assert (found.reference == "extended").all() and (found.outcome == "ok").all()
        assert found.relative_error.between(low, high).all()
        assert (found.reference_uncertainty < 1e-20).all()
    # And extended precision has rows of its own, against the stationary gradient: no rounding is left there.
    off = unrolled(rows, "stationary", precision="extended")
    assert (off.relative_error > 1e-3).all() and len(off) == 4
    assert rows[(rows.precision == "extended") & (rows.target == "exact_arithmetic")].empty


@pytest.mark.slow
def test_float32_keeps_its_digits_for_ten_thousand_steps() -> None:
    steps = (10, 100, 1000, 10_000)
    rows = unrolled(study(problem="quadratic[condition=10]", steps=steps, precisions=("float32",), tasks=1))
    assert len(rows) == len(steps) and (rows.outcome == "ok").all()
    assert rows.relative_error.between(1e-8, 1e-5).all(), rows.relative_error.tolist()


def test_implicit_gradients_are_judged_in_the_same_arithmetics_and_against_three_targets() -> None:
    rows = study(problem=CONTRACTING, steps=FEW, precisions=LOW)
    implicit = rows[rows.estimator == "implicit"]
    assert set(implicit.solver_iterations) == {2}
    for arithmetic, found in implicit.groupby("precision"):
        targets = {"stationary", "unrolled"} | ({"exact_arithmetic"} if arithmetic in LOW else set())
        assert set(found.target) == targets
    assert set(implicit.precision) == {*LOW, "float64"}
    rounding_alone = implicit[(implicit.target == "exact_arithmetic") & (implicit.precision == "float32")]
    assert (rounding_alone.relative_error < 1e-5).all()


def test_every_measured_row_says_which_reference_and_every_task_and_end_is_there() -> None:
    rows = study(problem=CONTRACTING, steps=FEW, precisions=LOW)
    predicted = rows[rows.estimator == "predicted_rounding"]
    measured = rows.drop(predicted.index)
    assert (measured.reference == "float64").all() and predicted.reference.isna().all()
    assert measured.reference_uncertainty.notna().all()
    assert set(predicted.precision) == set(LOW) and (predicted.outcome == "prediction").all()
    # q = 1 - lr (1/10 + 1/10), the growth rate that the closed form gives
    rates = torch.tensor(predicted.growth_rate.tolist()).double()
    check_ratio("growth rate", (rates - math.log(0.9)).abs(), 1e-3)  # to which `growth` iterates
    for _, group in measured.groupby(["estimator", "precision", "target"]):
        assert len(group) == 4 and set(group.task) == {0, 1} and set(group.inner_steps) == set(FEW)
    assert list(rows.columns) == list(COLUMNS)


def test_the_predicted_error_is_an_upper_envelope() -> None:
    rows = study(problem=CONTRACTING, steps=FEW, precisions=LOW)
    keys = ["precision", "task", "inner_steps"]
    both = unrolled(rows).merge(rows[rows.estimator == "predicted_rounding"], on=keys, suffixes=("", "_predicted"))
    assert len(both) == 12 and (both.relative_error <= both.relative_error_predicted).all()


def test_no_steps_are_a_gradient_too() -> None:
    rows = unrolled(study(problem=CONTRACTING, steps=(0,), precisions=("float32",), tasks=1))
    assert len(rows) == 1 and float(rows.relative_error.iloc[0]) < 1e-6


def test_a_step_that_is_too_long_diverges_and_says_when() -> None:
    rows = study(problem="quadratic[dimension=3,learning_rate=8]", steps=(2, 300), precisions=("float32",))
    far = unrolled(rows, inner_steps=300)
    assert (far.outcome == "diverged").all() and far.outcome_step.between(2, 300).all()
    assert set(unrolled(rows, inner_steps=2).outcome) == {"ok"}


# ---- underflow


def lengths(scaling: str, steps: int) -> list[float]:
    """After how many steps back each task's adjoint falls below float32's smallest normal number, as theory has it."""
    problem = build(SHRINKING)
    theta, data = problem.draw(2, 0)
    scaled = rescale(scaling, problem, optimizers["gd"](1.0), theta, data, steps)
    exponent = scaled.powers.inputs + scaled.powers.targets + scaled.powers.outer
    # The outer gradient at the minimiser, and of it the part along the weakest eigenvector of A, which shrinks slowest.
    slope = torch.linalg.solve(data["A"], data["b"]) - data["c"]
    along = torch.linalg.eigh(data["A"]).eigenvectors[:, :, 0]
    length = ((data["C"] @ slope.unsqueeze(-1)).squeeze(-1) * along).sum(-1).abs()
    tiny = PRECISIONS["float32"].tiny
    return [(math.log(g / tiny) + exponent * math.log(2)) / -RATE for g in length.tolist()]


@pytest.mark.parametrize("scaling", ["none", "power_of_two"])
def test_with_strength_0_digits_are_lost_at_the_predicted_step_and_a_power_of_two_moves_it(scaling: str) -> None:
    rows = unrolled(study(problem=SHRINKING, steps=MANY, precisions=("float32",), scaling=scaling))
    predicted = lengths(scaling, max(MANY))
    kept = rows[rows.outcome == "ok"]
    assert (kept.relative_error < 1e-5).all() and kept.outcome_step.isna().all()
    for task, step in enumerate(predicted):
        of_task = rows[rows.task == task].set_index("inner_steps")
        assert set(of_task.index[of_task.outcome == "underflow"]) == {count for count in MANY if count > step}
        for count in of_task.index[of_task.outcome == "underflow"]:
            assert abs((count - of_task.outcome_step[count]) / step - 1) < 0.05
    assert not kept.empty and len(kept) < len(rows)


def test_the_step_moves_by_what_the_scale_is_worth() -> None:
    """The scaling's exponent over the binary digits that a step loses: the two measured steps differ by that."""
    found = {}
    for scaling in ("none", "power_of_two"):
        rows = unrolled(study(problem=SHRINKING, steps=MANY, precisions=("float32",), scaling=scaling))
        found[scaling] = [250 - step for step in rows[rows.inner_steps == 250].sort_values("task").outcome_step]
    for task in range(2):
        moved = found["power_of_two"][task] - found["none"][task]
        expected = lengths("power_of_two", 250)[task] - lengths("none", 250)[task]
        assert expected > 80 and abs(moved / expected - 1) < 0.05


def test_a_gradient_that_is_zero_because_the_loop_has_arrived_is_no_underflow() -> None:
    """At float32's minimiser the inner gradient is exactly 0, and no digit of the derivative is lost by that."""
    name = "quadratic[dimension=4,strength=0,condition=4,learning_rate=1.0]"
    problem = build(name)
    plain = Loop(problem, optimizers["gd"](1.0), *problem.draw(2, 0))
    loop = held_by_all([PRECISIONS["float16"]], plain).run(PRECISIONS["float32"], 100)
    assert bool((loop.gradient_norms == 0).any())  # or the test would see nothing
    rows = study(problem=name, steps=(100,), precisions=("float16", "float32"))
    assert (unrolled(rows, precision="float32").outcome == "ok").all()
    assert (unrolled(rows, precision="float16").outcome == "underflow").all()


def test_a_gradient_that_vanishes_on_the_way_forward_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a pull w shrinks to 0, and takes the inner gradients below float16's range while they still move it."""
    plain = build(SHRINKING)

    def without_pull(tasks: int, seed: int) -> dict[str, torch.Tensor]:
        data = dict(plain.sample(tasks, seed))
        return {**data, "b": torch.zeros_like(data["b"])}

    problem = replace(plain, sample=without_pull, minimizer=None)
    monkeypatch.setattr(rounding, "build", lambda name, **_: problem)
    rows = unrolled(tidy(measure(RoundingCell("made up", 0, 2, (5, 40), (2,), ("float16",), reference_seconds=0.0))))
    loop = Loop(problem, optimizers["gd"](1.0), *problem.draw(2, 0)).run(PRECISIONS["float64"], 40)
    below = (loop.gradient_norms < PRECISIONS["float16"].tiny).to(torch.int8).argmax(0).tolist()
    assert set(rows[rows.inner_steps == 5].outcome) == {"ok"}
    for task, step in enumerate(below):
        row = rows[(rows.inner_steps == 40) & (rows.task == task)].iloc[0]
        assert row.outcome == "underflow" and abs(int(row.outcome_step) - step) <= 1
        assert abs(40 - step - step) > 3  # on the way back it would be another


# ---- the same numbers for all


@pytest.mark.parametrize("problem_name", ["quadratic", "linear_regression", "sinusoid", "few_shot"])
def test_the_numbers_are_those_that_every_arithmetic_holds(problem_name: str) -> None:
    problem = small(problem_name)
    theta, data = problem.draw(2, 0)
    arithmetics = [PRECISIONS[name] for name in ("float64", "float16", "extended", "bfloat16", "float32")]
    loop = held_by_all(arithmetics, Loop(problem, optimizers["gd"](0.1), theta, data))
    assert loop.data.keys() == data.keys()
    for name, x in {"theta": loop.theta, **loop.data}.items():
        if not x.is_floating_point():
            assert torch.equal(x, data[name])
            continue
        for arithmetic in arithmetics:
            assert torch.equal(arithmetic.leave(arithmetic.enter(x)), x), (name, arithmetic.name)
        given = theta if name == "theta" else data[name]
        # Rounded to float16's 11 bits, or its end at 2^-24, and then to bfloat16's 8.
        assert bool(((x - given).abs() <= (2.0**-8 + 2.0**-10) * given.abs() + 2.0**-24).all())


def test_numbers_that_are_too_small_for_one_are_so_for_all() -> None:
    problem = small("quadratic")
    theta, data = problem.draw(2, 0)
    tiny = theta * 1e-6  # subnormal in float16
    pair = [PRECISIONS["bfloat16"], PRECISIONS["float16"]]
    held = held_by_all(pair, Loop(problem, optimizers["gd"](0.1), tiny, data)).theta
    assert all(torch.equal(arithmetic.leave(arithmetic.enter(held)), held) for arithmetic in pair)
    assert not torch.equal(held, tiny)


def test_all_loops_of_a_cell_start_from_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, torch.Tensor, torch.Tensor]] = []
    run = Loop.run

    def watched(self: Loop, arithmetic: Precision, steps: int) -> Trajectory:
        seen.append((arithmetic.name, self.theta, self.data["A"]))
        return run(self, arithmetic, steps)

    monkeypatch.setattr(Loop, "run", watched)
    measure(RoundingCell("quadratic[dimension=3]", 0, 2, (1, 3), (2,), LOW, reference_seconds=0.0))
    assert {name for name, *_ in seen} == {*LOW, "float64"}
    for _, theta, matrix in seen:
        assert torch.equal(theta, seen[0][1]) and torch.equal(matrix, seen[0][2])


def test_tasks_that_do_not_fit_at_once_are_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"problem": CONTRACTING, "seed": 0, "tasks": 3, "steps": (1, 4), "iterations": (2,), "precisions": LOW[2:]}
    cell = RoundingCell(**given, reference_seconds=0.0)
    whole = tidy(measure(cell)).sort_values(["estimator", "precision", "target", "inner_steps", "task"])
    monkeypatch.setattr(rounding, "tasks_that_fit", lambda *_, **__: 2)
    pieces = tidy(measure(cell)).sort_values(["estimator", "precision", "target", "inner_steps", "task"])
    assert set(whole.chunk) == {3} and set(pieces.chunk) == {2, 1}
    columns = ["estimator", "precision", "target", "inner_steps", "task", "outcome", "reference"]
    assert whole[columns].values.tolist() == pieces[columns].values.tolist()


# ---- rescaled problems


@pytest.mark.parametrize("problem", [CONTRACTING, "linear_regression[dimension=3,examples=5]", "sinusoid[shots=3]"])
def test_under_a_power_of_two_the_original_gradient_comes_back_bit_for_bit(problem: str) -> None:
    rows = study(problem=problem, steps=(1, 5), precisions=("float64",), scaling="power_of_two", patience=0)
    back = unrolled(rows, "original")
    assert len(back) == 4 and (back.relative_error == 0).all() and (back.reference == "float64").all()
    assert (rows.scaling == "power_of_two").all()


def test_other_rescalings_are_compared_with_the_original_where_they_are_a_change_of_variables() -> None:
    problem = "linear_regression[dimension=3,examples=5]"
    scaled = study(problem=problem, steps=(1, 5), precisions=("float64",), scaling="scale:4")
    assert (unrolled(scaled, "original").relative_error > 1e-2).all()  # another inner loop, in other coordinates
    assert (unrolled(scaled).relative_error < 1e-13).all()  # which has a reference of its own
    assert unrolled(study(problem=problem, steps=(1, 5), precisions=("float64",)), "original").empty


def test_data_beyond_the_range_of_an_arithmetic_are_refused_in_one_line() -> None:
    cell = RoundingCell(
        "linear_regression[dimension=3,examples=5]", 0, 2, (1,), (2,), ("float32", "float16"), "scale:1e6"
    )
    with pytest.raises(ValueError) as caught:
        measure(cell)
    said = str(caught.value)
    assert said.startswith("float16: expected numbers within its range, found support_x of problem 'linear_regression'")
    assert "use the rescaling power_of_two" in said and "\n" not in said
    largest = float(said.partition("with ")[2].partition(";")[0])
    assert largest > 65504
    # float32 alone holds them.
    assert measure(replace(cell, precisions=("float32",), reference_seconds=0.0))


# ---- traces and cells


def test_a_traced_study_tells_of_every_state() -> None:
    rows = study(problem="quadratic[dimension=3]", steps=(2, 6), precisions=("float32", "float64"), traced=("float32",))
    states = rows[rows.estimator == "trace_state"]
    assert set(states.precision) == {"float32"}  # float64 is what the others are compared with
    assert sorted(set(states.inner_steps)) == list(range(7))
    assert (states[states.inner_steps == 0].relative_error == 0).all()
    assert states[states.inner_steps > 0].relative_error.between(1e-9, 1e-5).all()
    kinds = rows[rows.estimator.str.startswith("rounded_")]
    assert {"rounded_product", "rounded_all"} <= set(kinds.estimator) and set(kinds.inner_steps) == {6}
    assert rows[~rows.estimator.str.match("trace_|rounded_")].equals(precision.view(rows))
    assert set(digits.view(rows).estimator) >= {"trace_state", "trace_adjoint", "predicted_rounding"}


def test_a_store_s_spelling_of_a_cell_is_the_cell() -> None:
    spec = {"problem": CONTRACTING, "seed": 0, "tasks": 2, "steps": [10], "iterations": [2], "precisions": ["float32"]}
    found = tidy(measure_spec(spec | {"traced": [], "reference_seconds": 0.0}))
    plain = study(problem=CONTRACTING, steps=(10,), precisions=("float32",))
    assert found.equals(plain)


def test_each_analysis_takes_its_part_of_the_cells() -> None:
    settings = resolve(("precision", "rescaling", "digits"), "smoke", {}, {})
    everything = {cell.key for study in studies(settings) for cell in study}
    plain, rescaled, traced = ({cell.key for cell in a.cells(settings)} for a in (precision, rescaling, digits))
    assert plain | rescaled | traced == everything and plain and rescaled and traced
    assert traced < plain and plain & rescaled  # the problem as it was is compared with, and measured once
    for cell in rescaling.cells(settings):
        assert cell.spec["problem"] == "linear_regression"


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ({"problems": ["quadratics"]}, "unknown problem 'quadratics'; did you mean 'quadratic'?"),
        ({"precisions": ["float23"]}, "unknown precision 'float23'; did you mean 'float32'?"),
        ({"scalings": ["whitten"]}, "unknown rescaling 'whitten'; did you mean 'whiten'?"),
        ({"scalings": ["scale:none"]}, "expected scale:<factor> with a finite factor > 0, found 'scale:none'"),
        ({"inner_optimizer": "gdd"}, "unknown inner optimizer 'gdd'; did you mean 'gd'?"),
    ],
)
def test_a_name_that_is_unknown_is_refused_before_anything_is_measured(entry: dict[str, Any], line: str) -> None:
    table = {"problems": ["quadratic"], "steps": [1], "iterations": [1], "tasks": 1, "seeds": [0]} | entry
    with pytest.raises(ValueError) as caught:
        studies(resolve(("precision",), "smoke", {"rounding": [table]}, {}))
    assert line in str(caught.value) and "\n" not in str(caught.value)
