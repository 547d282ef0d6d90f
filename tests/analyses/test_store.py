"""The store: what was acknowledged is there afterwards, exactly, once, whatever happened to the process."""

import os
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from analyses.analysis import Cell, Rows
from analyses.store import VERSION, Opened, Store, Unusable
from tests.analyses.test_packed import ROWS, same

PLAIN = st.one_of(  # what the arguments of a cell may be, alone or in lists and dictionaries
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(st.characters())
)  # fmt: skip
NESTED = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2))
# NaN of either sign and with a payload, which are all one NaN, and text that no file could hold.
ODD: Rows = [
    {"x": struct.unpack("<d", struct.pack("<Q", bits))[0], "": text}
    for bits, text in ((0x7FF8_0000_0000_0001, "\ud800"), (0xFFF0_DEAD_BEEF_0001, "\x00"), (1, "\U0010ffff"),
                       (1 << 63, "=1\r\n"), (0x7FF0 << 48, "\u202e"), (0xFFF0 << 48, "e\u0301"))
]  # fmt: skip
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return begun(tmp_path)


def begun(folder: Path) -> Store:
    fresh = Store(folder / "run.sqlite")
    fresh.begin({"settings": 1})
    return fresh


def cell(number: int) -> Cell:
    return Cell("grid", {"seed": number})


def rows(number: int) -> Rows:
    return [{"x": number / 7, "name": f"row {i}"} for i in range(3)]


def put(store: Store, numbers: Iterable[int]) -> None:
    """By a driver of their own, each cell in a transaction of its own."""
    with store.opened() as kept:
        put_each(kept, numbers)


def put_each(kept: Opened, numbers: Iterable[int]) -> None:
    for number in numbers:
        kept.put(cell(number), rows(number), 0.5)


def numbers_in(store: Store) -> set[int]:
    """The numbers of the cells that are kept, each of which must have its rows."""
    with store.reading() as kept:
        return numbers_of(kept)


def numbers_of(kept: Opened) -> set[int]:
    known = {cell(number).key: number for number in range(100)}
    found = {known[key] for key in kept.keys()}
    assert all(kept.rows(cell(number)) == rows(number) for number in found)
    return found


def by_hand(store: Store, statement: str) -> None:
    with closing(sqlite3.connect(store.path)) as database, database:
        database.execute(statement)


@given(kept=st.lists(ROWS, max_size=4), spec=NESTED)
@example(kept=[ODD, [], [{}], ODD], spec={"\ud800": [5e-324, -0.0, 2**70, "\x00"]})
@settings(max_examples=25)
def test_cells_come_back_exactly(kept: list[Rows], spec: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = begun(tmp_path_factory.mktemp("store"))
    cells = [Cell("grid", {"spec": spec, "number": number}) for number in range(len(kept))]
    with store.opened() as opened:
        opened.put_many([(cell, rows, 0.25) for cell, rows in zip(cells, kept, strict=True)])
    assert store.keys() == {cell.key for cell in cells}
    assert store.seconds() == 0.25 * len(cells)
    for cell, rows in zip(cells, kept, strict=True):
        back = store.rows(cell)
        assert [old.keys() for old in rows] == [new.keys() for new in back]
        assert all(same(old[name], new[name]) for old, new in zip(rows, back, strict=True) for name in old)


@given(groups=st.lists(st.sets(st.integers(0, 11)), max_size=4))
@settings(max_examples=25)
def test_a_run_is_completed_from_whatever_is_finished(
    groups: list[set[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any subset, kept in any groups, by drivers one after the other; what is missing is exactly the rest."""
    store = begun(tmp_path_factory.mktemp("store"))
    done: set[int] = set()
    for group in groups:
        with store.opened() as kept:
            kept.put_many([(cell(number), rows(number), 0.5) for number in group])
        done |= group
        assert numbers_in(Store(store.path)) == done
    put(store, sorted(set(range(12)) - done))
    assert numbers_in(store) == set(range(12))
    assert store.seconds() == 6.0


def test_the_identity_is_the_first_one(store: Store) -> None:
    put(store, [1])
    store.begin({"settings": 2})
    assert store.identity() == {"settings": 1} and numbers_in(store) == {1}
    assert Store(store.path.with_name("none")).identity() is None


def test_a_cell_that_is_kept_stays_as_it_is(store: Store) -> None:
    put(store, [1])
    store.put(cell(1), [{"x": "another"}], 9.0)
    assert numbers_in(store) == {1} and store.seconds() == 0.5


def test_a_group_is_kept_whole_or_not_at_all(store: Store) -> None:
    with store.opened() as kept:
        kept.put_many([(cell(1), rows(1), 0.5), (cell(2), rows(2), 0.5)])
        with pytest.raises(TypeError):
            kept.put_many([(cell(3), rows(3), 0.5), (cell(4), [{"x": object()}], 0.5)])
        assert numbers_of(kept) == {1, 2}
    assert numbers_in(store) == {1, 2}


@pytest.mark.parametrize(
    "change",
    ["rows = zeroblob(20)", "rows = (select rows from cell where seconds = 2)", "seconds = 3", "measurement = 'cost'",
     "spec = '{}'", "key = 'k'", f"sha256 = '{'0' * 64}'", "spec = cast(spec as blob)", "rows = 'text'",
     "seconds = 'long'"],
)  # fmt: skip
def test_a_cell_that_was_changed_is_found_out(change: str, store: Store) -> None:
    store.put(cell(2), rows(2), 2.0)
    store.put(cell(1), rows(1), 1.0)
    by_hand(store, f"update cell set {change} where seconds = 1")
    for read in (store.keys, store.seconds):
        with pytest.raises(Unusable, match="cell .* damaged; `gradgauge salvage` saves what is whole"):
            read()
    with pytest.raises(Unusable, match="missing" if change.startswith("key") else "damaged"):
        store.rows(cell(1))
    assert store.rows(cell(2)) == rows(2)


@pytest.mark.parametrize(
    "statement", ["delete from cell where seconds = 0.5", "delete from run where name = 'ledger'",
                  "update run set value = '[1, 0]' where name = 'ledger'"],
)  # fmt: skip
def test_a_cell_that_is_gone_is_found_out(statement: str, store: Store) -> None:
    put(store, [1, 2])
    by_hand(store, statement)
    with pytest.raises(Unusable, match="missing|damaged|cells where 2 were kept"):
        store.keys()


def test_a_cell_of_another_store_is_found_out(store: Store, tmp_path_factory: pytest.TempPathFactory) -> None:
    """It is whole, but this run never kept it."""
    other = begun(tmp_path_factory.mktemp("other"))
    put(other, [3])
    put(store, [1, 2])
    with closing(sqlite3.connect(store.path, isolation_level=None)) as database:
        database.execute("attach ? as other", (str(other.path),))
        database.execute("insert into cell select * from other.cell")
    with pytest.raises(Unusable, match="found 3 cells where 2 were kept"):
        store.keys()


def test_an_identity_that_was_changed_is_found_out(store: Store) -> None:
    by_hand(store, "update run set value = '{\"settings\": 7}' where name = 'identity'")
    with pytest.raises(Unusable, match="identity missing or damaged"):
        store.identity()


@pytest.mark.parametrize(
    ("version", "words"),
    [(VERSION + 1, "found one of version 3, which a newer gradgauge wrote; choose another --out"),
     (VERSION - 1, "found one of version 1, which an older gradgauge wrote; choose another --out"),
     (0, "found another SQLite file; choose another --out")],
)  # fmt: skip
def test_a_store_of_another_version_is_refused_and_left_as_it_is(version: int, words: str, store: Store) -> None:
    put(store, [1])
    by_hand(store, f"pragma user_version = {version}")
    before = store.path.read_bytes()
    for use in (store.identity, store.keys, store.seconds, lambda: store.rows(cell(1)), lambda: put(store, [2])):
        with pytest.raises(Unusable, match=words):
            use()
    assert store.path.read_bytes() == before and [*store.path.parent.iterdir()] == [store.path]


def test_readers_see_what_is_acknowledged_while_the_driver_goes_on(store: Store) -> None:
    with store.opened() as kept:
        for number in range(3):
            put_each(kept, [number])
            assert numbers_in(store) == set(range(number + 1))
        with store.reading() as reader:
            assert numbers_of(reader) == {0, 1, 2}
            put_each(kept, [3])
            assert numbers_of(reader) == {0, 1, 2, 3}
    assert numbers_in(store) == {0, 1, 2, 3}


def test_the_store_of_a_finished_run_is_one_plain_file(store: Store) -> None:
    """Copied alone, and read where nothing can be written beside it."""
    with store.opened() as kept:
        put_each(kept, range(5))
        assert kept.database.execute("pragma journal_mode").fetchone() == ("wal",)
        assert kept.database.execute("pragma synchronous").fetchone() == (2,)  # full
    assert [path.name for path in store.path.parent.iterdir()] == ["run.sqlite"]
    copy = Store(store.path.with_name("a copy? of #1%20.sqlite"))
    shutil.copy(store.path, copy.path)
    assert numbers_in(copy) == set(range(5))


KILLED = """
import os, signal, sys
from pathlib import Path
from analyses import store as module
from analyses.store import Store
from tests.analyses.test_store import cell, put_each, rows
path, journal = Path(sys.argv[1]), sys.argv[2]
store, add, added = Store(path), module._add, []
def cut(total, digest):
    added.append(digest)
    if len(added) == 8:  # within the transaction of the last four
        os.kill(os.getpid(), signal.SIGKILL)
    return add(total, digest)
module._add = cut
store.begin({"settings": 1})
if journal == "delete":
    (path.parent / "run.sqlite-shm").mkdir()
with store.opened() as kept:
    assert kept.database.execute("pragma journal_mode").fetchone() == (journal,)
    kept.database.execute("pragma cache_spill = 1")
    kept.database.execute("pragma cache_size = 1")  # what is not committed reaches the files too
    put_each(kept, range(5))
    kept.put_many([(cell(number), [{"x": os.urandom(20_000).hex()}], 0.5) for number in range(10, 14)])
"""


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_what_was_acknowledged_survives_a_kill_and_the_rest_is_not_there(journal: str, tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    done = subprocess.run([sys.executable, "-c", KILLED, path, journal], cwd=ROOT, check=False)
    assert done.returncode == -9
    left = {"wal": {"run.sqlite-wal", "run.sqlite-shm"}, "delete": {"run.sqlite-journal", "run.sqlite-shm"}}[journal]
    assert {file.name for file in tmp_path.iterdir()} == {"run.sqlite"} | left
    store = Store(path)
    assert numbers_in(store) == set(range(5))
    put(store, [10])
    assert numbers_in(store) == {0, 1, 2, 3, 4, 10}


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a store as a crash leaves them after six transactions, none of which is merged yet."""
    folder = tmp_path_factory.mktemp("crashed")
    store = begun(tmp_path_factory.mktemp("running"))
    with store.opened() as kept:
        put_each(kept, range(6))
        for name in ("run.sqlite", "run.sqlite-wal"):
            shutil.copy(store.path.with_name(name), folder / name)
    return folder


@given(st.data())
@settings(max_examples=60)
def test_a_log_that_is_cut_or_changed_anywhere_leaves_the_first_cells_whole(
    crashed: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """As a machine that loses its power may leave it: cells are missing from some point on, and none is wrong."""
    folder = tmp_path_factory.mktemp("after")
    shutil.copy(crashed / "run.sqlite", folder)
    log = bytearray((crashed / "run.sqlite-wal").read_bytes())
    at = data.draw(st.integers(0, len(log) - 1))
    if data.draw(st.booleans()):
        del log[at:]
    else:
        log[at] ^= 1 << data.draw(st.integers(0, 7))
    (folder / "run.sqlite-wal").write_bytes(log)
    store = Store(folder / "run.sqlite")
    found = numbers_in(store)
    assert found == set(range(len(found)))
    put(store, sorted(set(range(6)) - found))
    assert numbers_in(store) == set(range(6))


def test_beginning_leaves_nothing_else_and_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = begun(tmp_path)
    assert os.listdir(tmp_path) == ["run.sqlite"]
    put(store, [1])
    with monkeypatch.context() as patched:  # another driver that looked before this one had begun
        patched.setattr(Path, "exists", lambda path: False)
        store.begin({"settings": 2})
    assert store.identity() == {"settings": 1} and numbers_in(store) == {1}
    assert os.listdir(tmp_path) == ["run.sqlite"]


def test_a_beginning_that_was_killed_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "run.sqlite.new").write_bytes(b"SQLite format 3\0 and then the power went")
    (tmp_path / "run.sqlite.new-journal").write_bytes(b"half a journal")
    store = begun(tmp_path)
    assert store.identity() == {"settings": 1} and os.listdir(tmp_path) == ["run.sqlite"]


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(old: Path, new: Path) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    store = begun(tmp_path)
    put(store, [1])
    assert numbers_in(store) == {1} and os.listdir(tmp_path) == ["run.sqlite"]
