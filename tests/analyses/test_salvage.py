"""Salvage: out of a damaged store comes every cell that is whole, and no other."""

import os
import random
from pathlib import Path

import pytest

from analyses.lock import Locked, locked
from analyses.salvage import salvage
from analyses.store import Store, Unusable
from tests.analyses.test_store import begun, by_hand, cell, numbers_in, put, rows
from tests.test_cli import refused, run


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Of several pages of cells."""
    store = begun(tmp_path)
    with store.opened() as kept:
        kept.put_many([(cell(number), rows(number), 0.5) for number in range(60)])
    return store


def test_a_store_that_is_whole_stays_as_it_is(store: Store) -> None:
    before = store.path.read_bytes()
    assert salvage(store) == (60, None)
    assert store.path.read_bytes() == before and os.listdir(store.path.parent) == ["run.sqlite"]


def test_all_cells_but_the_damaged_ones_are_saved(store: Store) -> None:
    by_hand(store, "update cell set rows = zeroblob(20) where rowid in (1, 7, 60)")
    damaged = store.path.read_bytes()
    aside = store.path.with_name("run.sqlite.damaged")
    assert salvage(store) == (57, aside)
    assert numbers_in(store) == set(range(60)) - {0, 6, 59}
    assert store.identity() == {"settings": 1} and store.seconds() == 57 / 2
    assert aside.read_bytes() == damaged
    assert sorted(os.listdir(store.path.parent)) == ["run.sqlite", "run.sqlite.damaged"]
    put(store, [0, 6, 59])
    assert numbers_in(store) == set(range(60)) and salvage(store) == (60, None)


def test_a_page_that_is_overwritten_costs_its_own_cells_alone(store: Store) -> None:
    """Any page but the first, which holds the schema; refused where the page leads to all others."""
    content, chosen, most = store.path.read_bytes(), random.Random(0), []
    for page in range(4096, len(content), 4096):
        overwritten = bytearray(content)
        overwritten[page : page + 200] = chosen.randbytes(200)
        store.path.write_bytes(overwritten)
        store.path.with_name("run.sqlite.damaged").unlink(missing_ok=True)
        try:
            salvage(store)
        except Unusable:
            assert store.path.read_bytes() == overwritten
            continue
        most.append(len(numbers_in(store)))  # each is checked to be what was kept
    assert len(most) >= 5 and sorted(most)[len(most) // 2] >= 40


def test_a_cell_that_is_gone_is_not_made_up(store: Store) -> None:
    by_hand(store, "delete from cell where rowid = 5")
    assert salvage(store)[0] == 59
    assert numbers_in(store) == set(range(60)) - {4}


def test_nothing_is_had_out_of_what_is_no_store(store: Store) -> None:
    store.path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(Unusable, match="not a database"):
        salvage(store)
    assert os.listdir(store.path.parent) == ["run.sqlite"]


def test_an_earlier_damaged_store_is_not_overwritten_nor_a_driver_disturbed(store: Store) -> None:
    by_hand(store, "delete from cell where rowid = 5")
    with locked(store.path.parent), pytest.raises(Locked):
        salvage(store)
    store.path.with_name("run.sqlite.damaged").write_bytes(b"earlier")
    with pytest.raises(ValueError, match="expected nothing there, found an earlier damaged store; move that away"):
        salvage(store)
    assert store.path.with_name("run.sqlite.damaged").read_bytes() == b"earlier"


def test_the_command_tells_what_was_saved(store: Store, tmp_path: Path) -> None:
    done = run("salvage", tmp_path)
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path}: 60 cells are whole; nothing is lost\n")
    by_hand(store, "delete from cell where rowid = 5")
    done = run("salvage", tmp_path)
    assert (
        done.exit_code == 0 and f"59 cells are whole; the damaged store is now {tmp_path}/run.sqlite.d" in done.stdout
    )
    refused(run("salvage", tmp_path / "nowhere"), 3, "expected a run", "found nothing there")
