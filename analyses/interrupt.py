"""Ctrl-C: once is a wish to stop in good order, twice is now."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from types import FrameType


@dataclass
class Interrupts:
    """Whether one has come, and whether it may interrupt what is being done."""

    wished: bool = False
    at_once: bool = False

    @contextmanager
    def welcome(self) -> Iterator[None]:
        """Let the first one interrupt what is done inside."""
        self.raise_if_wished()
        self.at_once = True
        try:
            yield
        finally:
            self.at_once = False

    def raise_if_wished(self) -> None:
        """Raise `KeyboardInterrupt` if one has come."""
        if self.wished:
            raise KeyboardInterrupt

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.wished or self.at_once:
            raise KeyboardInterrupt
        self.wished = True


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Take note of the first Ctrl-C inside instead of raising it; the second raises `KeyboardInterrupt`.

    Outside the main thread, which alone can, nothing changes.
    """
    taken = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield taken
        return
    before = signal.signal(signal.SIGINT, taken._take)
    try:
        yield taken
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def held_back() -> Iterator[None]:
    """Threads and processes that are started inside, and all that they start, never see Ctrl-C.

    A terminal sends it to all processes of a run; only the driver is to act on it.
    """
    # Python's tracker of shared resources lets the thread that starts it see Ctrl-C again: so it is started before.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
