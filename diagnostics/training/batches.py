"""Which tasks are seen when: a pure function of the seed, the role and the iteration, whatever the method.

Every method, arithmetic and number of inner steps thus meets the same tasks in the same order, and a run that is
resumed has no random state to restore.
"""

from collections.abc import Iterator

import numpy as np
import torch

from diagnostics.problem import Problem
from diagnostics.rows import Data, take_rows

ROLES = ("train", "validation", "test", "probe")
GROUP = 20  # tasks drawn at a time where many are wanted: bounds the memory, and no count changes the first tasks


def batch_seed(seed: int, role: str, iteration: int) -> int:
    """The seed of one batch of tasks, below 2^63."""
    sequence = np.random.SeedSequence(seed, spawn_key=(ROLES.index(role), iteration))
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1


def batch(problem: Problem, tasks: int, seed: int, role: str, iteration: int, device: str = "cpu") -> Data:
    """The data of one batch in float64, drawn on the CPU."""
    drawn = problem.sample(tasks, batch_seed(seed, role, iteration))
    return {key: value.to(torch.device(device)) for key, value in drawn.items()}


def groups(problem: Problem, tasks: int, seed: int, role: str, device: str = "cpu") -> Iterator[Data]:
    """The data of `tasks` tasks, at most `GROUP` at a time; more tasks begin with the same ones."""
    for place, first in enumerate(range(0, tasks, GROUP)):
        drawn = batch(problem, GROUP, seed, role, place, device)
        yield take_rows(drawn, slice(0, tasks - first))
