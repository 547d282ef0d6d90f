"""Cutting a batch: any size gives the same numbers."""

import math

import pytest
import torch
from torch import Tensor

from analyses.grid import measure
from analyses.grid_rows import GridCell
from diagnostics.arithmetic.extended import extended
from diagnostics.chunks import BUDGET, in_chunks, saved_bytes, tasks_that_fit
from diagnostics.problem import Problem
from diagnostics.problem_names import problems
from diagnostics.rows import Data
from tests.cases import small, theta_and_data


def test_chunks_cover_all_tasks_in_order() -> None:
    for tasks, size in ((7, 3), (6, 3), (2, 5), (1, 1), (0, 4)):
        slices = in_chunks(lambda rows: rows, tasks, size)
        assert [i for rows in slices for i in range(rows.start, rows.stop)] == list(range(tasks))
        assert all(rows.stop - rows.start <= size for rows in slices)


@pytest.mark.parametrize("size", [0, -1, True, 2.0])
def test_a_chunk_is_a_positive_whole_number(size: object) -> None:
    with pytest.raises(ValueError, match="chunk size: expected a whole number >= 1"):
        in_chunks(lambda rows: rows, 3, size)  # type: ignore[arg-type]


def test_as_many_tasks_as_fit_at_least_one_and_at_most_all() -> None:
    problem = small("sinusoid")
    theta, data = theta_and_data(problem, 5)
    one = saved_bytes(problem, theta[:1], {key: value[:1] for key, value in data.items()})
    assert tasks_that_fit(problem, theta, data, copies=1, budget=1) == 1
    assert tasks_that_fit(problem, theta, data, copies=10, budget=10 * one) == 1
    assert tasks_that_fit(problem, theta, data, copies=10, budget=30 * one) == 3
    assert tasks_that_fit(problem, theta, data, copies=10, budget=30 * one - 1) == 2
    assert tasks_that_fit(problem, theta, data, copies=0, budget=3 * one) == 3
    assert tasks_that_fit(problem, theta, data, copies=1, budget=BUDGET) == 5
    assert tasks_that_fit(problem, theta.float(), {k: v.float() for k, v in data.items()}, 10, 30 * one) >= 5


def test_the_bytes_that_are_saved_grow_with_the_data() -> None:
    bytes_of = {}
    for shots in (5, 50):
        problem = small("sinusoid", shots=shots)
        theta, data = theta_and_data(problem, 1)
        bytes_of[shots] = saved_bytes(problem, theta, data)
    assert bytes_of[5] > theta.numel() * 8
    assert bytes_of[50] > bytes_of[5] + 45 * 80 * 8  # both hidden layers' activations


def test_an_extended_number_is_two() -> None:
    problem = small("logistic")
    theta, data = theta_and_data(problem, 2)
    wide = {key: extended(value) for key, value in data.items()}
    # Not exactly: the graph of extended precision keeps no float64 constants.
    assert 1.5 <= saved_bytes(problem, extended(theta), wide) / saved_bytes(problem, theta, data) <= 2


def test_what_is_saved_many_times_is_counted_once() -> None:
    """Ten products with the same thousand numbers hold them once."""

    def products(times: int) -> Problem:
        def inner_loss(w: Tensor, theta: Tensor, data: Data) -> Tensor:
            return sum(((w * data["x"]).sum(-1) for _ in range(times)), torch.zeros(len(w)).double())

        return Problem(
            "products",
            inner_loss=inner_loss,
            outer_loss=inner_loss,
            init=lambda seed: torch.ones(1000).double(),
            sample=lambda tasks, seed: {"x": torch.ones(tasks, 1000).double()},
        )

    found = [saved_bytes(products(times), *theta_and_data(products(times), 1)) for times in (1, 10)]
    assert 8000 <= found[0] <= found[1] < 1.5 * found[0]


TINY = {
    "quadratic": "quadratic[dimension=4]",
    "linear_regression": "linear_regression[dimension=4,examples=6]",
    "logistic": "logistic[dimension=4,examples=6]",
    "sinusoid": "sinusoid[shots=3,queries=3]",
    "few_shot": "few_shot[ways=2,queries=1,width=2]",
}


@pytest.mark.parametrize("name", [name for name in problems.names() if name in TINY])
def test_the_numbers_of_a_grid_do_not_depend_on_the_chunk(name: str) -> None:
    """Row for row: the same outcomes and counts, and gradients to rounding."""
    base = {"problem": TINY[name], "seed": 1, "tasks": 3, "steps": (0, 2), "iterations": (1, 3), "patience": 60}
    if name in ("sinusoid", "few_shot"):
        base |= {"patience": 20, "exact_iterations": 20, "lanczos_iterations": 5, "dense_below": 4}
    key = ("task", "inner_steps", "estimator", "solver", "solver_iterations", "target")
    tables = []
    for chunk in (0, 1, 2):
        rows = measure(GridCell(**base, chunk=chunk))
        tables.append({tuple(row.get(k) for k in key): row for row in rows})
        assert len(tables[-1]) == len(rows)
    compared = 0
    for other in tables[1:]:
        assert other.keys() == tables[0].keys()
        for where, row in tables[0].items():
            there = other[where]
            assert row["outcome"] == there["outcome"], where
            assert row.get("hvp_count") == there.get("hvp_count") and row["seed"] == there["seed"]
            for column in ("norm_ratio", "cosine", "stationarity"):
                one, two = row[column], there[column]
                assert isinstance(one, float) and isinstance(two, float)
                if math.isnan(one) or math.isnan(two):
                    assert math.isnan(one) and math.isnan(two), (where, column)
                    continue
                # Kernels may sum a batch of another size in another order; a solve carries that by its condition.
                assert two == pytest.approx(one, rel=1e-9, abs=1e-12), (where, column)
                compared += 1
    assert compared > 100


def test_the_size_of_a_chunk_is_the_same_on_every_machine() -> None:
    assert BUDGET == 2**30
    assert torch.get_num_threads() == 1
