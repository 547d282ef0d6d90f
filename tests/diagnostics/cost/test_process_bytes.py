"""A fresh process's high-water mark, and the free memory."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from diagnostics.cost import process_bytes as module
from diagnostics.cost.process_bytes import free_bytes, high_water, process_bytes

MEGABYTE = 2**20


def numbers(megabytes: int, kept: list[torch.Tensor]) -> Callable[[], object]:
    """A set-up that takes as much as the call, for a moment, and a call that writes so many megabytes."""
    torch.ones(megabytes * MEGABYTE // 4)
    return lambda: kept.append(torch.ones(megabytes * MEGABYTE // 4))


def killed() -> Callable[[], object]:
    return lambda: os.kill(os.getpid(), signal.SIGKILL)


def failing() -> Callable[[], object]:
    return lambda: 1 / 0


def test_it_is_what_the_call_takes_however_large_this_process_is() -> None:
    ballast = torch.ones(200 * MEGABYTE // 4)
    assert high_water() > 200 * MEGABYTE
    found = process_bytes(partial(numbers, 96, []))
    assert (
        found is not None and 95 * MEGABYTE <= found <= 110 * MEGABYTE
    )  # what torch loads for the first call comes to it
    del ballast


def test_a_process_that_was_killed_has_no_number() -> None:
    assert process_bytes(killed) is None


@pytest.mark.slow
def test_a_failure_in_the_process_is_raised_here() -> None:
    with pytest.raises(RuntimeError, match="expected the call to run in a fresh process, found ZeroDivisionError"):
        process_bytes(failing)


def test_the_free_memory_is_the_least_that_the_system_and_a_group_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = free_bytes()
    assert free is not None and free > 0
    for name, text in {"most": "5000\n", "used": "2000\n", "unlimited": "max\n"}.items():
        (tmp_path / name).write_text(text)
    most, used, unlimited = (str(tmp_path / name) for name in ("most", "used", "unlimited"))
    monkeypatch.setattr(module, "LIMITS", ((unlimited, used), (str(tmp_path / "none"), used)))
    assert free_bytes() != 3000
    monkeypatch.setattr(module, "LIMITS", ((unlimited, used), (most, used)))
    assert free_bytes() == 3000
    monkeypatch.setattr(module, "LIMITS", ((used, most),))
    assert free_bytes() == 0  # a group that is over its limit has nothing
