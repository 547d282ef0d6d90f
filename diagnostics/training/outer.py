"""The outer step: clipping, the schedule of its size, and Adam or gradient descent as torch has them."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from diagnostics.rows import row_norms
from diagnostics.training.recipe import Recipe

OPTIMIZERS: Mapping[str, type[torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}


def step_size(recipe: Recipe, iteration: int) -> float:
    """The outer step's size at an iteration from 0: constant, or `meta_lr (1 + cos(pi i / iterations)) / 2`."""
    if recipe.schedule == "constant":
        return recipe.meta_lr
    return recipe.meta_lr * 0.5 * (1 + math.cos(math.pi * iteration / recipe.meta_iterations))


def clipped(recipe: Recipe, gradient: Tensor) -> Tensor:
    """The gradient `(P,)`, each component within `clip_value`, then as a whole no longer than `clip_norm`."""
    if recipe.clip_value:
        gradient = gradient.clamp(-recipe.clip_value, recipe.clip_value)
    norm = float(row_norms(gradient.unsqueeze(0)))
    if recipe.clip_norm and norm > recipe.clip_norm:
        gradient = gradient * (recipe.clip_norm / norm)
    return gradient


def outer_optimizer(recipe: Recipe, theta: Tensor, moments: Mapping[str, Tensor]) -> torch.optim.Optimizer:
    """The optimizer of `theta (P,)`, which it changes in place; with the `moments` of an earlier one it goes on."""
    made = OPTIMIZERS[recipe.outer_optimizer]([theta], lr=recipe.meta_lr)  # pyright: ignore[reportCallIssue]
    if moments:
        made.load_state_dict({"state": {0: dict(moments)}, "param_groups": made.state_dict()["param_groups"]})
    return made


def moments_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimizer remembers beside theta, by name; nothing before its first step, or for plain descent."""
    kept = optimizer.state_dict()["state"].get(0, {})
    return {name: value.clone() for name, value in kept.items() if isinstance(value, Tensor)}


def take(optimizer: torch.optim.Optimizer, theta: Tensor, gradient: Tensor, size: float) -> None:
    """One outer step of the given size along `gradient (P,)`, rounded to theta's dtype first."""
    for group in optimizer.param_groups:
        group["lr"] = size
    theta.grad = gradient.to(theta.dtype)
    optimizer.step()
    theta.grad = None
