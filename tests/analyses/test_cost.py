"""The analysis of cost: how bytes grow with the steps, what is not tried, and the accuracy beside it."""

import json
import math
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import pandas as pd
import pytest
import torch

from analyses import cost_rows, grid
from analyses.analysis import Cell, analyses
from analyses.cost import cells, measure, measure_spec, view
from analyses.cost_limits import Estimate, estimate, too_large
from analyses.cost_rows import LOOP, CostCell, Setting, Way, ways
from analyses.grid_rows import GridCell
from analyses.settings import resolve
from analyses.table import tidy
from diagnostics.arithmetic.precision import PRECISIONS
from diagnostics.cost.live_bytes import live_bytes
from diagnostics.cost.process_bytes import free_bytes
from diagnostics.outcome import Outcome
from tests.cases import check_ratio

ALL = ("unrolled", "unrolled_adjoint", "checkpointed", "first_order", "implicit")
SMALL = "linear_regression[dimension=4,examples=6]"


def cell(**given: Any) -> CostCell:
    plain: dict[str, Any] = {"problem": SMALL, "seed": 0, "tasks": 2, "steps": (1, 4), "iterations": (2, 3)}
    return CostCell(**(plain | {"estimators": ALL, "repeats": 1, "patience": 500, "precision": "float64"} | given))


@lru_cache
def rows(**given: Any) -> pd.DataFrame:
    return tidy(measure(cell(**given)))


# ---- how bytes grow


def peaks(estimator: str, counts: tuple[int, ...], tasks: int, iterations: int | None = None) -> dict[int, int]:
    wanted = cell(problem="sinusoid", tasks=tasks, steps=counts, precision="float32")
    setting = Setting.of(wanted, tasks, max(counts))
    return {steps: live_bytes(setting.call(Way(estimator, iterations), steps)).peak for steps in counts}


STATE = 1761 * 4  # bytes of one task's weights


@pytest.mark.parametrize(("way", "iterations"), [("implicit", 2), ("first_order", None), (LOOP, None)])
def test_what_needs_the_end_alone_is_flat(way: str, iterations: int | None) -> None:
    found = peaks(way, (1, 100), 25, iterations)
    # First order's gradient is smaller than the step of a loop that has a step before it.
    assert found[100] == pytest.approx(found[1], rel=0.05), found


def test_the_full_graph_grows_by_the_same_with_each_step() -> None:
    found = peaks("unrolled", (5, 10, 20, 40), 3)
    each = (found[10] - found[5]) / 5
    assert each > 2 * 3 * STATE
    assert (found[20] - found[10]) / 10 == pytest.approx(each, rel=0.01)
    assert (found[40] - found[20]) / 20 == pytest.approx(each, rel=0.01)


def test_the_adjoint_sweep_keeps_a_state_a_step_and_once_in_a_while_checks_them_all() -> None:
    found = peaks("unrolled_adjoint", (20, 40, 80), 3)
    for fewer, more in ((20, 40), (40, 80)):
        assert 0.99 <= (found[more] - found[fewer]) / (more - fewer) / (3 * STATE) <= 1.01


def test_checkpoints_grow_with_the_root_of_the_steps() -> None:
    states = {steps: peak / STATE for steps, peak in peaks("checkpointed", (4, 16, 64), 1).items()}
    # 2 sqrt(K) states, and what one step takes, whatever K.
    assert (states[16] - states[4]) == pytest.approx((states[64] - states[16]) / 2, abs=1.5)
    assert 1.5 * 4 <= states[64] - states[16] <= 2.5 * 4


# ---- the rows


def test_there_is_a_row_for_each_way_count_task_and_target_and_one_for_each_loop() -> None:
    found = rows()
    names = found[found.estimator != LOOP].groupby(["estimator", "solver_iterations"], dropna=False).size()
    assert set(names) == {2 * 2 * 2} and len(names) == 4 + 2  # steps, tasks, targets; implicit once for each count
    loops = found[found.estimator == LOOP]
    assert loops.inner_steps.tolist() == [1, 4] and set(loops.task) == {-1} and loops.target.isna().all()
    assert set(found.outcome) <= {"ok", "solver unfinished", "unresolved"} and set(found.chunk) == {2}
    assert view(found).equals(found)


def test_costs_are_the_batchs_and_in_order() -> None:
    found = rows()
    assert (found.seconds_low <= found.seconds).all() and (found.seconds <= found.seconds_high).all()
    assert (found.seconds > 0).all() and (found.peak_bytes > found.saved_bytes).all() and (found.saved_bytes > 0).all()
    keys = ["estimator", "solver_iterations", "inner_steps"]
    costs = ["seconds", "seconds_low", "seconds_high", "peak_bytes", "saved_bytes", "flops"]
    assert (found.groupby(keys, dropna=False)[costs].nunique() == 1).all(axis=None)
    assert found.process_bytes.isna().all()


def test_more_work_takes_more_products() -> None:
    found = rows().query("inner_steps == 4").drop_duplicates(["estimator", "solver_iterations"])
    at = found.set_index("estimator").flops.drop("implicit").to_dict()
    assert at[LOOP] < at["first_order"] < at["unrolled"] < at["unrolled_adjoint"] < at["checkpointed"]
    assert found[found.estimator == "implicit"].sort_values("solver_iterations").flops.is_monotonic_increasing
    # The reverse sweep runs the loop again with its graph; that is all that it has in addition to the full graph.
    assert at["unrolled_adjoint"] - at["unrolled"] == at[LOOP]


def test_the_accuracy_is_that_of_the_shared_grid() -> None:
    columns = ["estimator", "solver_iterations", "inner_steps", "task", "target"]
    shared = GridCell(SMALL, 0, 2, (1, 4), (2, 3), patience=500)
    theirs = tidy(grid.measure(shared)).query("solver.isna() or solver == 'cg_unchecked'").set_index(columns)
    ours = rows(estimators=("unrolled", "unrolled_adjoint", "first_order", "implicit"))
    ours = ours[ours.estimator != LOOP].set_index(columns)
    theirs = theirs.reindex(ours.index)
    for name in ("cosine", "norm_ratio", "gradient_count", "hvp_count"):
        assert ours[name].astype(float).tolist() == pytest.approx(theirs[name].astype(float).tolist(), rel=1e-12)
    wrong = ours.relative_error > 1e-12  # elsewhere it is the reference's own rounding
    assert ours[wrong].relative_error.tolist() == pytest.approx(theirs[wrong].relative_error.tolist(), rel=1e-6)
    assert wrong.sum() > 20


def test_an_unrolled_gradient_is_right_whatever_it_keeps() -> None:
    found = rows().query("target == 'unrolled' and estimator in ['unrolled', 'unrolled_adjoint', 'checkpointed']")
    check_ratio("cost: unrolled", torch.tensor(found.relative_error.tolist()), 2.0**-52)
    assert len(found) == 3 * 2 * 2


@pytest.mark.parametrize("arithmetic", PRECISIONS)
def test_it_runs_in_every_arithmetic(arithmetic: str) -> None:
    found = rows(precision=arithmetic, steps=(1,), iterations=(1,), tasks=1)
    errors = found.query("target == 'unrolled' and estimator == 'unrolled_adjoint'").relative_error
    assert set(found.precision) == {arithmetic} and (found.peak_bytes > 0).all()
    check_ratio("cost: arithmetics", torch.tensor(errors.tolist()), max(PRECISIONS[arithmetic].eps, 2.0**-52))


def test_the_bytes_of_an_arithmetic_are_those_of_its_numbers() -> None:
    peak = {
        name: rows(precision=name, steps=(4,), iterations=(1,)).query("estimator == 'unrolled'").peak_bytes.iloc[0]
        for name in ("float32", "float64")
    }
    assert peak["float64"] / peak["float32"] == pytest.approx(2, rel=0.05)


def test_no_steps_and_no_strength() -> None:
    still = rows(steps=(0,), estimators=("unrolled", "unrolled_adjoint", "checkpointed", "first_order"))
    assert set(still.query("target == 'unrolled'").relative_error) == {0.0}
    free = rows(strength=0.0, steps=(1,))
    assert "implicit" not in set(free.estimator) and set(free.target.dropna()) == {"unrolled"}


def test_a_stateful_optimizer_keeps_its_whole_state() -> None:
    plain, adam = (rows(inner_optimizer=name, steps=(4,)) for name in ("gd", "adam"))
    kept = [found.query("estimator == 'unrolled_adjoint'").peak_bytes.iloc[0] for found in (plain, adam)]
    assert kept[1] > 1.5 * kept[0] and set(adam.inner_optimizer) == {"adam"}


@pytest.mark.slow
def test_a_fresh_process_takes_about_what_lives() -> None:
    wanted = {"problem": "few_shot[width=16]", "precision": "float32", "tasks": 8, "steps": (6,), "iterations": (1,)}
    found = rows(**wanted, estimators=("unrolled",), patience=0, lanczos_iterations=2, processes=True)
    (taken,) = set(found[found.estimator == "unrolled"].process_bytes)
    (alive,) = set(found[found.estimator == "unrolled"].peak_bytes)
    # A new process has some megabytes that it freed while it loaded; then pages that are kept, and kernels' workspaces.
    assert 0.9 * alive <= taken <= 2.5 * alive, (alive, taken)


# ---- what is too large


def test_what_would_take_too_many_bytes_is_a_row_and_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Setting.of(cell(), 1, 3)
    limit = estimate(small, Way("unrolled")).bytes(2, 10)
    tried: list[tuple[str, int]] = []
    call = Setting.call

    def noted(self: Setting, way: Way, steps: int) -> Any:
        if len(self.loop.theta) == 2:
            tried.append((way.estimator, steps))
        return call(self, way, steps)

    monkeypatch.setattr(Setting, "call", noted)
    found = tidy(measure(cell(steps=(10, 40), largest_bytes=limit, estimators=("unrolled", "implicit"))))
    assert set(tried) == {(LOOP, 10), (LOOP, 40), ("unrolled", 10), ("implicit", 10), ("implicit", 40)}
    large = found[found.outcome == "too large"]
    assert set(zip(large.estimator, large.inner_steps, strict=True)) == {("unrolled", 40)} and len(large) == 4
    for name in ("seconds", "peak_bytes", "flops", "cosine", "relative_error", "gradient_count", "hvp_count"):
        assert large[name].isna().all() and found.drop(large.index).query("task >= 0")[name].notna().all()


def test_what_would_take_too_long_is_not_tried_either() -> None:
    compared = ways(cell(), Setting.of(cell(), 1, 1).problem)
    assert too_large(cell(longest_seconds=1e-9), compared) == {(way, steps) for way in compared for steps in (1, 4)}
    assert too_large(cell(longest_seconds=1e3), compared) == set()
    assert tidy(measure(cell(longest_seconds=1e-9))).outcome.eq("too large").all()


@pytest.mark.parametrize("estimator", ["unrolled", "unrolled_adjoint", "first_order", "implicit"])
def test_the_estimate_is_what_is_then_measured(estimator: str) -> None:
    """A little more where what is largest at one step is no longer so at two, and never much less."""
    way, wanted = Way(estimator, 2 if estimator == "implicit" else None), cell(problem="sinusoid", precision="float32")
    measured = live_bytes(Setting.of(wanted, 4, 20).call(way, 20)).peak
    assert 0.95 <= estimate(Setting.of(wanted, 1, 3), way).bytes(4, 20) / measured <= 1.4


def test_an_estimate_grows_with_steps_and_tasks_and_never_falls() -> None:
    found = Estimate(bytes_at_2=100, bytes_at_3=130, seconds_at_2=1.5, seconds_at_3=2.0, loop_step=0.25)
    assert found.bytes(3, 12) == 3 * (100 + 10 * 30) and found.bytes(1, 0) == 100
    assert found.seconds(3, 13) == 3 * (2.0 + 10 * 0.5) and found.seconds(1, 1) == 2.0
    by_chance = Estimate(100, 90, 2.0, 1.0, 0.25)
    assert by_chance.bytes(1, 1000) == 100 and by_chance.seconds(1, 13) == 1.0 + 10 * 0.25


def test_without_a_limit_it_is_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free = free_bytes()
    assert free is not None and 0 < cost_rows.most_bytes(cell()) < free * 1.5  # others' memory comes and goes
    assert cost_rows.most_bytes(cell(largest_bytes=7)) == 7
    monkeypatch.setattr(cost_rows, "free_bytes", lambda: None)
    assert cost_rows.most_bytes(cell()) == math.inf


def test_too_large_is_told_before_anything_else() -> None:
    others = [outcome.code for outcome in Outcome if outcome not in (Outcome.TOO_LARGE, Outcome.KILLED)]
    assert Outcome.TOO_LARGE.failed and Outcome.TOO_LARGE.code > max(others)


# ---- cells and settings

TABLE = {"problems": ["quadratic"], "steps": [3, 1], "iterations": [2], "tasks": 2, "seeds": [0, 1]}


def settings_of(**more: Any) -> Any:
    return resolve(("cost",), "smoke", {"cost": [TABLE | more]}, {})


def test_a_cell_for_each_problem_seed_arithmetic_and_optimizer() -> None:
    found = cells(settings_of(inner_optimizer=["gd", "adam"], precisions=["float32", "float64"]))
    assert len({cell.key for cell in found}) == 8
    assert {cell.spec["inner_optimizer"] for cell in found} == {"gd", "adam"}
    assert all(cell.spec["steps"] == (1, 3) and cell.measurement == "cost" for cell in found)


def test_one_optimizer_may_stand_alone_as_on_the_command_line() -> None:
    assert settings_of(inner_optimizer="adam").costs[0].inner_optimizer == ("adam",)
    (table,) = resolve(("cost",), "smoke", {"cost": [TABLE]}, {"inner_optimizer": "momentum"}).costs
    assert table.inner_optimizer == ("momentum",)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"estimators": ["unroled"]}, "unknown estimator 'unroled'; did you mean 'unrolled'?"),
        ({"inner_optimizer": ["adma"]}, "unknown inner optimizer 'adma'"),
        ({"precisions": ["float"]}, "unknown precision 'float'"),
        ({"problems": ["nothing"]}, "unknown problem 'nothing'"),
        ({"repeats": 0}, "repeats: input should be greater than or equal to 1, found 0"),
        ({"largest_bytes": -1}, "largest_bytes: input should be greater than or equal to 0"),
        ({"longest_seconds": 0.0}, "longest_seconds: input should be greater than 0"),
        ({"inner_optimizer": []}, "inner_optimizer: tuple should have at least 1 item"),
        ({"processes": 1}, "processes: input should be a valid boolean, found 1"),
        ({"reapeats": 3}, "unknown entry 'reapeats'; did you mean 'repeats'?"),
    ],
)
def test_a_wrong_entry_is_named(wrong: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError) as caught:
        cells(settings_of(**wrong))
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_a_cell_measures_the_same_from_a_store() -> None:
    wanted = cell(steps=(1,), tasks=1)
    stored = json.loads(json.dumps(Cell.of("cost", wanted).spec))
    plain = {"seconds", "seconds_low", "seconds_high"}
    here, there = (
        [{key: value for key, value in row.items() if key not in plain} for row in found]
        for found in (measure(wanted), measure_spec(stored))
    )
    assert json.dumps(here) == json.dumps(there)
    assert asdict(wanted)["estimators"] == ALL


def test_it_answers_the_question_of_cost() -> None:
    assert analyses["cost"].questions == ("Q6",)
