"""What lies in a run folder: tables come back exactly, and no spreadsheet takes a name for a formula."""

import csv
import io
import json
import math
import os
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from analyses import folder as run_folder
from analyses.analysis import Cell, analyses
from analyses.folder import (
    as_csv,
    from_csv,
    make_writable,
    read_tables,
    require_parquet,
    tables,
    write_manifest,
    write_tables,
)
from analyses.settings import resolve
from analyses.store import Store
from analyses.table import COLUMNS, TEXT, WHOLE, tidy

FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'quoted'", "''", "'=1", "=cmd|' /C calc'!A0")
LIKE_NOTHING = ("", "NA", "nan", "None", "null", "N/A", "<NA>", "inf", " ", "1e5", "007", "True")
FLOATS = st.one_of(st.floats(), st.sampled_from([math.inf, -math.inf, -0.0, 5e-324, 0.1, 2**53 + 1.0]))
NAMES = st.one_of(st.none(), st.sampled_from(FORMULAS + LIKE_NOTHING), st.text(max_size=6))
ROW = st.fixed_dictionaries(
    {"problem": NAMES, "outcome": NAMES, "relative_error": FLOATS, "cosine": FLOATS,
     "seed": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), "task": st.integers(-1, 5)}
)  # fmt: skip


def one(problem: str | None, **values: object) -> pd.DataFrame:
    return tidy([{"problem": problem, "task": 0, "seed": 0} | values])


def exactly(old: pd.DataFrame, new: pd.DataFrame) -> None:
    """Equal in every kind, every text, every bit of a float but a NaN's; what is missing is missing."""
    assert_frame_equal(old, new, check_exact=True)
    for name in COLUMNS:
        if name not in TEXT and name not in WHOLE:
            assert [x.hex() for x in old[name]] == [x.hex() for x in new[name]], name


@given(rows=st.lists(ROW, min_size=1, max_size=5))
@settings(max_examples=60)
def test_tables_come_back_exactly(rows: list, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, table = tmp_path_factory.mktemp("run"), tidy(rows)
    write_tables(folder, {"steps": table})
    back = read_tables(folder)
    assert list(back) == ["steps"]
    exactly(table, back["steps"])


@pytest.mark.parametrize("name", FORMULAS)
def test_a_name_that_is_a_formula_is_no_formula_in_a_spreadsheet(name: str) -> None:
    """Read as other programs do: no cell of text starts with what starts a formula, and numbers are left alone."""
    written = as_csv(one(name, relative_error=-0.5, cosine=-1.0)).decode()
    (row,) = csv.DictReader(io.StringIO(written, newline=""))
    assert row["problem"] == f"'{name}"
    assert (row["relative_error"], row["cosine"]) == ("-0.5", "-1.0")


def test_ordinary_names_are_written_as_they_are(tmp_path: Path) -> None:
    table = one("sinusoid[activation=relu]", outcome="ok", solver=None)
    (tmp_path / "steps.csv").write_bytes(as_csv(table))
    plain = pd.read_csv(tmp_path / "steps.csv")
    assert plain.problem[0] == "sinusoid[activation=relu]" and plain.outcome[0] == "ok" and pd.isna(plain.solver[0])
    exactly(table, from_csv(tmp_path / "steps.csv"))


def test_a_table_with_a_column_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "steps.csv").write_text("problem,colour\nquadratic,red\n")
    with pytest.raises(ValueError, match="expected the columns of .* found colour"):
        read_tables(tmp_path)


def test_tables_are_written_as_parquet_where_asked(tmp_path: Path) -> None:
    table = tidy([
        {"problem": name, "task": task, "seed": None, "relative_error": error}
        for task, (name, error) in enumerate([("=1", math.nan), ("", -0.0), (None, math.inf), ("é", 5e-324)])
    ])  # fmt: skip
    write_tables(tmp_path / "plain", {"steps": table})
    write_tables(tmp_path / "both", {"steps": table}, parquet=True)
    assert os.listdir(tmp_path / "plain" / "tables") == ["steps.csv"]
    assert sorted(os.listdir(tmp_path / "both" / "tables")) == ["steps.csv", "steps.parquet"]
    exactly(table, pd.read_parquet(tmp_path / "both" / "tables" / "steps.parquet"))
    exactly(table, read_tables(tmp_path / "both")["steps"])


def test_parquet_without_its_package_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    require_parquet()
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"--parquet: expected the package pyarrow, found none; install gradgauge\["):
        require_parquet()


def test_the_tables_of_a_store_hold_the_rows_of_its_finished_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many rows are made a frame at a time; a cell that is not finished is left out."""
    monkeypatch.setattr("analyses.folder.FRAME", 3)
    chosen = resolve(("steps",), "smoke", {}, {"seeds": (0, 1, 2, 3)}, ("quadratic",))
    cells = [Cell("grid", {"seed": seed}) for seed in range(5)]
    shown = type(analyses["steps"])(("Q0",), "made up", lambda settings: cells, lambda rows: rows)
    monkeypatch.setitem(analyses.entries, "steps", shown)
    store = Store(tmp_path / "run.sqlite")
    store.begin({})
    assert dict(tables(chosen, store)) == {}
    counts = {0: 2, 1: 2, 2: 0, 4: 4}
    with store.opened() as kept:
        kept.put_many([
            (cells[seed], [{"seed": seed, "task": task, "cosine": seed / 7} for task in range(count)], 0.0)
            for seed, count in counts.items()
        ])  # fmt: skip
    table = dict(tables(chosen, store))["steps"]
    assert [(seed, task) for seed, count in counts.items() for task in range(count)] == [
        (seed, task) for seed, task in zip(table.seed, table.task, strict=True)
    ]
    assert (table.cosine == table.seed / 7).all() and (table.analysis == "steps").all()
    assert list(table.index) == list(range(8))
    cells[:] = [cells[2]]  # finished, without any row
    assert dict(tables(chosen, store))["steps"].empty


def test_the_manifest_is_json(tmp_path: Path) -> None:
    write_manifest(tmp_path, {"problem": "<script>", "steps": [1, 2]})
    assert json.loads((tmp_path / "manifest.json").read_text()) == {"problem": "<script>", "steps": [1, 2]}


def test_a_folder_is_made_or_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_writable(tmp_path / "a" / "b c")
    assert not list((tmp_path / "a" / "b c").iterdir())

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(run_folder, "write_whole", full)
    with pytest.raises(OSError, match="No space"):
        make_writable(tmp_path / "c" / "d")
    assert os.listdir(tmp_path) == ["a"]
