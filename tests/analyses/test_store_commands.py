"""What happens to a store, as a user of the commands meets it: one line, the right code, and nothing lost."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analyses.analysis import Rows
from analyses.store import VERSION, Store
from tests.analyses.test_store import by_hand
from tests.analyses.test_store_faults import files_no_larger_than
from tests.test_cli import ROOT, TINY, contents, refused, run

SEVERAL = ("run", "steps", *TINY, "--seed", "0,1,2,3,4,5,6")
pytestmark = pytest.mark.usefixtures("one_kind")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in a folder whose name has what must be escaped somewhere."""
    folder = tmp_path_factory.mktemp("finished") / "a run #1 50% ?new"
    done = run(*SEVERAL, "--out", folder)
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Store:
    """Its store alone, in another such folder."""
    folder = tmp_path / "the same & more"
    folder.mkdir()
    (folder / "run.sqlite").write_bytes((finished / "run.sqlite").read_bytes())
    return Store(folder / "run.sqlite")


def test_a_folder_with_an_awkward_name_is_completed_without_measuring(store: Store, finished: Path) -> None:
    done = run(*SEVERAL, "--out", store.path.parent)
    assert done.exit_code == 0 and "[" not in done.stderr
    wanted = {name: content for name, content in contents(finished).items() if name.startswith(("tables", "figures"))}
    assert wanted.items() <= contents(store.path.parent).items()


def cut(store: Store) -> None:
    os.truncate(store.path, store.path.stat().st_size // 2)


def empty(store: Store) -> None:
    os.truncate(store.path, 0)


def flip_in_a_cell(store: Store) -> None:
    content = bytearray(store.path.read_bytes())
    content[-1000] ^= 4
    store.path.write_bytes(content)


def flip_in_the_schema(store: Store) -> None:
    content = bytearray(store.path.read_bytes())
    content[content.index(b"measurement text") + 2] ^= 1
    store.path.write_bytes(content)


def flip_in_the_header(store: Store) -> None:
    content = bytearray(store.path.read_bytes())
    content[17] ^= 8
    store.path.write_bytes(content)


def other_database(store: Store) -> None:
    by_hand(store, "pragma user_version = 0")


def newer(store: Store) -> None:
    by_hand(store, f"pragma user_version = {VERSION + 1}")


@pytest.mark.parametrize(
    ("happened", "word"),
    [(cut, "found"), (empty, "another SQLite file"), (flip_in_a_cell, "damaged"), (flip_in_the_schema, "found"),
     (flip_in_the_header, "found"), (other_database, "another SQLite file"), (newer, "a newer gradgauge wrote")],
)  # fmt: skip
def test_a_store_that_something_happened_to_is_refused_and_left_alone(
    happened: Callable[[Store], None], word: str, store: Store
) -> None:
    happened(store)
    before = store.path.read_bytes()
    refused(run(*SEVERAL, "--out", store.path.parent), 3, f"{store.path}: expected ", word)
    assert store.path.read_bytes() == before and os.listdir(store.path.parent) == ["run.sqlite"]


def test_a_full_disk_in_the_middle_of_a_run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to do; what was acknowledged is not measured again, and the table is an undisturbed run's."""
    from analyses.analysis import measurements

    measure, measured = measurements["grid"], []

    def counted(spec) -> Rows:  # noqa: ANN001
        measured.append(spec["seed"])
        return measure(spec)

    monkeypatch.setitem(measurements.entries, "grid", counted)
    with files_no_larger_than(100_000):
        done = run(*SEVERAL, "--out", tmp_path)
    refused(done, 4, str(tmp_path / "run.sqlite"), "make room and give the same command again", "is kept")
    kept = len(Store(tmp_path / "run.sqlite").keys())
    assert 0 < kept == len(measured) - 1
    measured.clear()
    assert run(*SEVERAL, "--out", tmp_path).exit_code == 0
    assert len(measured) == 7 - kept
    assert contents(tmp_path)["tables/steps.csv"] == contents(finished)["tables/steps.csv"]


# Of its own, that nobody else sees, in a namespace where anyone may mount: full, and then with room.
DISK = """
disk=$1 kept=$2; shift 2
mount -t tmpfs -o size=140k none "$disk" || exit 77
"$@" 2> "$kept/first"; echo $? > "$kept/codes"
mount -o remount,size=64m "$disk"
"$@" 2> "$kept/second"; echo $? >> "$kept/codes"
cp "$disk/a run/tables/steps.csv" "$kept"
"""


@pytest.mark.slow
def test_a_disk_of_its_own_that_is_full(finished: Path, tmp_path: Path) -> None:
    """A file system without a free block says so otherwise than a file that may not grow."""
    disk, kept = tmp_path / "a disk", tmp_path / "kept"
    disk.mkdir()
    kept.mkdir()
    command = [sys.executable, str(ROOT / "cli.py"), *SEVERAL, "--out", str(disk / "a run")]
    own = ["unshare", "-rm", "sh", "-c", DISK, "sh", str(disk), str(kept), *command]
    done = subprocess.run(own, capture_output=True, text=True, check=False)
    if done.returncode and not (kept / "codes").exists():
        pytest.skip(f"expected a system that lets a user mount a file system, found {done.stderr.strip()}")
    assert (kept / "codes").read_text().split() == ["4", "0"], (kept / "first").read_text()
    *told, last = (kept / "first").read_text().splitlines()
    assert last.startswith(f"Error: {disk / 'a run' / 'run.sqlite'}: expected room to write, found database or disk is")
    assert last.endswith("make room and give the same command again, which goes on from what is kept")
    first, second = ([line for line in lines if line.startswith("[")] for lines in (
        told, (kept / "second").read_text().splitlines()))  # fmt: skip
    assert 0 < len(first) < 7 and len(first) + len(second) == 7  # what was told of was not measured again
    assert (kept / "steps.csv").read_bytes() == contents(finished)["tables/steps.csv"]


def test_a_disk_that_is_full_when_all_is_measured(store: Store) -> None:
    with files_no_larger_than(45_000):
        done = run(*SEVERAL, "--out", store.path.parent)
    refused(done, 4, "File too large; make room and give the same command again")
    assert not [path for path in store.path.parent.rglob("*") if path.suffix == ".part"]
    assert run(*SEVERAL, "--out", store.path.parent).exit_code == 0


def test_a_store_that_cannot_be_opened_is_refused(store: Store) -> None:
    """A superuser may open anything, so a folder in the place of the log says no instead."""
    by_hand(store, "pragma journal_mode = wal")
    store.path.with_name("run.sqlite-wal").mkdir()
    refused(run(*SEVERAL, "--out", store.path.parent), 2, "expected to open and write it", "--out")


def test_parquet_is_written_beside_the_csv(finished: Path, tmp_path: Path) -> None:
    done = run(*SEVERAL, "--out", tmp_path, "--parquet")
    assert done.exit_code == 0, done.output
    assert sorted(os.listdir(tmp_path / "tables")) == ["steps.csv", "steps.parquet"]
    csv, parquet = (
        pd.read_csv(tmp_path / "tables" / "steps.csv"),
        pd.read_parquet(tmp_path / "tables" / "steps.parquet"),
    )
    assert (csv.relative_error.dropna() == parquet.relative_error.dropna()).all() and len(csv) == len(parquet)


def test_parquet_without_its_package_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refused(
        run(*SEVERAL, "--out", tmp_path / "run", "--parquet"), 2, "expected the package pyarrow", "gradgauge[parquet]"
    )
    assert not list(tmp_path.iterdir())
