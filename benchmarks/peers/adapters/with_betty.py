"""betty: its conjugate-gradient hypergradient.

Only `betty.hypergradient.cg.cg` is run, on stand-ins for its two problems that have what the function reads; its
Engine would add work of its own to the loop. It has no tolerance: a fixed number of iterations is what it makes.
"""

from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
from betty.hypergradient.cg import cg  # pyright: ignore[reportMissingImports]
from torch import Tensor

from benchmarks.peers.adapters.plain import descended
from benchmarks.peers.setting import Setting, Task, flat


@dataclass(frozen=True)
class Level:
    """What the function reads of a problem: its parameters, its loss, its settings."""

    weights: tuple[Tensor, ...]
    loss: Tensor | None = None
    config: SimpleNamespace | None = None
    cur_batch: None = None
    paths: list[object] = field(default_factory=list)

    def parameters(self) -> tuple[Tensor, ...]:
        """The parameters of this level."""
        return self.weights

    def trainable_parameters(self) -> tuple[Tensor, ...]:
        """The same: all are trained."""
        return self.weights

    def training_step_exec(self, batch: None) -> Tensor | None:
        """The inner loss."""
        return self.loss


def implicit(setting: Setting) -> Tensor:
    """The loop in plain torch, then `cg` from the gradient of the query loss."""
    config = SimpleNamespace(cg_iterations=setting.cg_iterations, cg_alpha=1.0)

    def gradient(task: Task) -> tuple[Tensor, ...]:
        theta, weights = setting.parameters(), descended(setting, task)
        outer = setting.outer_loss(weights, task.query_x, task.query_y)
        vector = torch.autograd.grad(outer, weights)
        loss = setting.inner_loss(weights, theta, task.support_x, task.support_y)
        return tuple(cg(vector, Level(weights, loss, config), Level(theta)))

    return flat(gradient(task) for task in setting.tasks)
