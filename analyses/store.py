"""What has been measured, kept so that a finished cell survives whatever happens next: one SQLite file a run.

A cell is one row of the table `cell`, with a hash over everything that the row holds: its key, what it is, its rows and
the time that it took. A ledger beside it holds the number of cells and the sum of their hashes, and changes in the
transaction that adds a cell; so a row that was changed is found out, and so is one that is gone. What no hash can tell
is a file as it was some transactions ago (a write-ahead log cut short after a crash): there the last cells are
missing, and are measured again.
"""

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analyses.analysis import Cell, Rows
from analyses.database import LOST, Unusable, Unwritable, create, reading, require_sound, transaction, writing
from analyses.packed import pack, seal, unpack

__all__ = ["VERSION", "Opened", "Store", "Unusable", "Unwritable"]

VERSION = 2  # of the tables below
TABLES = (
    "create table run (name text primary key, value text not null, sha256 text not null)",
    "create table cell (key text primary key, measurement text not null, spec text not null, rows blob not null,"
    " seconds real not null, sha256 text not null)",
    f"pragma user_version = {VERSION}",
)
CELL = "select key, measurement, spec, rows, seconds, sha256 from cell"


@dataclass(frozen=True)
class Opened:
    """A store with its connection, for as long as the block lasts that opened it."""

    path: Path
    database: sqlite3.Connection

    def identity(self) -> dict[str, Any]:
        """What the store was begun with."""
        return json.loads(self._fact("identity"))

    def put(self, cell: Cell, rows: Rows, seconds: float) -> None:
        """Keep a cell's rows; once this returns they survive the process, and the machine."""
        self.put_many([(cell, rows, seconds)])

    def put_many(self, finished: Iterable[tuple[Cell, Rows, float]]) -> None:
        """Keep several cells, all or none of them; a cell that is kept already stays as it is.

        Raises `Unwritable`, where the disk is full for one; what was kept before is safe then.
        """
        records = [
            (cell.key, cell.measurement, json.dumps(cell.spec), pack(rows), seconds + 0.0)  # SQLite has no -0.0
            for cell, rows, seconds in finished
        ]
        with transaction(self.database):
            count, total = self._ledger()
            for record in records:
                digest = seal(*record)
                added = self.database.execute("insert or ignore into cell values (?, ?, ?, ?, ?, ?)", (*record, digest))
                if added.rowcount:
                    count, total = count + 1, _add(total, digest)
            values = _fact("ledger", json.dumps([count, total]))
            self.database.execute("insert or replace into run values (?, ?, ?)", values)

    def keys(self) -> set[str]:
        """The keys of the cells that are finished, each of them whole: `Unusable` where one is damaged or gone."""
        return set(self._seconds())

    def rows(self, cell: Cell) -> Rows:
        """A finished cell's rows; `Unusable` where what was stored is not what is there now."""
        found = self.record("key", cell.key)
        if found is None:
            raise self._damaged(f"cell {cell.key[:12]} missing")
        return unpack(found[3])

    def seconds(self) -> float:
        """The time that the finished cells took."""
        return math.fsum(self._seconds().values())

    def record(self, by: str, value: str | int) -> tuple[Any, ...] | None:
        """The cell whose column `by` has this value, as it is stored and whole, or None."""
        found = self.database.execute(f"{CELL} where {by} = ?", (value,)).fetchone()
        if found is not None:
            self._verify(found)
        return found

    def _seconds(self) -> dict[str, float]:
        """Every cell's key and time, verified one by one and against the ledger."""
        kept, total = {}, 0
        with transaction(self.database, "deferred"):  # one moment's cells and ledger, whatever the driver adds
            ledger = self._ledger()
            for record in self.database.execute(CELL):
                self._verify(record)
                total = _add(total, record[5])
                kept[record[0]] = record[4]
        if ledger != (len(kept), total):
            raise self._damaged(f"{len(kept)} cells where {ledger[0]} were kept")
        return kept

    def _verify(self, record: tuple[Any, ...]) -> None:
        if seal(*record[:5]) != record[5]:
            raise self._damaged(f"cell {str(record[0])[:12]} damaged")

    def _ledger(self) -> tuple[int, int]:
        count, total = json.loads(self._fact("ledger"))
        return count, total

    def _fact(self, name: str) -> str:
        found = self.database.execute("select value, sha256 from run where name = ?", (name,)).fetchone()
        if found is None or _fact(name, found[0])[2] != found[1]:
            raise self._damaged(f"its {name} missing or damaged")
        return found[0]

    def _damaged(self, what: str) -> Unusable:
        return Unusable(f"{self.path}: expected what was stored, found {what}; {LOST}")


@dataclass(frozen=True)
class Store:
    """The store of one run, by its file.

    Each method opens the file and closes it, which takes some milliseconds; many calls share one opening in
    `with store.opened() as kept` (the one driver) or `with store.reading() as kept` (anyone).
    """

    path: Path

    @contextmanager
    def opened(self) -> Iterator[Opened]:
        """The store, to add to it: by one process at a time, which `analyses/lock.py` sees to.

        Everything in it is verified first. Raises `Unusable`, `Unwritable`, and `OSError` where it is read only.
        """
        self.verified()  # before anything is written into what may be damaged, or not ours
        with writing(self.path) as database:
            yield Opened(self.path, database)

    @contextmanager
    def reading(self) -> Iterator[Opened]:
        """The store, to read it."""
        with reading(self.path) as database:
            self._check_version(database)
            yield Opened(self.path, database)

    def identity(self) -> dict[str, Any] | None:
        """What the store was begun with, or None for one that does not exist."""
        if not self.path.exists():
            return None
        with self.reading() as kept:
            return kept.identity()

    def begin(self, identity: dict[str, Any]) -> None:
        """Create the store, for a run of this identity; one that exists stays as it is."""
        if self.path.exists():
            return
        facts = [_fact("identity", json.dumps(identity)), _fact("ledger", json.dumps([0, 0]))]
        tables = [(statement, ()) for statement in TABLES]
        create(self.path, [*tables, *(("insert into run values (?, ?, ?)", fact) for fact in facts)])

    def verified(self) -> set[str]:
        """The keys of the finished cells, where the file is sound in every part; `Unusable` where it is not."""
        with self.reading() as kept:
            require_sound(kept.database, self.path)
            return kept.keys()

    def put(self, cell: Cell, rows: Rows, seconds: float) -> None:
        """Keep one cell, as `Opened.put` does."""
        with self.opened() as kept:
            kept.put(cell, rows, seconds)

    def keys(self) -> set[str]:
        """The keys of the cells that are finished, as `Opened.keys` gives them."""
        with self.reading() as kept:
            return kept.keys()

    def rows(self, cell: Cell) -> Rows:
        """A finished cell's rows, as `Opened.rows` gives them."""
        with self.reading() as kept:
            return kept.rows(cell)

    def seconds(self) -> float:
        """The time that the finished cells took."""
        with self.reading() as kept:
            return kept.seconds()

    def _check_version(self, database: sqlite3.Connection) -> None:
        (version,) = database.execute("pragma user_version").fetchone()
        if version != VERSION:
            found = f"one of version {version}, which {'a newer' if version > VERSION else 'an older'} gradgauge wrote"
            raise Unusable(
                f"{self.path}: expected a gradgauge store of version {VERSION}, found "
                f"{found if version > 0 else 'another SQLite file'}; choose another --out"
            )


def _fact(name: str, value: str) -> tuple[str, str, str]:
    return name, value, seal(name, value)


def _add(total: int, digest: str) -> int:
    """The hashes' sum, which their order does not change."""
    return (total + int(digest, 16)) % 2**256
