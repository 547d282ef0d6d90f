"""The lock: one driver at a time, named; none is left over by a process that was killed."""

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from analyses import lock
from analyses.lock import Locked, locked

ROOT = Path(__file__).parent.parent.parent
HOLD = """
import sys, time
from pathlib import Path
from analyses.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
COUNT = """
import sys
from pathlib import Path
from analyses.lock import Locked, locked
folder, done = Path(sys.argv[1]), 0
while done < 40:
    try:
        with locked(folder):
            number = int((folder / "count").read_text())
            (folder / "count").write_text(str(number + 1))
            done += 1
    except Locked:
        pass
"""


def started(code: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_second_driver_is_told_who_the_first_is_and_nothing_is_left(tmp_path: Path) -> None:
    with locked(tmp_path):
        with pytest.raises(Locked) as told, locked(tmp_path):
            pytest.fail("two drivers")
        assert f"found process {os.getpid()} on {socket.gethostname()}, since 20" in str(told.value)
        assert str(tmp_path) in str(told.value) and "--out" in str(told.value) and "\n" not in str(told.value)
        with pytest.raises(Locked), locked(tmp_path):  # the refusal took nothing away
            pytest.fail("two drivers")
    assert not list(tmp_path.iterdir())
    with locked(tmp_path):
        pass


def test_the_lock_is_given_back_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        pass


def test_a_process_that_is_killed_leaves_no_lock(tmp_path: Path) -> None:
    with started(HOLD, tmp_path) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(Locked, match=f"process {process.pid} on "), locked(tmp_path):
            pytest.fail("two drivers")
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / "run.lock").exists()
    with locked(tmp_path), pytest.raises(Locked, match=f"process {os.getpid()} on "), locked(tmp_path):
        pytest.fail("two drivers")


def test_four_processes_never_hold_it_together(tmp_path: Path) -> None:
    """The file is removed and made again all the time, which is where such locks break."""
    (tmp_path / "count").write_text("0")
    processes = [started(COUNT, tmp_path) for _ in range(4)]
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0] * 4
    assert (tmp_path / "count").read_text() == "160"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]


def test_an_owner_that_has_not_written_its_name_yet_is_respected(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / "run.lock").write_bytes(b"")
        with pytest.raises(Locked, match="a process that has not given its name"), locked(tmp_path):
            pytest.fail("two drivers")


def test_a_folder_that_cannot_be_written_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked(tmp_path / "nowhere"):
        pytest.fail("a lock in no folder")


@pytest.fixture(params=["refused", "absent"])
def without_kernel_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that refuses such locks, and a system that does not know them."""

    def refuse(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    if request.param == "refused":
        monkeypatch.setattr("fcntl.flock", refuse)
    else:
        monkeypatch.setattr(lock, "fcntl", None)


def test_without_locks_of_the_kernel_a_file_is_the_lock(without_kernel_locks: None, tmp_path: Path) -> None:
    with locked(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == ["run.lock.held"]
        with pytest.raises(Locked, match=f"process {os.getpid()} on .* delete that file"), locked(tmp_path):
            pytest.fail("two drivers")
    assert not list(tmp_path.iterdir())


def test_such_a_file_outlives_its_owner_and_is_deleted_by_hand(without_kernel_locks: None, tmp_path: Path) -> None:
    left = tmp_path / "run.lock.held"
    left.write_bytes(b'{"process": 1, "host": "elsewhere", "begun": "2026-01-01T00:00:00+00:00"}')
    with (
        pytest.raises(Locked, match="process 1 on elsewhere, .* if it has ended .* delete that file"),
        locked(tmp_path),
    ):
        pytest.fail("two drivers")
    left.unlink()
    with locked(tmp_path):
        pass


def test_a_lock_that_cannot_be_written_is_not_left(
    without_kernel_locks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lock, "_owner", full)
    with pytest.raises(OSError, match="No space"), locked(tmp_path):
        pytest.fail("a lock without a name")
    assert not list(tmp_path.iterdir())
