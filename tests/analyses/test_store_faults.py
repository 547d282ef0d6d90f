"""A store that something happened to: never a wrong number, never a traceback, never less than there was."""

import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from analyses.store import Store, Unusable, Unwritable
from tests.analyses.test_store import begun, cell, numbers_in, put, put_each, rows

ROOT = Path(__file__).parent.parent.parent
CELLS = set(range(40))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a finished run of several pages."""
    store = begun(tmp_path_factory.mktemp("whole"))
    with store.opened() as kept:
        kept.put_many([(cell(number), rows(number), 0.5) for number in sorted(CELLS)])
    content = store.path.read_bytes()
    assert len(content) > 4 * 4096
    return content


def read(path: Path) -> str:
    """`whole` where everything is there and as it was, or the line that says that it is not."""
    try:
        store = Store(path)
        assert store.identity() == {"settings": 1}
        assert numbers_in(store) == CELLS and store.seconds() == 20.0
    except Unusable as error:
        return str(error)
    return "whole"


def check_flips(content: bytes, places: list[int], path: Path) -> None:
    chosen, told = random.Random(0), {"whole": 0, "refused": 0}
    for at in places:
        flipped = bytearray(content)
        flipped[at] ^= 1 << chosen.randrange(8)
        path.write_bytes(flipped)
        said = read(path)
        assert said == "whole" or (said.startswith(f"{path}: expected ") and "\n" not in said), (at, said)
        told["whole" if said == "whole" else "refused"] += 1
        for beside in ("-wal", "-shm", "-journal"):
            path.with_name(path.name + beside).unlink(missing_ok=True)
    assert told["refused"] > len(places) / 4  # the rest lay where nothing is stored


def test_no_flipped_bit_gives_a_wrong_answer(whole: bytes, tmp_path: Path) -> None:
    """Each byte of the file's header, and a sample of all other pages: schema, index and cells."""
    places = [*range(100), *range(100, 8192, 61), *range(8192, len(whole), 89)]
    check_flips(whole, places, tmp_path / "run.sqlite")


@pytest.mark.slow
def test_no_flipped_bit_anywhere_gives_a_wrong_answer(whole: bytes, tmp_path: Path) -> None:
    check_flips(whole, list(range(len(whole))), tmp_path / "run.sqlite")


def test_no_flipped_bit_makes_the_driver_keep_a_wrong_cell(whole: bytes, tmp_path: Path) -> None:
    """What it meets is an error of one line, or the cell is there afterwards, and everything else too or refused."""
    path, chosen = tmp_path / "run.sqlite", random.Random(1)
    for at in [*range(0, 100, 4), *range(100, len(whole), 311)]:
        flipped = bytearray(whole)
        flipped[at] ^= 1 << chosen.randrange(8)
        path.write_bytes(flipped)
        store = Store(path)
        try:
            put(store, [50])
            assert numbers_in(store) == CELLS | {50}
        except (Unusable, Unwritable, OSError) as error:
            assert str(path) in str(error) and "\n" not in str(error), at
        for beside in ("-wal", "-shm", "-journal"):
            path.with_name(path.name + beside).unlink(missing_ok=True)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.2, 0.5, 0.9, 0.999])
def test_a_store_that_was_cut_short_is_refused(share: float, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    path.write_bytes(whole[: int(share * len(whole))])
    before = path.read_bytes()
    assert read(path).startswith(f"{path}: expected ")
    with pytest.raises(Unusable):
        put(Store(path), [50])
    assert path.read_bytes() == before


def test_what_is_not_a_store_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    path.write_bytes(b"this is not a database" * 100)
    for use in (Store(path).identity, Store(path).keys, lambda: put(Store(path), [1])):
        with pytest.raises(Unusable, match="a gradgauge store, found file is not a database; .* move the file"):
            use()
    assert path.read_bytes() == b"this is not a database" * 100


def test_a_folder_in_the_place_of_a_store(tmp_path: Path) -> None:
    (tmp_path / "run.sqlite").mkdir()
    with pytest.raises(OSError, match="unable to open") as told:
        Store(tmp_path / "run.sqlite").identity()
    assert told.value.filename == str(tmp_path / "run.sqlite")


def test_a_full_file_system_refuses_the_cell_and_keeps_the_others(store: Store) -> None:
    acknowledged: set[int] = set()
    with pytest.raises(Unwritable, match="database or disk is full; make room and give the same command again"):  # noqa: SIM117
        with store.opened() as kept:
            kept.database.execute("pragma max_page_count = 12")
            for number in range(100):
                put_each(kept, [number])
                acknowledged.add(number)
    assert 5 < len(acknowledged) < 100
    assert numbers_in(store) == acknowledged
    put(store, sorted(set(range(100)) - acknowledged))
    assert numbers_in(store) == set(range(100))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return begun(tmp_path)


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """For this process, as on a disk that has no more room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("journal", "room"), [("wal", 400_000), ("delete", 40_000)])
def test_a_write_that_fails_loses_nothing_that_was_kept(journal: str, room: int, store: Store) -> None:
    if journal == "delete":
        store.path.with_name("run.sqlite-shm").mkdir()
    acknowledged: set[int] = set()
    with pytest.raises(Unwritable, match="found disk I/O error; make room"):  # noqa: SIM117
        with store.opened() as kept, files_no_larger_than(room):
            assert kept.database.execute("pragma journal_mode").fetchone() == (journal,)
            for number in range(10_000):
                kept.put(cell(number), rows(number), 0.5)
                acknowledged.add(number)
    assert 5 < len(acknowledged) < 10_000
    assert store.keys() == {cell(number).key for number in acknowledged}
    with store.opened() as kept:
        kept.put(cell(20_000), rows(20_000), 0.5)
    assert len(store.keys()) == len(acknowledged) + 1


def test_a_store_cannot_begin_where_there_is_no_room(tmp_path: Path) -> None:
    with pytest.raises(Unwritable, match="expected room to write"), files_no_larger_than(5000):
        begun(tmp_path)
    assert not list(tmp_path.iterdir())
    assert begun(tmp_path).keys() == set()


def without_shared_memory(path: Path) -> None:
    """A folder where the shared memory would lie refuses it, as a file system without any does."""
    path.with_name(f"{path.name}-shm").mkdir()


def test_where_a_log_cannot_be_written_an_ordinary_journal_is(store: Store) -> None:
    without_shared_memory(store.path)
    with store.opened() as kept:
        assert kept.database.execute("pragma journal_mode").fetchone() == ("delete",)
        assert kept.database.execute("pragma synchronous").fetchone() == (2,)
        put_each(kept, [1, 2])
        assert numbers_in(store) == {1, 2}  # others can read between the transactions
    assert numbers_in(store) == {1, 2}


def test_a_log_that_came_from_elsewhere_is_read_without_shared_memory(store: Store, tmp_path: Path) -> None:
    moved = tmp_path / "moved" / "run.sqlite"
    moved.parent.mkdir()
    with store.opened() as kept:
        put_each(kept, [1, 2])
        for beside in ("", "-wal"):
            shutil.copy(f"{store.path}{beside}", f"{moved}{beside}")
    without_shared_memory(moved)
    assert numbers_in(Store(moved)) == {1, 2}
    put(Store(moved), [3])
    assert numbers_in(Store(moved)) == {1, 2, 3}


def test_a_system_that_knows_no_shared_memory(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through SQLite's own file layer without any, a log that another system left is read, and taken up."""
    with store.opened() as kept:
        put_each(kept, [1, 2])
        copies = {beside: Path(f"{store.path}{beside}").read_bytes() for beside in ("", "-wal")}
    for beside, content in copies.items():
        Path(f"{store.path}{beside}").write_bytes(content)

    def connect(path: Path, mode: str = "rw") -> sqlite3.Connection:
        return sqlite3.connect(f"file:{path}?mode={mode}&vfs=unix-dotfile", uri=True, timeout=1, isolation_level=None)

    monkeypatch.setattr("analyses.database._connect", connect)
    assert numbers_in(store) == {1, 2}
    with store.opened() as kept:
        assert kept.database.execute("pragma journal_mode").fetchone() == ("delete",)
        put_each(kept, [3])
    assert numbers_in(store) == {1, 2, 3}


def test_a_file_that_somebody_holds_is_an_error_that_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analyses.database.WAIT", 0.05)
    with store.opened() as kept:
        put_each(kept, [1])
        kept.database.execute("begin immediate")
        with pytest.raises(Unwritable, match="database is locked; close what has it open"):
            put(store, [2])
        kept.database.execute("rollback")
    put(store, [2])
    assert numbers_in(store) == {1, 2}


CLOSED = """
import os, sys
from pathlib import Path
from tests.analyses.test_store import begun, cell, numbers_in, put
from analyses.store import Store
if os.getuid() == 0:
    os.setuid(65534)
store = Store(Path(sys.argv[1]))
assert numbers_in(store) == {1}
try:
    put(store, [2])
except PermissionError as error:
    assert error.filename == sys.argv[1], error
    print("refused")
assert numbers_in(store) == {1}
"""


def test_a_folder_that_cannot_be_written_is_read_and_refuses_more(tmp_path: Path) -> None:
    """In another process, which gives up the rights of a superuser."""
    store = begun(tmp_path)
    put(store, [1])
    parents = [tmp_path, *(path for path in tmp_path.parents if not path.stat().st_mode & 0o001)]
    before = [path.stat().st_mode for path in parents]
    try:
        for path in parents[1:]:
            path.chmod(0o755)
        store.path.chmod(0o444)
        tmp_path.chmod(0o555)
        done = subprocess.run([sys.executable, "-c", CLOSED, store.path], cwd=ROOT, capture_output=True, text=True)
    finally:
        for path, mode in zip(parents, before, strict=True):
            path.chmod(mode)
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr
    assert os.listdir(tmp_path) == ["run.sqlite"]
