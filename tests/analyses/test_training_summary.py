"""Means over seeds, their intervals and paired differences, against `diagnostics.protocols.intervals` as the oracle."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.run import cells_of
from analyses.seeds import over_seeds, t_over_root
from analyses.settings import resolve
from analyses.training_summary import (
    LOOP,
    METHOD,
    by_seed,
    differences,
    floors,
    gradients,
    pace,
    rank_correlation,
    summarise_training,
    task_rows,
)
from diagnostics.protocols.intervals import interval, paired
from tests.figures.made_up_training import IMAML, MAML, MAML64, lose, training

ROUNDING = 1e-12  # some thousand roundings of float64: sums over few numbers, in another order than the oracle's
REFERENCE: dict[str, Any] = dict(zip(METHOD, MAML, strict=True))


def values(table: pd.DataFrame, way: tuple, steps: int, at_test: int, column: str = "loss") -> torch.Tensor:
    """The table (seeds, tasks) of one setting."""
    rows = task_rows(table)
    named = dict(zip(METHOD, way, strict=True))
    for name, value in named.items():
        rows = rows[rows[name].isna() if value is None else rows[name] == value]
    rows = rows[(rows["inner_steps"] == steps) & (rows["test_steps"] == at_test)]
    return torch.tensor(rows.pivot(index="seed", columns="task", values=column).to_numpy(dtype=float))


def one(table: pd.DataFrame, way: tuple, steps: int, at_test: int) -> pd.Series:
    for name, value in dict(zip(METHOD, way, strict=True)).items():
        table = table[table[name].isna() if value is None else table[name] == value]
    (row,) = table[(table["inner_steps"] == steps) & (table["test_steps"] == at_test)].iterrows()
    return row[1]


@pytest.mark.parametrize("column", ["loss", "accuracy"])
def test_means_and_intervals_are_those_of_the_nested_design(column: str) -> None:
    table = training(ways=(MAML, IMAML), seeds=(0, 3, 4, 9), tasks=5, noise=0.3, classes=True)
    expected = interval(values(table, IMAML, 5, 1, column), crossed=False)
    row = one(summarise_training(table), IMAML, 5, 1)
    assert row[column] == pytest.approx(float(expected.mean), rel=ROUNDING)
    assert row[f"{column}_half"] == pytest.approx(float(expected.half_width), rel=ROUNDING)
    assert (row["seeds"], row["tasks"], row["diverged"], row["lost"]) == (4, 5, 0, 0)


def test_differences_are_those_of_pairs_on_the_same_seeds_and_tasks() -> None:
    table = training(ways=(MAML, IMAML, MAML64), tasks=6, noise=0.03)
    expected = paired(values(table, IMAML, 5, 5), values(table, MAML, 5, 5), crossed=False)
    found = over_seeds(differences(task_rows(table), REFERENCE), [*LOOP, *METHOD, "test_steps"])
    row = one(found, IMAML, 5, 5)
    assert row["loss"] == pytest.approx(float(expected.mean), rel=ROUNDING)
    assert row["loss_half"] == pytest.approx(float(expected.half_width), rel=ROUNDING)
    assert row["loss_half"] < one(summarise_training(table), IMAML, 5, 5)["loss_half"]  # what both share is gone
    assert set(found["estimator"] + found["precision"]) == {"implicitfloat32", "unrolled_adjointfloat64"}


def test_a_pair_counts_the_tasks_that_both_have_alone() -> None:
    table = training(ways=(MAML, IMAML), tasks=4)
    gone = table["estimator"].eq("unrolled_adjoint") & table["task"].eq(3) & table["stage"].eq("test")
    part = task_rows(table[~gone])
    found = one(differences(part, REFERENCE).query("seed == 1"), IMAML, 1, 1)
    both = values(table, IMAML, 1, 1)[1, :3] - values(table, MAML, 1, 1)[1, :3]
    assert found["tasks"] == 3 and found["loss"] == pytest.approx(float(both.mean()), rel=ROUNDING)


def test_one_seed_has_a_mean_and_no_interval() -> None:
    found = summarise_training(training(ways=(MAML,), seeds=(4,)))
    assert found["loss"].notna().all() and found["loss_half"].isna().all() and (found["seeds"] == 1).all()
    assert np.isnan(t_over_root(1)) and t_over_root(3) == pytest.approx(4.302652729911275 / 3**0.5, rel=1e-9)


def test_a_lost_task_makes_the_loss_infinite_and_is_counted() -> None:
    table = training(ways=(MAML, IMAML), classes=True, tasks=4)
    hit = table["estimator"].eq("implicit") & table["seed"].eq(0) & table["task"].eq(2) & table["test_steps"].eq(5)
    table = lose(table, hit)
    row = one(summarise_training(table), IMAML, 1, 5)
    assert row["loss"] == np.inf and np.isnan(row["loss_half"]) and row["lost"] == 1
    assert np.isfinite(row["accuracy"]) and np.isfinite(row["accuracy_half"])
    less = differences(task_rows(table), REFERENCE)
    assert one(less[less["seed"] == 0], IMAML, 1, 5)["loss"] == np.inf
    both = lose(table, table["seed"].eq(0) & table["test_steps"].eq(5))
    less = differences(task_rows(both), REFERENCE)
    assert np.isnan(one(less[less["seed"] == 0], IMAML, 1, 5)["loss"])  # infinite less infinite is no number


def test_a_diverged_run_counts_and_is_counted() -> None:
    table = training(ways=(MAML, IMAML), diverged={(IMAML, 5, 1): 20})
    each = by_seed(table)
    hit = each[each["diverged"]]
    assert set(hit["seed"]) == {1} and set(hit["inner_steps"]) == {5} and set(hit["iteration"]) == {20}
    row = one(summarise_training(table), IMAML, 5, 5)
    assert (row["seeds"], row["diverged"]) == (3, 1)
    assert row["loss"] == one(summarise_training(training(ways=(MAML, IMAML))), IMAML, 5, 5)["loss"]


def test_a_run_that_is_there_twice_counts_once_and_two_that_differ_are_refused() -> None:
    table = training(ways=(MAML,), steps=(1,))
    twice = pd.concat([table, table], ignore_index=True)
    pd.testing.assert_frame_equal(summarise_training(twice), summarise_training(table))
    other = pd.concat([table, table.assign(loss=table["loss"] + 1)], ignore_index=True)
    with pytest.raises(ValueError, match="expected one row for each test task .* found task 0 of seed 0 twice"):
        summarise_training(other)


def test_floors_are_counted_once_a_seed() -> None:
    found = floors(training(classes=True, seeds=(0, 1, 2)))
    untrained = found[(found["estimator"] == "untrained") & (found["scaling"] == "none")]
    assert untrained["test_steps"].tolist() == [0, 1, 5, 20] and set(untrained["seeds"]) == {3}
    assert set(untrained["loss"]) == {5.0}
    nearest = found[(found["estimator"] == "nearest_neighbour") & (found["scaling"] == "none")]
    assert nearest["accuracy"].tolist() == [0.3] and nearest["test_steps"].isna().all()


def test_the_pace_is_not_moved_by_one_reading_of_the_clock() -> None:
    found = pace(training(ways=(MAML,))).set_index("inner_steps")["seconds"]
    assert found.to_dict() == pytest.approx({1: 0.01, 5: 0.05, 20: 0.2}, rel=1e-9)


def test_gradients_are_those_of_the_mean_against_the_loops_own_derivative() -> None:
    table = training(ways=(IMAML,), steps=(5,), seeds=(0,))
    probed = table["stage"].eq("probe") & table["task"].eq(-1)
    stationary = table[probed].assign(target="stationary", cosine_distance=0.9)
    found = gradients(pd.concat([table, stationary], ignore_index=True))
    assert found["cosine_distance"].tolist() == [0.1 / 5] * 3 and found["iteration"].tolist() == [0, 20, 40]
    assert gradients(training(ways=(IMAML,), probes=False)).empty


def points(good: list[list[float]], seeds: int = 1) -> pd.DataFrame:
    """`good[k][m]`: of method m with its exactness m after steps k."""
    rows = [
        {"seed": seed, "steps": k, "exact": float(m), "good": value}
        for seed in range(seeds)
        for k, line in enumerate(good)
        for m, value in enumerate(line)
    ]
    return pd.DataFrame(rows)


def test_rank_correlations_within_and_across_are_told_apart() -> None:
    better = points([[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]])
    assert rank_correlation(better, "exact", "good", ["steps"])[0] == pytest.approx(1.0)
    across = rank_correlation(better, "exact", "good")[0]  # ranks 1.5 1.5 3.5 3.5 5.5 5.5 against 1 4 2 5 3 6
    assert across == pytest.approx(np.corrcoef([1.5, 3.5, 5.5] * 2, [1, 2, 3, 4, 5, 6])[0, 1], rel=ROUNDING)
    assert 0 < across < 0.5
    mixed = points([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]])
    assert rank_correlation(mixed, "exact", "good", ["steps"])[0] == pytest.approx(0.0, abs=ROUNDING)


def test_a_rank_correlation_has_an_interval_over_seeds_alone() -> None:
    one_seed = points([[0.0, 1.0, 2.0]])
    assert np.isnan(rank_correlation(one_seed, "exact", "good")[1])
    three = pd.concat([points([[0.0, 1.0, 2.0]]).assign(seed=0), points([[0.0, 2.0, 1.0]]).assign(seed=1)])
    mean, half = rank_correlation(three, "exact", "good")
    assert mean == pytest.approx(0.75) and half == pytest.approx(12.706204736174698 * 0.25, rel=1e-9)  # t_1 s / sqrt(2)


@pytest.mark.parametrize("good", [[[0.0, 1.0]], [[1.0, 1.0, 1.0]], []])
def test_too_few_or_equal_settings_have_no_correlation(good: list[list[float]]) -> None:
    table = points(good) if good else points([[1.0]]).iloc[:0]
    assert all(np.isnan(value) for value in rank_correlation(table, "exact", "good", ["steps"]))


def test_infinite_losses_rank_last() -> None:
    assert rank_correlation(points([[-np.inf, 1.0, 2.0]]), "exact", "good")[0] == pytest.approx(1.0)


TABLE: dict[str, Any] = {
    "problems": ["sinusoid"], "methods": ["maml"], "steps": [1], "seeds": [0], "tasks": 4, "meta_iterations": 2,
}  # fmt: skip


def test_runs_that_no_column_tells_apart_are_refused_before_anything_is_run() -> None:
    tables = [TABLE, TABLE | {"tasks": 8, "seeds": [0, 1]}]
    with pytest.raises(ValueError, match="two of sinusoid, maml, 1 inner steps and seed 0 that differ in tasks alone"):
        cells_of(resolve(("training",), "smoke", {"training": tables}, {}))


def test_a_run_that_two_tables_ask_for_is_one_cell() -> None:
    from analyses.training import cells

    asked = resolve(("training",), "smoke", {"training": [TABLE, TABLE | {"seeds": [0, 1]}]}, {})
    assert [cell.spec["seed"] for cell in cells(asked)] == [0, 1]
