"""The inner loss to second order at a point: products with its Hessian and with its mixed derivative.

One double-backward graph is built at the point and kept for every product (reverse over reverse; in eager mode it is
one to four times faster than forward over reverse).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.problem import Problem
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
    w, theta = w.detach().requires_grad_(), theta.detach().requires_grad_()
    with torch.enable_grad():
        loss = problem.inner_loss(w, theta, data).sum()
        (gradient,) = torch.autograd.grad(loss, w, create_graph=True)

    def product(v: Tensor, variable: Tensor) -> Tensor:
        if not gradient.requires_grad:  # a loss that is linear in w
            return torch.zeros_like(variable)
        (value,) = torch.autograd.grad(gradient, variable, v, retain_graph=True, materialize_grads=True)
        return value

    return SecondOrder(gradient.detach(), lambda v: product(v, w), lambda v: product(v, theta))
