"""What differs is found: one thing at a time is changed in the tables of a real run, at the level where it counts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses.compare import Line, compare
from analyses.finished import Finished, read_run
from tests.golden import unpack

LEVELS = ("bitwise", "numeric")


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return read_run(unpack(tmp_path_factory.mktemp("golden") / "smoke"))


def lines_of(run: Finished, level: str, analysis: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> list[Line]:
    table = run.tables[analysis]
    return compare(run.settings, {analysis: table}, {analysis: change(table.copy())}, bitwise=level == "bitwise")


def counts(lines: list[Line], analysis: str, column: str) -> dict[str, int]:
    (line,) = [line for line in lines if (line.analysis, line.column) == (analysis, column)]
    return {name: getattr(line, name) for name in ("within", "outside", "missing", "untold") if getattr(line, name)}


def changed_columns(lines: list[Line]) -> dict[str, dict[str, int]]:
    """The columns with anything that is not equal, the clocks apart."""
    names = {(line.analysis, line.column) for line in lines if not line.column.startswith("seconds")}
    found = {f"{a} {c}": counts(lines, a, c) for a, c in sorted(names)}
    return {name: count for name, count in found.items() if count}


def definite(run: Finished) -> int:
    """An unrolled gradient of a network in float32, against the stationary one."""
    table = run.tables["steps"]
    rows = (table.estimator == "unrolled") & (table.target == "stationary") & (table.problem == "sinusoid")
    return int(table.index[rows & (table.inner_steps == 20)][0])


def setting(column: str, row: int, value: Callable[[Any], Any]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[row, column] = value(table.loc[row, column])
        return table

    return change


@pytest.mark.parametrize("level", LEVELS)
def test_a_run_is_equal_to_itself(golden: Finished, level: str) -> None:
    lines = compare(golden.settings, golden.tables, golden.tables, bitwise=level == "bitwise")
    assert not changed_columns(lines)
    assert sum(line.equal for line in lines) > 200_000
    assert {line.analysis for line in lines} == set(golden.settings.analyses)


def test_the_last_bit_is_found_bitwise_and_within_otherwise(golden: Finished) -> None:
    change = setting("relative_error", definite(golden), lambda x: np.nextafter(x, 1e9))
    assert changed_columns(lines_of(golden, "bitwise", "steps", change)) == {"steps relative_error": {"outside": 1}}
    assert changed_columns(lines_of(golden, "numeric", "steps", change)) == {"steps relative_error": {"within": 1}}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("cosine", lambda x: -x), ("min_eigenvalue", lambda x: -x), ("relative_error", lambda x: 1.01 * x),
        ("norm_ratio", lambda x: np.nan), ("relative_error", lambda x: np.inf), ("digits", lambda x: x + 1),
        ("gradient_count", lambda x: x + 1), ("chunk", lambda x: x - 1), ("flops", lambda x: 1.0),
        ("outcome", lambda x: "diverged"), ("outcome", lambda x: "unresolved"), ("reference", lambda x: "float32"),
        ("outcome_step", lambda x: 3), ("solver_residual", lambda x: 0.1), ("stationarity", lambda x: 2 * x),
    ],
)  # fmt: skip
def test_a_wrong_value_is_outside_at_every_level(
    golden: Finished, level: str, column: str, value: Callable[[Any], Any]
) -> None:
    lines = lines_of(golden, level, "steps", setting(column, definite(golden), value))
    assert changed_columns(lines) == {f"steps {column}": {"outside": 1}}
    (line,) = [line for line in lines if line.outside]
    assert "sinusoid, task 0, seed 0" in line.where and "inner_steps 20" in line.where


def test_the_sign_of_zero_is_found_bitwise_only(golden: Finished) -> None:
    row = int(golden.tables["steps"].index[golden.tables["steps"].damping == 0][0])
    change = setting("damping", row, lambda x: -x)
    assert counts(lines_of(golden, "bitwise", "steps", change), "steps", "damping") == {"outside": 1}
    zero = setting("relative_error", definite(golden), lambda x: 0.0)
    negative = setting("relative_error", definite(golden), lambda x: -0.0)
    tables = [{"steps": change(golden.tables["steps"].copy())} for change in (zero, negative)]
    for level, found in (("bitwise", "outside"), ("numeric", "within")):
        lines = compare(golden.settings, tables[0], tables[1], bitwise=level == "bitwise")
        assert counts(lines, "steps", "relative_error") == {found: 1}


@pytest.mark.parametrize("level", LEVELS)
def test_a_row_that_is_not_there_or_one_too_many_is_outside(golden: Finished, level: str) -> None:
    row = definite(golden)
    fewer = lines_of(golden, level, "steps", lambda t: t.drop(index=row))
    assert changed_columns(fewer) == {"steps rows": {"outside": 1}}
    more = lines_of(golden, level, "steps", lambda t: pd.concat([t, t.loc[[row]]], ignore_index=True))
    assert changed_columns(more) == {"steps rows": {"outside": 1}}
    moved = lines_of(golden, level, "steps", setting("task", row, lambda _: 17))
    assert changed_columns(moved) == {"steps rows": {"outside": 2}}
    assert "not in" in next(line.where for line in moved if line.outside)


@pytest.mark.parametrize("level", LEVELS)
def test_the_order_of_rows_does_not_matter(golden: Finished, level: str) -> None:
    lines = lines_of(golden, level, "steps", lambda t: t.sample(frac=1, random_state=0).reset_index(drop=True))
    assert not changed_columns(lines)


@pytest.mark.parametrize("level", LEVELS)
def test_a_cell_that_is_not_there_is_missing_and_an_analysis_too(golden: Finished, level: str) -> None:
    lines = lines_of(golden, level, "steps", lambda t: t[t.problem != "sinusoid"])
    lost = int((golden.tables["steps"].problem == "sinusoid").sum())
    assert changed_columns(lines) == {"steps rows": {"missing": lost}}
    without = {name: table for name, table in golden.tables.items() if name != "digits"}
    lines = compare(golden.settings, golden.tables, without, bitwise=level == "bitwise")
    assert changed_columns(lines) == {"digits rows": {"missing": len(golden.tables["digits"])}}


@pytest.mark.parametrize("level", LEVELS)
def test_a_cell_whose_workers_died_is_missing(golden: Finished, level: str) -> None:
    def killed(table: pd.DataFrame) -> pd.DataFrame:
        left = table[table.problem != "sinusoid"]
        row = table[table.problem == "sinusoid"].iloc[[0]].assign(task=-1, outcome="killed", relative_error=np.nan)
        return pd.concat([left, row], ignore_index=True)

    lost = int((golden.tables["steps"].problem == "sinusoid").sum())
    assert changed_columns(lines_of(golden, level, "steps", killed)) == {"steps rows": {"missing": lost}}


def test_a_column_that_is_not_there_is_outside_bitwise_and_missing_otherwise(golden: Finished) -> None:
    for level, found in (("bitwise", "outside"), ("numeric", "missing")):
        lines = compare(
            golden.settings, golden.tables, golden.tables, bitwise=level == "bitwise", absent={"steps": {"cosine"}}
        )
        assert changed_columns(lines) == {"steps cosine": {found: len(golden.tables["steps"])}}


@pytest.mark.parametrize("level", LEVELS)
def test_seconds_are_never_compared(golden: Finished, level: str) -> None:
    lines = lines_of(golden, level, "cost", lambda t: t.assign(seconds=1e9, seconds_low=-1.0, process_bytes=7.0))
    assert not any(line.outside or line.within for line in lines)
    assert counts(lines, "cost", "seconds") == {"untold": len(golden.tables["cost"])}


def test_bytes_have_a_factor(golden: Finished) -> None:
    for factor, found in ((1.9, "within"), (2.1, "outside")):
        lines = lines_of(golden, "numeric", "cost", lambda t, by=factor: t.assign(peak_bytes=by * t.peak_bytes))
        (told,) = counts(lines, "cost", "peak_bytes")
        assert told == found


def test_unresolved_may_come_and_go_with_the_numbers_that_it_compares(golden: Finished) -> None:
    row = definite(golden)

    def both(table: pd.DataFrame) -> pd.DataFrame:
        return setting("reference_uncertainty", row, lambda x: 1.5 * x)(
            setting("outcome", row, lambda _: "unresolved")(table)
        )

    found = changed_columns(lines_of(golden, "numeric", "steps", both))
    assert found == {"steps outcome": {"within": 1}, "steps reference_uncertainty": {"within": 1}}


def test_an_implicit_gradient_at_an_indefinite_hessian_is_compared_bitwise_only(golden: Finished) -> None:
    table = golden.tables["cg"]
    rows = table.index[(table.min_eigenvalue < -1e-2) & (table.solver == "cg_unchecked")]
    assert len(rows) > 10
    change = setting("relative_error", int(rows[0]), lambda x: 3 * x)
    assert changed_columns(lines_of(golden, "bitwise", "cg", change)) == {"cg relative_error": {"outside": 1}}
    assert changed_columns(lines_of(golden, "numeric", "cg", change)) == {"cg relative_error": {"untold": 1}}


def test_products_of_a_solver_may_differ_by_one_and_others_not(golden: Finished) -> None:
    table = golden.tables["steps"]
    row = int(table.index[table.solver == "cg"][0])
    for more, found in ((1, "within"), (5, "outside")):
        change = setting("hvp_count", row, lambda x, more=more: x + more)
        lines = lines_of(golden, "numeric", "steps", change)
        assert counts(lines, "steps", "hvp_count") == {found: 1}


def test_a_share_is_held_to_the_length_of_the_whole(golden: Finished) -> None:
    table = golden.tables["budget"]
    rows = (table.part == "truncation") & (table.problem == "quadratic") & (table.precision == "float32")
    row = int(table.index[rows & (table.inner_steps == 1)][0])
    assert counts(lines_of(golden, "numeric", "budget", setting("share", row, lambda x: x + 0.01)), "budget", "share")
    lines = lines_of(golden, "numeric", "budget", setting("share", row, lambda x: x * 1.01))
    assert counts(lines, "budget", "share") == {"outside": 1}
