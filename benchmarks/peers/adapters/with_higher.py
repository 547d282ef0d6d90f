"""higher: its inner loop context and differentiable SGD."""

import higher  # pyright: ignore[reportMissingImports]
import torch
from torch import Tensor

from benchmarks.peers.setting import Setting, Task, flat


def unrolled(setting: Setting) -> Tensor:
    """As `examples/maml-omniglot.py`: `innerloop_ctx` with `copy_initial_weights=False`, one task after the other."""
    network = setting.network()
    optimizer = torch.optim.SGD(network.parameters(), lr=setting.learning_rate)
    theta = tuple(network.parameters())

    def gradient(task: Task) -> tuple[Tensor, ...]:
        with higher.innerloop_ctx(network, optimizer, copy_initial_weights=False) as (functional, differentiable):
            for _ in range(setting.steps):
                loss = setting.model.loss(functional(task.support_x), task.support_y)
                differentiable.step(loss + setting.proximal(functional.parameters(), theta))
            return torch.autograd.grad(setting.model.loss(functional(task.query_x), task.query_y), theta)

    return flat(gradient(task) for task in setting.tasks)
