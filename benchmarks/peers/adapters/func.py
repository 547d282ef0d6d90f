"""Plain torch with `torch.func`: one task's gradient, lifted over the tasks by vmap."""

import torch
from torch import Tensor
from torch.func import grad, vjp, vmap

from benchmarks.peers.adapters.plain import conjugate_gradients
from benchmarks.peers.setting import Setting

Weights = tuple[Tensor, ...]


def unrolled(setting: Setting) -> Tensor:
    """`vmap(grad)` of the query loss after the loop."""

    def loss(theta: Weights, *task: Tensor) -> Tensor:
        support_x, support_y, query_x, query_y = task
        weights = theta
        for _ in range(setting.steps):
            gradients = grad(setting.inner_loss)(weights, theta, support_x, support_y)
            weights = tuple(w - setting.learning_rate * g for w, g in zip(weights, gradients, strict=True))
        return setting.outer_loss(weights, query_x, query_y)

    return _rows(vmap(grad(loss), in_dims=(None, 0, 0, 0, 0))(setting.start, *_stacked(setting)))


def implicit(setting: Setting) -> Tensor:
    """The loop, the retained pullback of its gradient, and CG, all of one task, under one vmap."""

    def gradient(theta: Weights, *task: Tensor) -> Tensor:
        support_x, support_y, query_x, query_y = task

        def inner(weights: Weights) -> Weights:
            return grad(setting.inner_loss)(weights, theta, support_x, support_y)

        weights = theta
        for _ in range(setting.steps):
            weights = tuple(w - setting.learning_rate * g for w, g in zip(weights, inner(weights), strict=True))
        b = _cat(grad(setting.outer_loss)(weights, query_x, query_y))
        pull = vjp(inner, weights)[1]
        sizes = [w.numel() for w in weights]

        def product(v: Tensor) -> Tensor:
            (parts,) = pull(tuple(part.view_as(w) for part, w in zip(v.split(sizes), weights, strict=True)))
            return _cat(parts)

        return (setting.problem.strength or 0.0) * conjugate_gradients(product, b, setting.cg_iterations)

    return vmap(gradient, in_dims=(None, 0, 0, 0, 0))(setting.start, *_stacked(setting)).detach()


def _stacked(setting: Setting) -> tuple[Tensor, ...]:
    """The tasks' points with the batch dimension over tasks that vmap takes: a copy, made inside the timed call."""
    fields = ("support_x", "support_y", "query_x", "query_y")
    return tuple(torch.stack([getattr(task, field) for task in setting.tasks]) for field in fields)


def _cat(pieces: Weights) -> Tensor:
    return torch.cat([piece.reshape(-1) for piece in pieces])


def _rows(pieces: Weights) -> Tensor:
    return torch.cat([piece.detach().flatten(1) for piece in pieces], dim=1)
