"""What a contender is given: the same numbers as gradgauge's batch of tasks and as the list of them that peers take."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.peers.models import TaskModel, conv4, tanh_mlp
from diagnostics.problem import Problem
from diagnostics.problem_names import build
from diagnostics.rows import Data


@dataclass(frozen=True)
class Task:
    """The points of one task, without a batch dimension over tasks."""

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor


@dataclass(frozen=True)
class Setting:
    """One thing to compute: MAML's gradient after `steps`, or with `iterations` of CG the implicit one.

    `theta (B, P)` and `data` are gradgauge's; `tasks` are the same numbers, task by task; `start` are one task's
    meta-parameters, tensor by tensor.
    """

    problem: Problem
    model: TaskModel
    theta: Tensor
    data: Data
    start: tuple[Tensor, ...]
    tasks: tuple[Task, ...]
    steps: int
    iterations: int | None = None

    @property
    def learning_rate(self) -> float:
        """The inner step."""
        return self.problem.learning_rate

    @property
    def cg_iterations(self) -> int:
        """The iterations of CG; `ValueError` for a setting of MAML."""
        if self.iterations is None:
            raise ValueError("setting: expected a number of CG iterations, found none; this is a setting of MAML")
        return self.iterations

    def parameters(self) -> tuple[Tensor, ...]:
        """Meta-parameters to differentiate in, fresh leaves."""
        return tuple(piece.clone().requires_grad_() for piece in self.start)

    def network(self) -> nn.Module:
        """The module with the meta-parameters in place."""
        module = self.model.module().to(self.theta.dtype)
        with torch.no_grad():
            for parameter, piece in zip(module.parameters(), self.start, strict=True):
                parameter.copy_(piece)
        return module

    def proximal(self, weights: Iterable[Tensor], centre: Iterable[Tensor]) -> Tensor:
        """`strength/2 |w - theta|^2`, tensor by tensor, as the examples of the peers write it."""
        total = sum(((w - c) ** 2).sum() for w, c in zip(weights, centre, strict=True))
        return torch.as_tensor(total) * (0.5 * (self.problem.strength or 0.0))

    def inner_loss(self, weights: Sequence[Tensor], centre: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
        """The inner loss as a function of the weights."""
        return self.model.loss(self.model.apply(weights, x), y) + self.proximal(weights, centre)

    def outer_loss(self, weights: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
        """The outer loss as a function of the weights."""
        return self.model.loss(self.model.apply(weights, x), y)


@dataclass(frozen=True)
class Workload:
    """A problem, its network for one task, and the steps, and (steps, CG iterations), to compute it with.

    The implicit system is well posed at `posed_strength`, where the error is measured; the times are those of the
    problem as it stands (where every contender makes all its iterations).
    """

    name: str
    problem: str
    model: TaskModel
    inputs: str
    labels: str
    tasks: int
    unrolled: tuple[int, ...]
    implicit: tuple[tuple[int, int], ...]
    posed: str

    def setting(self, dtype: torch.dtype, steps: int, iterations: int | None = None, *, posed: bool = False) -> Setting:
        """The setting of these steps and iterations; float64 numbers are float32's, so that errors are of arithmetic.

        With `posed` it is the well-posed problem.
        """
        problem = build(self.posed if posed else self.problem)
        theta, data = problem.draw(self.tasks, 0)
        theta = theta.float().to(dtype)
        data = {key: x.float().to(dtype) if x.is_floating_point() else x for key, x in data.items()}
        shapes = [parameter.shape for parameter in self.model.module().parameters()]
        pieces = theta[0].split([shape.numel() for shape in shapes])
        columns = [data[f"{prefix}_{what}"] for prefix in ("support", "query") for what in (self.inputs, self.labels)]
        return Setting(
            problem=problem,
            model=self.model,
            theta=theta,
            data=data,
            start=tuple(piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)),
            tasks=tuple(Task(*rows) for rows in zip(*columns, strict=True)),
            steps=steps,
            iterations=iterations,
        )


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            name="sinusoid",
            problem="sinusoid",
            model=tanh_mlp((1, 40, 40, 1)),
            inputs="x",
            labels="y",
            tasks=25,
            unrolled=(1, 5, 20, 100),
            implicit=((5, 5), (5, 20), (20, 5), (20, 20), (100, 5), (100, 20)),
            posed="sinusoid[strength=50]",
        ),
        Workload(
            name="conv4",
            problem="few_shot[queries=15]",
            model=conv4(ways=5, width=64),
            inputs="images",
            labels="labels",
            tasks=4,
            unrolled=(5, 16),
            implicit=((5, 5), (16, 5)),
            posed="few_shot[queries=15,strength=50,learning_rate=0.01]",
        ),
    )
}


def flat(rows: Iterable[Sequence[Tensor]]) -> Tensor:
    """Gradients as rows `(B, P)`, from one sequence of tensors a task."""
    return torch.stack([torch.cat([piece.detach().reshape(-1) for piece in row]) for row in rows])
