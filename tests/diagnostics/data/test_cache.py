"""The cache believes only what it wrote."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diagnostics.data import cache

ARRAYS = {"images": np.arange(60, dtype=np.uint8).reshape(3, 4, 5), "labels": np.array([0, 1, 1])}


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    path = tmp_path / "new" / "folder" / "set.npz"
    cache.write(path, "the key", ARRAYS)
    return path


def test_what_is_written_reads_back(entry: Path):
    arrays = cache.read(entry, "the key")
    assert arrays is not None and list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_only_the_entry_and_its_sum_are_left_behind(entry: Path):
    assert sorted(os.listdir(entry.parent)) == ["set.npz", "set.npz.sha256"]


def test_equal_arrays_make_equal_bytes(entry: Path):
    before = entry.read_bytes()
    cache.write(entry, "the key", ARRAYS)
    assert entry.read_bytes() == before


def test_another_key_reads_as_absent(entry: Path):
    assert cache.read(entry, "another key") is None


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_flipped_bit_reads_as_absent(entry: Path, place: int):
    data = bytearray(entry.read_bytes())
    data[place] ^= 1
    entry.write_bytes(data)
    assert cache.read(entry, "the key") is None


@pytest.mark.parametrize("length", [0, 1, 200])
def test_a_truncated_file_reads_as_absent(entry: Path, length: int):
    entry.write_bytes(entry.read_bytes()[:length])
    assert cache.read(entry, "the key") is None


@pytest.mark.parametrize("text", ["", "0" * 64, "not a sum", "\xe9"])
def test_a_wrong_sum_reads_as_absent(entry: Path, text: str):
    entry.with_name("set.npz.sha256").write_text(text, encoding="utf-8")
    assert cache.read(entry, "the key") is None


@pytest.mark.parametrize("name", ["set.npz", "set.npz.sha256"])
def test_half_an_entry_reads_as_absent(entry: Path, name: str):
    entry.with_name(name).unlink()
    assert cache.read(entry, "the key") is None


def test_pickled_objects_are_neither_written_nor_read(tmp_path: Path):
    with pytest.raises(ValueError, match="Object arrays"):
        cache.write(tmp_path / "set.npz", "the key", {"objects": np.array([{}], dtype=object)})
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_costs_a_logged_warning_only(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "set.npz"
    with caplog.at_level(logging.WARNING):
        cache.write(path, "the key", ARRAYS)
    assert "GRADGAUGE_CACHE" in caplog.text and str(path) in caplog.text
    assert cache.read(path, "the key") is None


def test_a_reader_among_racing_writers_sees_whole_entries_only(tmp_path: Path):
    code = (
        "import sys, numpy as np; from pathlib import Path; from diagnostics.data import cache\n"
        "for _ in range(60): cache.write(Path(sys.argv[1]), 'k', {'a': np.full(5000, int(sys.argv[2]))})"
    )
    path = tmp_path / "set.npz"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), mark]) for mark in ("1", "2")]
    while any(writer.poll() is None for writer in writers):
        arrays = cache.read(path, "k")
        assert arrays is None or (arrays["a"].shape == (5000,) and np.ptp(arrays["a"]) == 0)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert not list(tmp_path.glob("*.part"))


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.setenv("XDG_CACHE_HOME", "/shared")
    monkeypatch.setenv("GRADGAUGE_CACHE", "/chosen")
    assert cache.folder() == Path("/chosen")
    monkeypatch.delenv("GRADGAUGE_CACHE")
    assert cache.folder() == Path("/shared/gradgauge")
    for ignored in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache.folder() == Path("/somewhere/.cache/gradgauge")
