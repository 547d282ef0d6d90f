"""A plain MAML as an oracle: one task after the other, ordinary autograd through the whole loop, torch's own Adam.

It shares with the instrument the losses, the first theta and the tasks, and nothing else.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from diagnostics.problem import Problem
from diagnostics.rows import Data, take_rows


def adapted(problem: Problem, theta: Tensor, data: Data, steps: int) -> Tensor:
    """The weights `(1, N)` of one task after `steps` of gradient descent from `theta (1, P)`."""
    w = theta + 0.0  # a node of its own: the proximal term's theta is not the weights that start there
    for _ in range(steps):
        loss = problem.inner_loss(w, theta, data).sum()
        (gradient,) = torch.autograd.grad(loss, w, create_graph=True)
        w = w - problem.learning_rate * gradient
    return w


def maml(
    problem: Problem,
    batches: Callable[[int], Data],
    theta: Tensor,
    iterations: int,
    steps: int,
    meta_lr: float,
    noise: float = 0.0,
) -> Tensor:
    """Theta `(P,)` after `iterations` outer steps of Adam, from `theta (P,)`.

    `noise` disturbs each component of each gradient by so much of the largest: what roundings of that size come to.
    """
    theta = theta.clone().requires_grad_()
    adam = torch.optim.Adam([theta], lr=meta_lr)
    generator = torch.Generator().manual_seed(0)
    for iteration in range(iterations):
        data = batches(iteration)
        tasks = len(next(iter(data.values())))
        total = torch.zeros((), dtype=theta.dtype)
        for task in range(tasks):
            mine, there = take_rows(data, slice(task, task + 1)), theta.unsqueeze(0)
            total = total + problem.outer_loss(adapted(problem, there, mine, steps), there, mine).sum()
        (gradient,) = torch.autograd.grad(total / tasks, theta)
        disturbed = torch.randn(gradient.shape, generator=generator, dtype=gradient.dtype) * gradient.abs().max()
        theta.grad = gradient + noise * disturbed
        adam.step()
    return theta.detach()
