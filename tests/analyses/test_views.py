"""Each analysis's view keeps what its figure needs of every problem, whatever the others were run with."""

import pandas as pd
import pytest

from analyses.analysis import analyses
from analyses.grid import measure
from analyses.grid_rows import GridCell
from analyses.table import COLUMNS, tidy


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    cells = [
        GridCell("quadratic[dimension=3]", 0, 2, (0, 1, 4), (1, 2, 7), precision)
        for precision in ("float32", "float64")
    ] + [GridCell("logistic[dimension=3,examples=4]", 1, 2, (2,), (1, 3), "float32")]
    return tidy(row for cell in cells for row in measure(cell))


def test_every_column_is_there_and_documented(rows: pd.DataFrame) -> None:
    assert list(rows.columns) == list(COLUMNS)
    assert rows[["problem", "task", "seed", "inner_steps", "estimator", "target", "outcome"]].notna().all().all()


def test_a_column_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="found cosin"):
        tidy([{"cosin": 1.0}])


def test_steps_keeps_each_problems_most_iterations(rows: pd.DataFrame) -> None:
    view = analyses["steps"].view(rows)
    kept = view.dropna(subset="solver_iterations").groupby("problem")["solver_iterations"].unique()
    assert set(kept["quadratic[dimension=3]"]) == {2, 7}
    assert set(kept["logistic[dimension=3,examples=4]"]) == {3}
    assert set(view["precision"]) == {"float32", "float64"}
    assert "exact_solve" not in set(view["target"])


@pytest.mark.parametrize("name", ["cg", "surface", "curvature"])
def test_the_others_show_the_finest_arithmetic_of_each_problem(name: str, rows: pd.DataFrame) -> None:
    view = analyses[name].view(rows)
    assert {tuple(pair) for pair in view[["problem", "precision"]].to_numpy()} == {
        ("quadratic[dimension=3]", "float64"),
        ("logistic[dimension=3,examples=4]", "float32"),
    }


def test_curvature_keeps_each_problems_most_iterations_and_the_exact_solve(rows: pd.DataFrame) -> None:
    view = analyses["curvature"].view(rows)
    kept = view.dropna(subset="solver_iterations").groupby("problem")["solver_iterations"].unique()
    assert {name: set(values) for name, values in kept.items()} == {
        "quadratic[dimension=3]": {7},
        "logistic[dimension=3,examples=4]": {3},
    }
    assert (view["solver"] == "exact").any()


def test_a_view_of_nothing_is_empty() -> None:
    for name in analyses.names():
        assert analyses[name].view(tidy([])).empty
