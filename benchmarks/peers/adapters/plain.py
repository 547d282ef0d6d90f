"""Plain torch, one task after the other: what one writes without a library."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.peers.setting import Setting, Task, flat


def unrolled(setting: Setting) -> Tensor:
    """Backpropagation through the loop, `create_graph` at every step."""

    def gradient(task: Task) -> tuple[Tensor, ...]:
        theta = setting.parameters()
        weights = tuple(piece.clone() for piece in theta)
        for _ in range(setting.steps):
            loss = setting.inner_loss(weights, theta, task.support_x, task.support_y)
            gradients = torch.autograd.grad(loss, weights, create_graph=True)
            weights = tuple(w - setting.learning_rate * g for w, g in zip(weights, gradients, strict=True))
        return torch.autograd.grad(setting.outer_loss(weights, task.query_x, task.query_y), theta)

    return flat(gradient(task) for task in setting.tasks)


def implicit(setting: Setting) -> Tensor:
    """The loop without graph, then CG on the products of one retained second-order graph."""

    def gradient(task: Task) -> tuple[Tensor, ...]:
        weights = descended(setting, task)
        outer = setting.outer_loss(weights, task.query_x, task.query_y)
        b = torch.cat([g.reshape(-1) for g in torch.autograd.grad(outer, weights)])
        loss = setting.inner_loss(weights, setting.start, task.support_x, task.support_y)
        gradients = torch.autograd.grad(loss, weights, create_graph=True)
        first = torch.cat([g.reshape(-1) for g in gradients])

        def product(v: Tensor) -> Tensor:
            parts = torch.autograd.grad(first, weights, v, retain_graph=True)
            return torch.cat([part.reshape(-1) for part in parts])

        # The mixed derivative of the proximal term is -strength I.
        return ((setting.problem.strength or 0.0) * conjugate_gradients(product, b, setting.cg_iterations),)

    return flat(gradient(task) for task in setting.tasks)


def descended(setting: Setting, task: Task) -> tuple[Tensor, ...]:
    """The weights where one task's loop ends, as leaves."""
    weights = setting.parameters()
    for _ in range(setting.steps):
        loss = setting.inner_loss(weights, setting.start, task.support_x, task.support_y)
        gradients = torch.autograd.grad(loss, weights)
        weights = tuple(
            (w - setting.learning_rate * g).detach().requires_grad_() for w, g in zip(weights, gradients, strict=True)
        )
    return weights


def conjugate_gradients(product: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """The textbook recursion for one vector, no test inside."""
    x, r, p = torch.zeros_like(b), b, b
    rr = r @ r
    for _ in range(iterations):
        hp = product(p)
        alpha = rr / (p @ hp)
        x, r = x + alpha * p, r - alpha * hp
        rr, before = r @ r, rr
        p = r + (rr / before) * p
    return x
