"""TorchOpt: its differentiable optimizer, its functional optimizer under vmap, and its implicit differentiation."""

from collections.abc import Sequence

import torch
import torchopt  # pyright: ignore[reportMissingImports]
from torch import Tensor
from torch.func import grad, vmap

from benchmarks.peers.setting import Setting, Task, flat


def unrolled(setting: Setting) -> Tensor:
    """As `examples/few-shot/maml_omniglot.py`: `MetaSGD` steps a module, whose state is recovered after each task."""
    network = setting.network()
    theta = tuple(network.parameters())
    inner = torchopt.MetaSGD(network, lr=setting.learning_rate)
    at_start = torchopt.extract_state_dict(network, by="reference", detach_buffers=True)
    inner_at_start = torchopt.extract_state_dict(inner, by="reference", detach_buffers=True)

    def gradient(task: Task) -> tuple[Tensor, ...]:
        for _ in range(setting.steps):
            loss = setting.model.loss(network(task.support_x), task.support_y)
            # After a step the weights are attributes of the module, no longer its parameters.
            weights = [getattr(module, name) for module, name in _places(network)]
            inner.step(loss + setting.proximal(weights, theta))
        gradients = torch.autograd.grad(setting.model.loss(network(task.query_x), task.query_y), theta)
        torchopt.recover_state_dict(network, at_start)
        torchopt.recover_state_dict(inner, inner_at_start)
        return gradients

    return flat(gradient(task) for task in setting.tasks)


def unrolled_vmap(setting: Setting) -> Tensor:
    """As `examples/FuncTorch/maml_omniglot_vmap.py`: functional SGD on one task's loss, under vmap.

    With fused batch norm the result is wrong by percents in float64, as it is without TorchOpt: torch 2.13's autograd
    over `vmap(grad)` goes astray there, where autograd over vmap alone, and `vmap(grad(grad))`, do not.
    """
    # One copy of the meta-parameters a task, so that each task's gradient comes out.
    copies = tuple(piece.expand(len(setting.tasks), *piece.shape).clone().requires_grad_() for piece in setting.start)
    fields = ("support_x", "support_y", "query_x", "query_y")
    stacked = [torch.stack([getattr(task, field) for task in setting.tasks]) for field in fields]

    def query_loss(theta: tuple[Tensor, ...], *task: Tensor) -> Tensor:
        support_x, support_y, query_x, query_y = task
        optimizer = torchopt.sgd(lr=setting.learning_rate)
        state, weights = optimizer.init(theta), theta
        for _ in range(setting.steps):
            gradients = grad(setting.inner_loss)(weights, theta, support_x, support_y)
            updates, state = optimizer.update(gradients, state, inplace=False)
            weights = torchopt.apply_updates(weights, updates, inplace=False)
        return setting.outer_loss(weights, query_x, query_y)

    gradients = torch.autograd.grad(vmap(query_loss)(copies, *stacked).sum(), copies)
    return torch.cat([piece.flatten(1) for piece in gradients], dim=1)


def implicit(setting: Setting) -> Tensor:
    """As `examples/iMAML/imaml_omniglot_functional.py`, with `solve_cg` in place of the normal equations.

    Both tolerances are 0, so that CG makes all its iterations.
    """

    def objective(weights: Sequence[Tensor], theta: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
        return setting.inner_loss(weights, theta, x, y)

    @torchopt.diff.implicit.custom_root(
        grad(objective, argnums=0),
        argnums=1,
        solve=torchopt.linear_solve.solve_cg(maxiter=setting.cg_iterations, rtol=0.0, atol=0.0),
    )
    def solver(weights: Sequence[Tensor], theta: Sequence[Tensor], x: Tensor, y: Tensor) -> Sequence[Tensor]:
        optimizer = torchopt.sgd(lr=setting.learning_rate)
        state = optimizer.init(weights)
        with torch.enable_grad():
            for _ in range(setting.steps):
                gradients = torch.autograd.grad(objective(weights, theta, x, y), weights)
                updates, state = optimizer.update(gradients, state, inplace=True)
                weights = torchopt.apply_updates(weights, updates, inplace=True)
        return weights

    def gradient(task: Task) -> tuple[Tensor, ...]:
        theta = setting.parameters()
        weights = solver(setting.parameters(), theta, task.support_x, task.support_y)
        return torch.autograd.grad(setting.outer_loss(weights, task.query_x, task.query_y), theta)

    return flat(gradient(task) for task in setting.tasks)


def _places(network: torch.nn.Module) -> list[tuple[torch.nn.Module, str]]:
    """Where the weights of a module without nesting live, in order."""
    return [(m, name) for m in network.children() for name in ("weight", "bias") if hasattr(m, name)]
