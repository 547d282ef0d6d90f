"""The analysis of whose an error is: its rows add up, are what the split says, and refuse what means nothing."""

from functools import lru_cache
from typing import Any

import pandas as pd
import pytest
import torch

from analyses import budget
from analyses.analysis import analyses
from analyses.budget import BudgetCell, cells, measure, measure_spec
from analyses.rounding import Loop, held_by_all
from analyses.settings import resolve
from analyses.table import COLUMNS, tidy
from diagnostics.arithmetic.precision import PRECISIONS, precision
from diagnostics.inner import optimizers
from diagnostics.problem_names import build
from diagnostics.theory import quadratic_prediction
from tests.cases import check_ratio

QUADRATIC = "quadratic[dimension=4,condition=10]"  # cond(H) = 5.5
LOW = ("bfloat16", "float32")
PARTS = {
    ("implicit", "stationary"): {"total", "rounding", "solver", "inner"},
    ("implicit", "unrolled"): {"total", "rounding", "solver", "inner"},
    ("unrolled_adjoint", "stationary"): {"total", "rounding", "truncation"},
    ("unrolled_adjoint", "unrolled"): {"total", "rounding"},
    ("first_order", "stationary"): {"total", "rounding", "first_order", "truncation"},
    ("first_order", "unrolled"): {"total", "rounding", "first_order"},
}


@lru_cache
def rows(problem: str = QUADRATIC, **given: Any) -> pd.DataFrame:
    """The rows of a small cell."""
    plain: dict[str, Any] = {
        "seed": 0, "tasks": 2, "steps": (1, 20), "iterations": (1, 3), "precisions": LOW, "reference_seconds": 0.0,
    }  # fmt: skip
    return tidy(measure(BudgetCell(problem=problem, **(plain | given))))


KEYS = ["task", "inner_steps", "estimator", "solver_iterations", "precision", "target"]


def test_every_gradient_has_a_row_for_each_part_against_each_target() -> None:
    found = rows()
    assert list(found.columns) == list(COLUMNS)
    for (estimator, target), parts in PARTS.items():
        here = found[(found.estimator == estimator) & (found.target == target)]
        assert set(here.part) == parts
        assert len(here) == len(parts) * 2 * 2 * 2 * (2 if estimator == "implicit" else 1)
    assert not found.duplicated([*KEYS, "part"]).any()
    assert set(found.solver.dropna()) == {"cg_unchecked"} and set(found.reference) == {"float64"}


def test_shares_add_up_to_one_for_every_gradient_and_task() -> None:
    found = rows().fillna({"solver_iterations": -1})
    whole = found[found.part == "total"].set_index(KEYS)
    groups = found[found.part != "total"].groupby(KEYS)
    sums = torch.tensor(groups["share"].sum().tolist(), dtype=torch.float64)
    total = whole["relative_error"]
    longest = groups["relative_error"].max()
    unit = 2.0**-52 * (1 + longest) / total.reindex(longest.index)
    check_ratio("shares in the table", (sums - 1).abs(), torch.tensor(unit.tolist(), dtype=torch.float64), QUADRATIC)
    assert (whole["share"] - 1).abs().max() < 1e-14


def test_the_parts_are_those_of_the_closed_form() -> None:
    """The inner and truncation parts of every task, from the spectrum of the Hessian and the numbers that were held."""
    problem = build(QUADRATIC)
    theta, data = problem.draw(2, 0)
    loop = Loop(problem, optimizers["gd"](problem.learning_rate), theta, data)
    held = held_by_all([precision(name) for name in LOW], loop).run(precision("float64"), 20)
    theory = quadratic_prediction(problem, held, (1, 20))
    for estimator, part, value in (
        ("implicit", "inner", theory.implicit),
        ("unrolled_adjoint", "truncation", theory.unrolled),
    ):
        expected = (value - theory.stationary).norm(dim=-1) / theory.stationary.norm(dim=-1)
        found = rows()[(rows().estimator == estimator) & (rows().target == "stationary") & (rows().part == part)]
        for end, count in enumerate((1, 20)):
            for task in range(2):
                here = found[(found.inner_steps == count) & (found.task == task)]
                sizes = torch.tensor(here.relative_error.tolist(), dtype=torch.float64)
                error = (sizes - expected[end, task]).abs()
                check_ratio("parts in the table", error, 5.5 * 2.0**-52, (estimator, count, task))


def test_only_rounding_and_the_total_depend_on_the_arithmetic() -> None:
    found = rows()
    same = found[~found.part.isin(["total", "rounding"])]
    assert (same.groupby([*KEYS[:4], "target", "part"], dropna=False)["relative_error"].nunique() == 1).all()
    rounding = found[found.part == "rounding"].groupby("precision")["relative_error"].median()
    for name in LOW:
        eps = PRECISIONS[name].eps
        assert eps / 30 < rounding[name] < 30 * eps


def test_the_total_has_a_direction_and_a_part_has_none() -> None:
    found = rows()
    total = found.part == "total"
    assert found[total][["cosine", "norm_ratio", "digits"]].notna().all().all()
    assert found[~total][["cosine", "cosine_distance", "norm_ratio", "digits", "hvp_count"]].isna().all().all()
    assert found[total & (found.estimator == "implicit")].hvp_count.notna().all()


def test_extended_precision_tells_the_parts_where_it_is_affordable() -> None:
    found = rows(steps=(2,), iterations=(2,), precisions=("float32", "float64"), reference_seconds=1e9)
    assert set(found.reference) == {"extended"} and (found.reference_uncertainty < 1e-18).all()
    rounding = found[(found.part == "rounding") & (found.precision == "float64")]
    assert rounding.relative_error.between(1e-18, 1e-13).all() and "unresolved" not in set(rounding.outcome)


def test_float64_told_by_float64_is_unresolved() -> None:
    found = rows(steps=(2,), iterations=(2,), precisions=("float64",))
    rounding = found[found.part == "rounding"]
    assert (rounding.relative_error == 0).all()
    # That CG is not finished is the graver of the two.
    assert set(rounding[rounding.estimator != "implicit"].outcome) == {"unresolved"}


def test_a_network_that_finds_no_minimiser_is_split_against_the_unrolled_gradient() -> None:
    found = rows("sinusoid", tasks=1, steps=(1,), iterations=(1,), precisions=("float32",), patience=0)
    stationary, unrolled = (found[found.target == name] for name in ("stationary", "unrolled"))
    assert set(stationary.outcome) == {"no minimiser"} and stationary.relative_error.isna().all()
    assert unrolled.relative_error.notna().all() and unrolled.share.notna().all()
    implicit = unrolled[unrolled.estimator == "implicit"]
    assert (implicit.min_eigenvalue < 0).all() and set(implicit.outcome) <= {"indefinite", "negative curvature"}


def test_without_a_strength_there_is_one_target() -> None:
    found = rows("quadratic[dimension=4,strength=0]")
    assert set(found.target) == {"unrolled"} and set(found.estimator) == {"unrolled_adjoint", "first_order"}


def test_chunks_do_not_change_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = BudgetCell(QUADRATIC, 0, 3, (2, 4), (2,), LOW, reference_seconds=0.0)
    order = [*KEYS, "part"]
    whole = tidy(measure(cell)).sort_values(order)
    monkeypatch.setattr(budget, "tasks_that_fit", lambda *_, **__: 2)
    pieces = tidy(measure(cell)).sort_values(order)
    assert set(whole.chunk) == {3} and set(pieces.chunk) == {2, 1}
    assert whole[[*order, "outcome"]].values.tolist() == pieces[[*order, "outcome"]].values.tolist()
    both = torch.tensor([whole.relative_error.tolist(), pieces.relative_error.tolist()], dtype=torch.float64)
    # A product of another batch size may round otherwise, in bfloat16 too.
    assert bool(((both[0] - both[1]).abs() <= 2.0**-7 * both[0] + 1e-12).all())


def test_a_store_s_spelling_of_a_cell_is_the_cell() -> None:
    spec = {"problem": QUADRATIC, "seed": 0, "tasks": 2, "steps": [1, 20], "iterations": [1, 3]}
    assert tidy(measure_spec(spec | {"precisions": list(LOW), "reference_seconds": 0.0})).equals(rows())


def settings_with(entry: dict[str, Any]):
    table = {"problems": ["quadratic"], "steps": [1], "iterations": [1], "tasks": 1, "seeds": [0]} | entry
    return resolve(("budget",), "smoke", {"budget": [table]}, {})


def test_a_cell_for_each_problem_and_seed() -> None:
    found = cells(settings_with({"problems": ["quadratic", "logistic"], "seeds": [3, 4]}))
    assert [(cell.spec["problem"], cell.spec["seed"]) for cell in found] == [
        ("quadratic", 3), ("quadratic", 4), ("logistic", 3), ("logistic", 4),
    ]  # fmt: skip
    assert {cell.measurement for cell in found} == {"budget"} and len({cell.key for cell in found}) == 4
    assert found[0].spec["precisions"] == ("bfloat16", "float32")
    assert analyses["budget"].view(rows()).equals(rows())


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ({"problems": ["quadratics"]}, "unknown problem 'quadratics'; did you mean 'quadratic'?"),
        ({"precisions": ["float23"]}, "unknown precision 'float23'; did you mean 'float32'?"),
        ({"precisions": ["extended"]}, "precisions: expected float64 or coarser arithmetics, found extended"),
        ({"inner_optimizer": "gdd"}, "unknown inner optimizer 'gdd'; did you mean 'gd'?"),
        ({"traced": ["float32"]}, "unknown entry 'traced'"),
        ({"exact_iterations": 0}, "exact_iterations: input should be greater than or equal to 1, found 0"),
    ],
)
def test_what_means_nothing_is_refused_before_anything_is_measured(entry: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError) as caught:
        cells(settings_with(entry))
    assert line in str(caught.value) and "\n" not in str(caught.value)
