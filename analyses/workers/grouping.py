"""Which cells go into one task: small ones together, so that sending them costs little beside measuring them."""

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from analyses.analysis import Cell

SMALL = 0.05  # seconds; a larger cell is a task of its own
FULL = 0.5  # seconds of cells in one task: a hundred times what a task costs, and little to lose with a worker
SHARES = 2  # tasks that each worker should still get of what is left, so that they end together


@dataclass
class Pace:
    """How long cells took, by kind: all that they ask for but the seed."""

    _seen: dict[str, float] = field(default_factory=dict)

    def saw(self, cell: Cell, seconds: float) -> None:
        """Take note of one cell. A cell's first time is the longer for what is loaded then, so the latest count."""
        kind = _kind(cell)
        before = self._seen.get(kind, seconds)
        self._seen[kind] = min(seconds, 0.5 * (before + seconds))

    def seconds(self, cell: Cell) -> float | None:
        """How long the cell should take; None for a kind that has not been seen."""
        return self._seen.get(_kind(cell))

    def group(self, waiting: deque[Cell], workers: int) -> Sequence[Cell]:
        """Take the cells of the next task from the front; at least one."""
        first = waiting.popleft()
        group, total = [first], self.seconds(first)
        most = len(waiting) // max(1, SHARES * workers)
        if total is None or total >= SMALL:
            return group
        while len(group) < most:
            more = self.seconds(waiting[0])
            if more is None or more >= SMALL or total + more > FULL:
                break
            group.append(waiting.popleft())
            total += more
        return group


def _kind(cell: Cell) -> str:
    return json.dumps([cell.measurement, {**cell.spec, "seed": None}], sort_keys=True)
