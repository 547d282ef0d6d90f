"""Which gradients of a cell would take more memory or time than there is, told before any of them is tried.

One task, with loops of two and of three steps, says what a step adds (from one step to two something else may become
the largest); costs grow at most linearly with the steps, and in proportion to the tasks or less:

    bytes(K, B) = B (bytes(2) + (K - 2) (bytes(3) - bytes(2)))
    seconds(K, B) = B (seconds(3) + (K - 3) step),   step = max(seconds(3) - seconds(2), that of the loop alone)

Bytes are counted exactly; a second too few by chance is none less than the inner loop's.
"""

from dataclasses import dataclass

from analyses.cost_rows import LOOP, CostCell, Setting, Way, most_bytes
from diagnostics.cost.live_bytes import live_bytes
from diagnostics.cost.seconds import seconds_of


@dataclass(frozen=True)
class Estimate:
    """What one task takes in loops of two and of three steps."""

    bytes_at_2: int
    bytes_at_3: int
    seconds_at_2: float
    seconds_at_3: float
    loop_step: float  # seconds of one step of the inner loop alone

    def bytes(self, tasks: int, steps: int) -> int:
        """The peak of live bytes that a batch is expected to have."""
        return tasks * (self.bytes_at_2 + max(0, steps - 2) * max(0, self.bytes_at_3 - self.bytes_at_2))

    def seconds(self, tasks: int, steps: int) -> float:
        """What the batch is expected to take at most: its tasks together take no longer than one by one."""
        step = max(self.seconds_at_3 - self.seconds_at_2, self.loop_step)
        return tasks * (self.seconds_at_3 + max(0, steps - 3) * step)


def too_large(cell: CostCell, compared: list[Way]) -> set[tuple[Way, int]]:
    """The ways and numbers of steps that are not to be tried; those of other solver iterations by the most of them."""
    most, small = most_bytes(cell), Setting.of(cell, tasks=1, steps=3)
    known: dict[str, Estimate] = {}
    loop_step = seconds_of(small.call(Way(LOOP), 3), cell.device) / 3
    for way in sorted(compared, key=lambda way: -(way.iterations or 0)):
        if way.estimator not in known:
            known[way.estimator] = estimate(small, way, loop_step, cell.device)
    return {
        (way, steps)
        for way in compared
        for steps in cell.steps
        if known[way.estimator].bytes(cell.tasks, steps) > most
        or known[way.estimator].seconds(cell.tasks, steps) > cell.longest_seconds
    }


def estimate(small: Setting, way: Way, loop_step: float = 0.0, device: str = "cpu") -> Estimate:
    """Measure a way on one task; `small` has a loop of three steps."""
    two, three = (live_bytes(small.call(way, steps)).peak for steps in (2, 3))
    second, third = (seconds_of(small.call(way, steps), device) for steps in (2, 3))
    return Estimate(two, three, second, third, loop_step)
