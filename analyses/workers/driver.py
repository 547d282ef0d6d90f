"""The driver's side of measuring by workers: send tasks, take what comes back, notice who dies, know when to stop.

It speaks to the workers through a `Link`, which `analyses/workers/link.py` makes of a dask cluster.
"""

import queue
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from analyses.analysis import Cell
from analyses.engine import Failed, Killed, NoWorkers, Result, paired
from analyses.interrupt import interrupts
from analyses.task import THREADS, Answer, as_text
from analyses.workers.dispatch import Dispatch, Task, Worker

GRACE = 10.0  # seconds that a run which is to stop waits for the cells at work
BEAT = 0.2  # seconds between looks at the clock while nothing comes


@dataclass(frozen=True)
class Answered:
    """A task came back."""

    number: int
    answers: list[Answer]


@dataclass(frozen=True)
class Broken:
    """A task will not come back: for a reason, in one line, or because the scheduler has forgotten it."""

    number: int
    reason: str | None


@dataclass(frozen=True)
class Seen:
    """The workers that may be sent something now, and the addresses of those that died since the last time.

    `coming` tells whether there are others that may be fit soon.
    """

    alive: tuple[Worker, ...]
    died: tuple[str, ...]
    coming: bool = False


class Link(Protocol):
    """How the driver reaches its workers."""

    events: "queue.Queue[Answered | Broken | Seen]"
    machines: Counter[str]

    def send(self, task: Task, text: str, mode: str) -> None:
        """Have the task's worker measure it; an event tells of its end, unless its worker dies."""
        ...

    def forget(self, number: int) -> None:
        """Be told no more of a task."""
        ...


@dataclass
class ByWorkers:
    """Cells measured by the workers behind the link that `connect` makes.

    A run without a live worker for `wait` seconds ends; `tell` is given what a user should know meanwhile.
    """

    kind: str
    connect: Callable[[], AbstractContextManager[Link]]
    wait: float
    tell: Callable[[str], None]
    lost: int = 0
    alive: tuple[Worker, ...] = ()
    coming: bool = False
    machines: Counter[str] = field(default_factory=Counter)

    def results(self, cells: Sequence[Cell], mode: str) -> Iterator[list[Result]]:
        """What became of each cell, in the order in which the tasks end; see `Engine`.

        After Ctrl-C nothing more is sent, what ends within `GRACE` seconds is given, and `KeyboardInterrupt` raised.
        """
        dispatch = Dispatch.of(cells)
        if dispatch.finished:
            return
        with interrupts() as interrupted, self.connect() as link:
            self.machines = link.machines
            seen = time.monotonic()
            while not (dispatch.finished or interrupted.wished):
                for task in dispatch.assign(self.alive):
                    link.send(task, as_text(task.cells), mode)
                yield self._news(link, dispatch)
                seen = time.monotonic() if self.alive or self.coming else seen
                if time.monotonic() - seen > self.wait:
                    raise NoWorkers(
                        f"{self.kind}: expected a live worker within {self.wait:g} s, found none; look after the "
                        "workers, or allow more with --wait-for-workers; the same command goes on from here"
                    )
            if interrupted.wished:
                self._stop(link, dispatch)
                end = time.monotonic() + GRACE
                while dispatch.flying and time.monotonic() < end:
                    yield self._news(link, dispatch)
                raise KeyboardInterrupt

    def record(self) -> dict[str, Any]:
        """What a manifest says: the threads of each task, how many workers of which machines, how many were lost."""
        return {
            "engine": self.kind,
            "threads per task": THREADS,
            "workers": dict(self.machines),
            "workers lost": self.lost,
        }

    def _news(self, link: Link, dispatch: Dispatch) -> list[Result]:
        """The results in what has happened by now; waits a moment for the first thing that does."""
        results: list[Result] = []
        try:
            results += self._take(link.events.get(timeout=BEAT), link, dispatch)
            while True:
                results += self._take(link.events.get_nowait(), link, dispatch)
        except queue.Empty:
            return results

    def _take(self, event: Answered | Broken | Seen, link: Link, dispatch: Dispatch) -> list[Result]:
        match event:
            case Answered(number, answers):
                link.forget(number)
                task = dispatch.answered(number, [answer.seconds for answer in answers])
                return paired(task.cells, answers) if task else []
            case Broken(number, None):
                link.forget(number)
                dispatch.returned(number)
                return []
            case Broken(number, reason):
                link.forget(number)
                task = dispatch.answered(number, ())
                return [Failed(cell, str(reason)) for cell in task.cells] if task else []
            case Seen(alive, died, coming):
                self.alive, self.coming = alive, coming
                return [result for address in died for result in self._mourn(address, link, dispatch)]

    def _mourn(self, address: str, link: Link, dispatch: Dispatch) -> list[Result]:
        self.lost += 1
        lost, given_up = dispatch.died(address)
        for task in lost:
            link.forget(task.number)
        if lost:
            again = "it is given up" if given_up else "its task goes to another"
            self.tell(f"a worker died measuring {_described(lost[0])}; {again}")
        return [Killed(cell, dispatch.deaths[cell.key]) for cell in given_up]

    def _stop(self, link: Link, dispatch: Dispatch) -> None:
        """Send nothing more, and call back what waits behind another task."""
        dispatch.forget_waiting()
        for number in dispatch.behind():
            link.forget(number)
            dispatch.returned(number)
        dispatch.forget_waiting()
        at_work = [task for task in dispatch.flying.values()]
        if at_work:
            what = "; ".join(_described(task) for task in at_work[:4]) + ("; ..." if len(at_work) > 4 else "")
            self.tell(f"stopping: up to {GRACE:g} s for what is at work ({what}); Ctrl-C again ends now")


def _described(task: Task) -> str:
    more = len(task.cells) - 1
    return task.cells[0].name + (f" and {more} more" if more else "")
