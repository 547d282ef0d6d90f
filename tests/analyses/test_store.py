"""The store: what was acknowledged is there afterwards, exactly; what is not a store is refused."""

import math
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyses.analysis import Cell
from analyses.store import VERSION, Store, Unusable

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def store(tmp_path: Path) -> Store:
    fresh = Store(tmp_path / "run.sqlite")
    fresh.begin({"settings": 1})
    return fresh


def same(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return a.hex() == b.hex() or (math.isnan(a) and math.isnan(b))
    return type(a) is type(b) and a == b


values = st.one_of(st.floats(), st.integers(-(2**62), 2**62), st.text(), st.none())


@given(rows=st.lists(st.fixed_dictionaries({"a": values, "b": values}), min_size=1, max_size=5))
def test_rows_come_back_exactly(rows: list, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = Store(tmp_path_factory.mktemp("store") / "run.sqlite")
    store.begin({})
    cell = Cell("grid", {"seed": 1})
    store.put(cell, rows, 0.5)
    back = store.rows(cell)
    assert len(back) == len(rows)
    assert all(same(old[key], new[key]) for old, new in zip(rows, back, strict=True) for key in ("a", "b"))


def test_awkward_floats_come_back_exactly(store: Store) -> None:
    cell = Cell("grid", {})
    awkward = [math.inf, -math.inf, -0.0, 5e-324, 0.1, 1e308]
    store.put(cell, [{"x": x} for x in [*awkward, math.nan]], 0.0)
    back = [row["x"] for row in store.rows(cell)]
    assert [x.hex() for x in back[:-1] if isinstance(x, float)] == [x.hex() for x in awkward]
    assert isinstance(back[-1], float) and math.isnan(back[-1])


def test_the_identity_is_the_first_one(store: Store) -> None:
    store.begin({"settings": 2})
    assert store.identity() == {"settings": 1}
    assert Store(store.path.with_name("none")).identity() is None


def test_a_damaged_cell_is_found_out(store: Store) -> None:
    cell = Cell("grid", {})
    store.put(cell, [{"x": 1.0}], 0.0)
    with sqlite3.connect(store.path) as database:
        database.execute("update cell set rows = zeroblob(20)")
    database.close()
    with pytest.raises(Unusable, match="missing or damaged"):
        store.rows(cell)


def test_what_is_not_a_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(Unusable, match="expected a gradgauge store"):
        Store(path).identity()


def test_a_store_of_a_newer_version_is_refused(store: Store) -> None:
    with sqlite3.connect(store.path) as database:
        database.execute(f"pragma user_version = {VERSION + 1}")
    database.close()
    with pytest.raises(Unusable, match=f"version {VERSION} or older"):
        store.keys()


def test_a_cell_that_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    code = f"""
import os, signal
from pathlib import Path
from analyses.analysis import Cell
from analyses.store import Store
store = Store(Path({str(path)!r}))
store.begin({{}})
for seed in range(3):
    store.put(Cell("grid", {{"seed": seed}}), [{{"x": seed / 7}}], 0.0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == -9
    assert [Store(path).rows(Cell("grid", {"seed": seed})) for seed in range(3)] == [[{"x": s / 7}] for s in range(3)]
