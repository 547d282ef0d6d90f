"""An SQLite file in which what was committed stays: how it is opened, and what its errors mean.

Writing goes through a write-ahead log with full synchronisation. That needs memory shared between processes, which some
file systems (most of a network) do not give, and say so only when something is written; so a first write is made, and
where it fails the file gets an ordinary rollback journal. On closing, the log is merged: the file of a run that nobody
is measuring is one plain file, which can be copied, and read where nothing can be written.
"""

import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

WAIT = 30.0  # seconds, for a reader that holds the file
LOST = "`gradgauge salvage` saves what is whole of it, or move the file away to measure everything again"
NO_ROOM = {
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_CLOSE,
}  # fmt: skip


class Unusable(ValueError):
    """A file that is there but is not a store that this version can read."""


class Unwritable(ValueError):
    """A store that takes nothing more for now; what it has is safe."""


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """The file, to be read; a journal that a killed process left is played first, where that can be written."""
    with _explained(path), closing(_readable(path)) as database:
        yield database


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """The file, to be written by one process, in transactions that survive it once they are committed."""
    with _explained(path), closing(_durable(path)) as database:
        try:
            yield database
        finally:
            with suppress(sqlite3.OperationalError):  # somebody reads it, or there is no room; the log does no harm
                database.execute("pragma busy_timeout = 0")
                database.execute("pragma journal_mode = delete")


@contextmanager
def transaction(database: sqlite3.Connection, kind: str = "immediate") -> Iterator[None]:
    """All that the block writes, or nothing; once it has ended, the disk has it."""
    database.execute(f"begin {kind}")
    try:
        yield
        database.execute("commit")
    except BaseException:
        with suppress(sqlite3.OperationalError):  # a full disk has rolled it back already
            database.execute("rollback")
        raise


def require_sound(database: sqlite3.Connection, path: Path) -> None:
    """`Unusable` where SQLite's own books do not balance; what cells hold it cannot tell."""
    (found,) = database.execute("pragma integrity_check(1)").fetchone()
    if found != "ok":
        raise Unusable(f"{path}: expected a gradgauge store, found {' '.join(found.split())}; {LOST}")


def create(path: Path, statements: Iterable[tuple[str, tuple[str, ...]]]) -> None:
    """A new file in which the statements have run; it appears whole or not at all, and never replaces another."""
    part = path.with_name(f"{path.name}.new")
    part.unlink(missing_ok=True)
    part.with_name(f"{part.name}-journal").unlink(missing_ok=True)
    try:
        with _explained(path), closing(_connect(part, "rwc")) as database:
            database.execute("pragma synchronous = full")
            with transaction(database):
                for statement, values in statements:
                    database.execute(statement, values)
        _move(part, path)
    finally:
        part.unlink(missing_ok=True)


def _move(part: Path, path: Path) -> None:
    try:
        os.link(part, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        os.replace(part, path)
    with suppress(OSError):  # not every system lets a folder be synchronised
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _connect(path: Path, mode: str = "rw") -> sqlite3.Connection:
    address = f"file:{quote(os.fsencode(path.absolute()))}?mode={mode}"
    database = sqlite3.connect(address, uri=True, timeout=WAIT, isolation_level=None)
    database.text_factory = lambda text: text.decode(errors="surrogateescape")  # damaged text is for a hash to tell
    return database


def _readable(path: Path) -> sqlite3.Connection:
    database = _connect(path)
    try:
        database.execute("pragma schema_version").fetchone()
    except sqlite3.OperationalError:
        database.close()
        database = _alone(path)
    return database


def _alone(path: Path) -> sqlite3.Connection:
    """A connection that shares nothing: only so is a file in WAL mode opened where there is no shared memory."""
    database = _connect(path)
    database.execute("pragma locking_mode = exclusive")
    return database


def _durable(path: Path) -> sqlite3.Connection:
    try:
        return _journalled(path, "wal")
    except sqlite3.OperationalError:
        with closing(_alone(path)) as database:
            database.execute("pragma journal_mode = delete").fetchone()
        return _journalled(path, "delete")


def _journalled(path: Path, journal: str) -> sqlite3.Connection:
    """A connection in which something has been written with this journal."""
    database = _connect(path)
    try:
        (found,) = database.execute(f"pragma journal_mode = {journal}").fetchone()
        if found != journal:
            raise sqlite3.OperationalError(f"expected the journal mode {journal}, found {found}")
        database.execute("pragma synchronous = full")
        with transaction(database):
            (version,) = database.execute("pragma user_version").fetchone()
            database.execute(f"pragma user_version = {version}")
    except BaseException:
        database.close()
        raise
    return database


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What SQLite says, as an error that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        kind = code & 0xFF
        if code in NO_ROOM:
            raise Unwritable(
                f"{path}: expected room to write, found {error}; make room and give the same command again, which goes "
                "on from what is kept"
            ) from None
        if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise Unwritable(
                f"{path}: expected a file that nobody else holds, found {error}; close what has it open and give the "
                "same command again, which goes on from what is kept"
            ) from None
        if kind in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            raise OSError(errno.EACCES, f"expected to open and write it, found {error}", str(path)) from None
        raise Unusable(f"{path}: expected a gradgauge store, found {error}; {LOST}") from None
    except UnicodeDecodeError:  # of a message that names what is damaged
        raise Unusable(f"{path}: expected a gradgauge store, found a damaged one; {LOST}") from None
