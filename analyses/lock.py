"""One driver a run folder: a lock file that names its owner, held by the kernel for as long as the process lives.

The file is `run.lock`. The kernel's lock on it (flock) goes with the process, however that ends, so none is ever left
over; the name inside is for the message alone. Where the file system has no such locks, the existence of a second file
is the lock instead, and that one survives a process that was killed: the message tells how to remove it. Readers of a
finished cell need no lock.
"""

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

try:
    import fcntl
except ImportError:  # no POSIX system
    fcntl = None


class Locked(ValueError):
    """A run folder that another driver is measuring into."""


class _NoLocks(Exception):
    """The file system, or the system, has no locks that go with a process."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only driver of the run in `folder` while the block runs.

    Raises `Locked`, naming the owner, where another driver is (of this process or any other), and `OSError` where the
    folder cannot be written.
    """
    try:
        release = _lock_by_kernel(folder / "run.lock")
    except _NoLocks:
        release = _lock_by_existence(folder / "run.lock.held")
    try:
        yield
    finally:
        release()


def _lock_by_kernel(path: Path) -> Callable[[], None]:
    """Hold the kernel's lock on the file; what gives it back."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)  # not inherited by what the process starts
        try:
            _claim(file, path)
            if _is_at(file, path):
                os.ftruncate(file, 0)
                os.write(file, _owner())
                break
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # the owner of before removed the file between our opening and our locking it: once more

    def release() -> None:
        path.unlink(missing_ok=True)  # while it is held, so that nobody else's can be removed
        os.close(file)

    return release


def _claim(file: int, path: Path) -> None:
    if fcntl is None:
        path.unlink(missing_ok=True)
        raise _NoLocks
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Locked(_message(path, os.pread(file, 1000, 0), "wait for it, or choose another --out")) from None
    except OSError:
        path.unlink(missing_ok=True)
        raise _NoLocks from None


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _lock_by_existence(path: Path) -> Callable[[], None]:
    """Create the file, which must not be there; what removes it."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        advice = f"wait for it, or, if it has ended without removing {path.name}, delete that file"
        raise Locked(_message(path, path.read_bytes(), advice)) from None
    try:
        with os.fdopen(file, "wb") as opened:
            opened.write(_owner())
    except BaseException:
        path.unlink()  # a lock whose owner never was
        raise
    return lambda: path.unlink(missing_ok=True)


def _owner() -> bytes:
    begun = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"process": os.getpid(), "host": socket.gethostname(), "begun": begun}).encode() + b"\n"


def _message(path: Path, text: bytes, advice: str) -> str:
    try:
        owner = json.loads(text)
        named = f"process {owner['process']} on {owner['host']}, since {owner['begun']}"
    except (ValueError, KeyError, TypeError):  # the owner is about to write its name
        named = "a process that has not given its name"
    return f"{path.parent}: expected a run that nobody is measuring, found {named}; {advice}"
