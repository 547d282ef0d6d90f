"""What can be had out of a damaged store: every cell that is whole, into a new file; the rest is measured again."""

import json
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from analyses.analysis import Cell, Rows
from analyses.database import Unusable
from analyses.lock import locked
from analyses.packed import unpack
from analyses.store import Opened, Store

BESIDE = ("", "-wal", "-shm", "-journal")  # what a database may consist of


def salvage(store: Store) -> tuple[int, Path | None]:
    """Put a store of the whole cells in the place of a damaged one: how many they are, and where the damaged one lies.

    A store that is whole stays as it is, and the path is None. Raises `Unusable` where nothing can be read, `Locked`
    where a driver is measuring, and `ValueError` where an earlier damaged store lies in the way.
    """
    with locked(store.path.parent):
        try:
            return len(store.verified()), None
        except Unusable:
            return _replace(store)


def _replace(store: Store) -> tuple[int, Path]:
    aside = store.path.with_name(f"{store.path.name}.damaged")
    if aside.exists():
        raise ValueError(f"{aside}: expected nothing there, found an earlier damaged store; move that away")
    with store.reading() as damaged:
        identity, cells = damaged.identity(), list(_whole(damaged))
    saved = Store(store.path.with_name(f"{store.path.name}.saved"))
    _remove(saved.path, BESIDE)  # of a salvage that was interrupted
    saved.begin(identity)
    with saved.opened() as kept:
        kept.put_many(cells)
    for beside in BESIDE:
        if (part := Path(f"{store.path}{beside}")).is_file():
            shutil.copyfile(part, f"{aside}{beside}")
    _remove(store.path, BESIDE[1:])  # a log is no part of another file, and would be played into it
    os.replace(saved.path, store.path)
    return len(cells), aside


def _whole(damaged: Opened) -> Iterator[tuple[Cell, Rows, float]]:
    """The cells that can be read, and are what their hash says; cells are numbered from 1 in the order of keeping."""
    (last,) = damaged.database.execute("select max(rowid) from cell").fetchone()
    for number in range(1, (last or 0) + 1):
        try:
            record = damaged.record("rowid", number)
        except (Unusable, sqlite3.DatabaseError):
            continue
        if record is not None:
            _, measurement, spec, rows, seconds, _ = record
            yield Cell(measurement, json.loads(spec)), unpack(rows), seconds


def _remove(path: Path, parts: Iterable[str]) -> None:
    for beside in parts:
        Path(f"{path}{beside}").unlink(missing_ok=True)
