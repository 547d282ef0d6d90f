"""The inner loss to second order at a point: products with its Hessian and with its mixed derivative.

One double-backward graph is built at the point and kept for every product (reverse over reverse; in eager mode it is
one to four times faster than forward over reverse).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from diagnostics.problem import Loss, Problem
from diagnostics.recording import Linearised, recorded
from diagnostics.rows import Data


@dataclass(frozen=True)
class SecondOrder:
    """`gradient (B, N)` of the inner loss at a point; `hessian(v) = (d2 inner / dw dw) v`; `mixed(v)` below.

    `mixed(v) (B, P) = (d2 inner / dtheta dw) v`: with a proximal term it is `-strength * v` plus whatever else theta
    does.
    """

    gradient: Tensor
    hessian: Callable[[Tensor], Tensor]
    mixed: Callable[[Tensor], Tensor]


def second_order(problem: Problem, w: Tensor, theta: Tensor, data: Data) -> SecondOrder:
    """Build the graph at `w (B, N)`, `theta (B, P)`."""
    key = ("second order", problem.inner_loss, *data)
    linearise = partial(_linearised, problem.inner_loss, tuple(data))
    (gradient,), (hessian, mixed) = recorded(key, linearise, w, theta, *data.values())
    return SecondOrder(gradient, lambda v: hessian(v)[0], lambda v: mixed(v)[0])


def _linearised(loss: Loss, names: tuple[str, ...], w: Tensor, theta: Tensor, *data: Tensor) -> Linearised:
    w, theta = w.detach().requires_grad_(), theta.detach().requires_grad_()
    with torch.enable_grad():
        total = loss(w, theta, dict(zip(names, data, strict=True))).sum()
        (gradient,) = torch.autograd.grad(total, w, create_graph=True)

    def product(variable: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        if not gradient.requires_grad:  # a loss that is linear in w
            return (torch.zeros_like(variable),)
        return torch.autograd.grad(gradient, variable, v, retain_graph=True, materialize_grads=True)

    return (gradient.detach(),), (partial(product, w), partial(product, theta))
