"""Who measures what: a state machine that hands cells to workers, and knows which cell a dead worker was measuring.

It knows nothing of processes or networks. A worker has one task at work and one waiting behind it, the first sent the
first measured; so when a worker dies, the cell at work is known. A group of cells that was at work is taken apart. A
cell that was at work becomes a suspect: it goes last, and alone on its worker, so that no other is ever blamed for it;
when it has killed `MOST_DEATHS` workers it is given up. Cells that are timed run last of all, one on a host, with
nothing else of this run beside them there.
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from analyses.analysis import Cell
from analyses.killed import MOST_DEATHS
from analyses.workers.grouping import Pace

TIMED = frozenset({"cost"})  # measurements whose numbers are seconds
AHEAD = 2  # tasks on a worker: one at work, and one so that it need not wait for the next


@dataclass(frozen=True)
class Worker:
    """A process that measures: its address, the host that it is on, and how many tasks it would run at once."""

    address: str
    host: str
    threads: int = 1


@dataclass(frozen=True)
class Task:
    """Cells that were sent to a worker together."""

    number: int
    cells: Sequence[Cell]
    worker: Worker


@dataclass
class Dispatch:
    """The cells of a run on their way; every cell ends exactly once, as answered or as given up."""

    waiting: deque[Cell]
    timed: deque[Cell]
    suspects: deque[Cell] = field(default_factory=deque)
    flying: dict[int, Task] = field(default_factory=dict)  # in the order in which they were sent
    deaths: Counter[str] = field(default_factory=Counter)
    pace: Pace = field(default_factory=Pace)
    sent: int = 0
    _on: dict[str, dict[int, Task]] = field(default_factory=dict)  # the same by worker's address
    _at: dict[str, dict[int, Task]] = field(default_factory=dict)  # and by host

    @staticmethod
    def of(cells: Iterable[Cell]) -> "Dispatch":
        """Nothing has been sent yet."""
        cells = list(cells)
        timed = deque(cell for cell in cells if cell.measurement in TIMED)
        return Dispatch(deque(cell for cell in cells if cell.measurement not in TIMED), timed)

    @property
    def finished(self) -> bool:
        """Whether nothing is waiting or on its way."""
        return not (self.waiting or self.suspects or self.timed or self.flying)

    def assign(self, workers: Sequence[Worker]) -> list[Task]:
        """The tasks to send now, to these live workers; first one for each, then one more."""
        tasks = []
        for depth in range(1, AHEAD + 1):
            for worker in workers:
                cells = self._next(worker, depth, len(workers))
                if cells:
                    self.sent += 1
                    tasks.append(Task(self.sent, cells, worker))
                    self._fly(tasks[-1])
        return tasks

    def answered(self, number: int, seconds: Sequence[float]) -> Task | None:
        """A task came back, with the seconds of its cells where they are known.

        None for one that was taken from its worker meanwhile.
        """
        task = self._land(number)
        if task is not None:
            for cell, took in zip(task.cells, seconds, strict=False):
                self.pace.saw(cell, took)
        return task

    def returned(self, number: int) -> None:
        """A task was lost through no fault of its own; its cells go again."""
        task = self._land(number)
        if task is not None:
            self._again(task.cells)

    def died(self, address: str) -> tuple[list[Task], list[Cell]]:
        """A worker is dead: the tasks that it had, and the cells that are given up with it."""
        lost = list(self._on.get(address, {}).values())
        for task in lost:
            self._land(task.number)
        given_up = self._suspect(lost[0].cells) if lost else []
        for task in reversed(lost[1:]):
            self._again(task.cells)
        return lost, given_up

    def behind(self) -> list[int]:
        """The tasks that wait behind another on their worker."""
        return [number for tasks in self._on.values() for number in list(tasks)[1:]]

    def forget_waiting(self) -> None:
        """Send nothing more."""
        for queue in (self.waiting, self.suspects, self.timed):
            queue.clear()

    def _next(self, worker: Worker, depth: int, workers: int) -> Sequence[Cell]:
        """The cells for a worker that has one task less than `depth`; none where it must wait."""
        mine = self._on.get(worker.address, {}).values()
        if len(mine) != depth - 1 or (depth > 1 and worker.threads > 1):
            return ()
        beside = self._at.get(worker.host, {})
        if len(beside) == 1 and _is_timed(next(iter(beside.values())).cells):
            return ()
        if any(self._is_suspect(task.cells) for task in mine):
            return ()
        if self.waiting:
            return self.pace.group(self.waiting, workers)
        if mine:
            return ()
        if self.suspects and not (beside and _is_timed([self.suspects[0]])):
            return [self.suspects.popleft()]
        if self.timed and not self.suspects and not beside:
            return [self.timed.popleft()]
        return ()

    def _fly(self, task: Task) -> None:
        self.flying[task.number] = task
        self._on.setdefault(task.worker.address, {})[task.number] = task
        self._at.setdefault(task.worker.host, {})[task.number] = task

    def _land(self, number: int) -> Task | None:
        task = self.flying.pop(number, None)
        if task is not None:
            for index, name in ((self._on, task.worker.address), (self._at, task.worker.host)):
                del index[name][number]
                if not index[name]:
                    del index[name]
        return task

    def _suspect(self, cells: Sequence[Cell]) -> list[Cell]:
        """Cells that were at work in a worker that died. One of many is not blamed for it, only suspected."""
        given_up = []
        for cell in cells:
            self.deaths[cell.key] += 1 if len(cells) == 1 else 0
            if self.deaths[cell.key] >= MOST_DEATHS:
                given_up.append(cell)
            else:
                self.suspects.append(cell)
        return given_up

    def _again(self, cells: Sequence[Cell]) -> None:
        if self._is_suspect(cells):
            self.suspects.extendleft(reversed(cells))
        else:
            (self.timed if _is_timed(cells) else self.waiting).extendleft(reversed(cells))

    def _is_suspect(self, cells: Sequence[Cell]) -> bool:
        return any(cell.key in self.deaths for cell in cells)


def _is_timed(cells: Sequence[Cell]) -> bool:
    return any(cell.measurement in TIMED for cell in cells)
