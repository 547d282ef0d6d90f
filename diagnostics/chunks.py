"""Cutting a batch of tasks into chunks that fit in memory: the one place that loops over tasks."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from diagnostics.arithmetic.extended import Extended, words
from diagnostics.checks import whole_number
from diagnostics.problem import Problem
from diagnostics.rows import Data, take_rows

T = TypeVar("T")

BUDGET = 2**30  # bytes; fixed, not read from the machine, so that a run is cut alike everywhere
CACHE = 2**22  # bytes of graph beyond which a larger batch is no faster: its numbers leave the processor's cache


def in_chunks(compute: Callable[[slice], T], tasks: int, size: int) -> list[T]:
    """`compute` for the tasks in slices of at most `size`, in order."""
    whole_number("chunk size", size, 1)
    return [compute(slice(first, min(first + size, tasks))) for first in range(0, tasks, size)]


def tasks_that_fit(problem: Problem, theta: Tensor, data: Data, copies: int, budget: int = BUDGET) -> int:
    """How many tasks to compute together: at least 1, at most all.

    They keep `copies` second-order graphs of the inner loss within `budget` bytes, and one within `CACHE`: batching
    saves the operations' overhead, which a Conv4 of full width does not notice. `copies` is the number of graphs that
    live at once for a task: the inner steps of a full unrolling, or the end points solved together. The bytes of one
    are measured, as what autograd saves for one task.
    """
    each = saved_bytes(problem, theta[:1], take_rows(data, slice(0, 1)))
    return max(1, min(len(theta), budget // max(1, each * max(1, copies)), CACHE // max(1, each)))


def saved_bytes(problem: Problem, theta: Tensor, data: Data) -> int:
    """The bytes that autograd saves for one differentiable gradient of the inner loss, each storage counted once."""
    storages: dict[int, int] = {}

    def count(x: Tensor) -> Tensor:
        for part in words(x) if isinstance(x, Extended) else (x,):
            storage = part.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        return x

    w = problem.start(theta, data).detach().requires_grad_()
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
        torch.autograd.grad(problem.inner_loss(w, theta, data).sum(), w, create_graph=True)
    return sum(storages.values())
