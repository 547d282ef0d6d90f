"""Plain torch with `torch.compile` of one inner step, of its pullback and of one Hessian-vector product.

The compiler does not differentiate twice through what it compiled, so that the loop is not unrolled: states are stored
and pulled back step by step. The first call of each compiles, for seconds to minutes, outside the timed rounds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.func import grad, vjp

from benchmarks.peers.adapters.plain import conjugate_gradients
from benchmarks.peers.models import TaskModel
from benchmarks.peers.setting import Setting, Task, flat

Weights = tuple[Tensor, ...]


@dataclass(frozen=True)
class Compiled:
    """One step, its pullback to weights and meta-parameters, and the product with the Hessian."""

    step: Callable[..., Weights]
    pull: Callable[..., tuple[Weights, Weights]]
    product: Callable[..., Weights]


@cache
def compiled(model: TaskModel, strength: float, learning_rate: float) -> Compiled:
    """The three functions of a problem, compiled once."""

    def loss(weights: Weights, theta: Weights, x: Tensor, y: Tensor) -> Tensor:
        apart = sum(((w - c) ** 2).sum() for w, c in zip(weights, theta, strict=True))
        return model.loss(model.apply(weights, x), y) + (0.5 * strength) * apart

    def step(weights: Weights, theta: Weights, x: Tensor, y: Tensor) -> Weights:
        gradients = grad(loss)(weights, theta, x, y)
        return tuple(w - learning_rate * g for w, g in zip(weights, gradients, strict=True))

    def pull(weights: Weights, theta: Weights, x: Tensor, y: Tensor, adjoint: Weights) -> tuple[Weights, Weights]:
        return vjp(lambda w, t: step(w, t, x, y), weights, theta)[1](adjoint)

    def product(weights: Weights, theta: Weights, x: Tensor, y: Tensor, v: Weights) -> Weights:
        return vjp(lambda w: grad(loss)(w, theta, x, y), weights)[1](v)[0]

    return Compiled(
        torch.compile(step, dynamic=False), torch.compile(pull, dynamic=False), torch.compile(product, dynamic=False)
    )


def unrolled(setting: Setting) -> Tensor:
    """The loop, and the adjoint recursion over its states."""
    functions, theta = _compiled(setting), setting.start

    def gradient(task: Task) -> Weights:
        states = [theta]
        for _ in range(setting.steps):
            states.append(functions.step(states[-1], theta, task.support_x, task.support_y))
        adjoint = _by_weights(setting, states[-1], task)
        total = tuple(torch.zeros_like(piece) for piece in theta)
        for state in reversed(states[:-1]):
            adjoint, more = functions.pull(state, theta, task.support_x, task.support_y, adjoint)
            total = tuple(a + b for a, b in zip(total, more, strict=True))
        return tuple(a + b for a, b in zip(total, adjoint, strict=True))

    return flat(gradient(task) for task in setting.tasks)


def implicit(setting: Setting) -> Tensor:
    """The loop, and CG; a product computes its gradient anew, for no graph can be retained."""
    functions, theta = _compiled(setting), setting.start

    def gradient(task: Task) -> Weights:
        weights = theta
        for _ in range(setting.steps):
            weights = functions.step(weights, theta, task.support_x, task.support_y)
        b = torch.cat([piece.reshape(-1) for piece in _by_weights(setting, weights, task)])
        sizes = [w.numel() for w in weights]

        def product(v: Tensor) -> Tensor:
            parts = tuple(part.view_as(w) for part, w in zip(v.split(sizes), weights, strict=True))
            products = functions.product(weights, theta, task.support_x, task.support_y, parts)
            return torch.cat([piece.reshape(-1) for piece in products])

        return ((setting.problem.strength or 0.0) * conjugate_gradients(product, b, setting.cg_iterations),)

    return flat(gradient(task) for task in setting.tasks)


def _compiled(setting: Setting) -> Compiled:
    return compiled(setting.model, setting.problem.strength or 0.0, setting.learning_rate)


def _by_weights(setting: Setting, weights: Weights, task: Task) -> Weights:
    leaves = tuple(w.detach().requires_grad_() for w in weights)
    return torch.autograd.grad(setting.outer_loss(leaves, task.query_x, task.query_y), leaves)
