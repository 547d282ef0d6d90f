"""What has been measured, kept so that a finished cell survives whatever happens next: one SQLite file a run.

One transaction a cell, in write-ahead mode with full synchronisation; the rows are kept as compressed JSON, in which
Python's floats are exact (NaN, infinities and -0.0 included), beside a hash that is verified on reading.
"""

import json
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from analyses.analysis import Cell, Rows

VERSION = 1  # of the tables below


class Unusable(ValueError):
    """A file that is there but is not a store that this version can read."""


@dataclass(frozen=True)
class Store:
    """The store of one run, by its file."""

    path: Path

    def identity(self) -> dict[str, Any] | None:
        """What the store was begun with, or None for one that does not exist."""
        if not self.path.exists():
            return None
        with self._open() as database:
            (text,) = database.execute("select value from run where name = 'identity'").fetchone() or ("null",)
        return json.loads(text)

    def begin(self, identity: dict[str, Any]) -> None:
        """Create the store, for a run of this identity."""
        with self._open() as database:
            database.execute("create table if not exists run (name text primary key, value text not null)")
            database.execute(
                "create table if not exists cell (key text primary key, measurement text not null, spec text not null,"
                " rows blob not null, sha256 text not null, seconds real not null)"
            )
            database.execute("insert or ignore into run values ('identity', ?)", (json.dumps(identity),))
            database.execute(f"pragma user_version = {VERSION}")

    def put(self, cell: Cell, rows: Rows, seconds: float) -> None:
        """Keep a cell's rows; once this returns they survive the process."""
        body = zlib.compress(json.dumps(_by_column(rows)).encode())
        with self._open() as database:
            database.execute(
                "insert or replace into cell values (?, ?, ?, ?, ?, ?)",
                (cell.key, cell.measurement, json.dumps(cell.spec), body, sha256(body).hexdigest(), seconds),
            )

    def keys(self) -> set[str]:
        """The keys of the cells that are finished."""
        with self._open() as database:
            return {key for (key,) in database.execute("select key from cell")}

    def rows(self, cell: Cell) -> Rows:
        """A finished cell's rows; `Unusable` where what was stored is not what is there now."""
        with self._open() as database:
            found = database.execute("select rows, sha256 from cell where key = ?", (cell.key,)).fetchone()
        if found is None or sha256(found[0]).hexdigest() != found[1]:
            raise Unusable(f"{self.path}: cell {cell.key[:12]} is missing or damaged; delete the file and run again")
        columns = json.loads(zlib.decompress(found[0]))
        names = list(columns)
        return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def seconds(self) -> float:
        """The time that the finished cells took."""
        with self._open() as database:
            return database.execute("select coalesce(sum(seconds), 0) from cell").fetchone()[0]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=30)) as database:
                database.execute("pragma journal_mode = wal")
                database.execute("pragma synchronous = full")
                version = database.execute("pragma user_version").fetchone()[0]
                if version > VERSION:
                    raise Unusable(f"{self.path}: expected a store of version {VERSION} or older, found {version}")
                with database:
                    yield database
        except sqlite3.DatabaseError as error:
            raise Unusable(f"{self.path}: expected a gradgauge store, found {error}") from None


def _by_column(rows: Rows) -> dict[str, list[object]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
