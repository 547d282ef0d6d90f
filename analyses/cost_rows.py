"""A cell of the analysis of cost, the gradients that are priced in it, and what became of each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from diagnostics.arithmetic.precision import Precision, enter_rows, precision
from diagnostics.cost.cuda_bytes import free_cuda_bytes
from diagnostics.cost.loop import kept_states
from diagnostics.cost.process_bytes import free_bytes
from diagnostics.estimators.checkpointed import Checkpointed, Checkpoints
from diagnostics.inner import Trajectory, make_optimizer, run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.meta_gradient import Estimator, MetaGradient, estimators
from diagnostics.problem import Problem
from diagnostics.problem_names import build
from diagnostics.recording import recording

LOOP = "inner_loop"  # what the inner loop alone is called in the column `estimator`
SPARE = 0.8  # the part of the free memory that a gradient may be estimated to take; kernels have workspaces


@dataclass(frozen=True)
class CostCell:
    """One cell of work, in plain numbers and names; see `settings.Cost`."""

    problem: str
    seed: int
    tasks: int
    steps: tuple[int, ...]
    iterations: tuple[int, ...]
    precision: str = "float32"
    inner_optimizer: str = "gd"
    estimators: tuple[str, ...] = ("unrolled", "unrolled_adjoint", "first_order", "implicit")
    repeats: int = 3
    inner_lr: float | None = None
    strength: float | None = None
    patience: int = 2000
    lanczos_iterations: int = 30
    reference_seconds: float = 0.0
    processes: bool = False
    longest_seconds: float = 600.0
    largest_bytes: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Way:
    """One way to a meta-gradient: an estimator by name, with the solver's iterations where it has a solver; or the
    inner loop alone."""

    estimator: str
    iterations: int | None = None

    @property
    def label(self) -> dict[str, object]:
        """What the table calls it."""
        if self.iterations is None:
            return {"estimator": self.estimator}
        return {"estimator": self.estimator, "solver": "cg_unchecked", "solver_iterations": self.iterations}

    def build(self) -> Estimator:
        """The estimator itself."""
        if self.iterations is None:
            return estimators[self.estimator]()
        return estimators[self.estimator](solver=ConjugateGradients(self.iterations, past_negative_curvature=True))


@dataclass(frozen=True)
class Setting:
    """What a cell's gradients are computed from: the problem, the arithmetic, and the longest loop, recorded."""

    problem: Problem
    arithmetic: Precision
    loop: Trajectory

    @staticmethod
    def of(cell: CostCell, tasks: int, steps: int) -> "Setting":
        """Draw the tasks and run the loop. Raises `ValueError` for names and numbers that mean nothing."""
        problem = build(cell.problem, strength=cell.strength, learning_rate=cell.inner_lr)
        arithmetic = precision(cell.precision)
        theta, data = problem.draw(tasks, cell.seed, cell.device)
        # Rows of their own: expanded ones would have the bytes of one task, which a program does not.
        theta, data = arithmetic.enter(theta.clone()), enter_rows(arithmetic, data)
        with recording("off"), arithmetic.running():
            loop = run_inner(problem, make_optimizer(cell.inner_optimizer, problem, cell.inner_lr), theta, data, steps)
        return Setting(problem, arithmetic, loop)

    def call(self, way: Way, steps: int) -> Callable[[], MetaGradient | None]:
        """The gradient of the loop that ends after so many steps, from the beginning; None for the loop alone."""
        loop = self.loop.prefix(steps)
        optimizer, theta, data = loop.optimizer, loop.theta, loop.data
        kept = (steps,) if way.estimator == LOOP else kept_states(way.estimator, steps)
        differentiate = None if way.estimator == LOOP else self.handed(way, loop, only_end=kept == (steps,))

        def call() -> MetaGradient | None:
            # Plain autograd throughout: a recorded program is not used below a mode that counts.
            with recording("off"), self.arithmetic.running():
                held = None if kept is None else run_inner(self.problem, optimizer, theta, data, steps, kept)
                found = None if differentiate is None else differentiate()
            del held  # until here, so that its bytes are alive while the estimator runs
            return found

        return call

    def handed(self, way: Way, loop: Trajectory, *, only_end: bool) -> Callable[[], MetaGradient]:
        """The estimator with what it looks at of the recorded loop, taken out beforehand; it checks all it is given."""
        estimator = way.build()
        if isinstance(estimator, Checkpointed):
            return partial(estimator.from_checkpoints, self.problem, Checkpoints.of(loop))
        if only_end:
            loop = replace(loop, states=loop.states[-1:], gradient_norms=loop.gradient_norms[-1:])
        return partial(estimator, self.problem, loop)

    @property
    def given(self) -> tuple[torch.Tensor, ...]:
        """What is in memory before any gradient is computed."""
        return (self.loop.theta, *self.loop.data.values(), self.loop.states)


def ways(cell: CostCell, problem: Problem) -> list[Way]:
    """The ways that a cell compares, the loop alone the first; those that need a solver once for each iteration count.

    Without a proximal term there is no implicit gradient, and it is left out.
    """
    found = [Way(LOOP)]
    for name in cell.estimators:
        if name != "implicit":
            found.append(Way(name))
        elif problem.has_implicit_gradient:
            found += [Way(name, count) for count in cell.iterations]
    return found


def most_bytes(cell: CostCell) -> float:
    """The bytes that one gradient may take: as set, or most of what is free on its device."""
    device = torch.device(cell.device)
    free = free_cuda_bytes(device) if device.type == "cuda" else free_bytes()
    return cell.largest_bytes or (SPARE * free if free is not None else float("inf"))
