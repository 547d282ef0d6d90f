"""What decides the numbers of one training run, in plain numbers and names, and what it is made of.

    theta_(i+1) = outer step(theta_i, clip(mean over tasks of g_b(theta_i))),    g_b: the estimator's meta-gradient

Theta is held, and the outer step taken, in the arithmetic of the run where that is float32 or float64; a 16-bit
arithmetic has a float32 theta beside it (the usual master copy), extended precision a float64 one.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from diagnostics.arithmetic import rescaling
from diagnostics.arithmetic.precision import Precision, precision
from diagnostics.checks import at_least, one_of, positive, whole_number
from diagnostics.inner import Optimizer, make_optimizer
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.meta_gradient import Estimator, estimators
from diagnostics.problem import Problem
from diagnostics.problem_names import build, parse, problems
from diagnostics.registry import unknown

# The published methods: MAML's gradient is the adjoint sweep's, which is that of the full graph in less memory.
METHODS = {"maml": "unrolled_adjoint", "fomaml": "first_order", "imaml": "implicit"}
OUTER_OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("constant", "cosine")
SOLVERS = ("cg_unchecked", "cg")  # CG past negative curvature, as the published method goes, or stopped by it
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Recipe:
    """One training run.

    `method` is maml, fomaml, imaml or any estimator; `cg_iterations` are those of implicit ones, and
    `solver` says whether CG goes on past negative curvature (`cg_unchecked`) or stops before it (`cg`). `inner_lr` and
    `strength` replace the problem's own. `tasks` make a batch, `meta_iterations` batches a run. The gradient is clipped
    to `clip_value` in each component, then to `clip_norm`; 0 leaves it. Every `validate_every` iterations, before the
    first and after the last the loop of `inner_steps` is validated on `validation_tasks`; every `probe_every` (0:
    never) the gradients of `probe_tasks` are compared with the references (`probe`). `patience` is the further inner
    steps in search of the minimiser; 0 leaves the stationary reference out, unless the minimiser is known. The best
    theta is tested with each of `test_steps` inner steps on `test_tasks`. `chunk`: tasks at a time, 0 for as many as
    fit.
    """

    problem: str
    method: str = "maml"
    inner_steps: int = 5
    cg_iterations: int = 5
    solver: str = "cg_unchecked"
    inner_optimizer: str = "gd"
    inner_lr: float | None = None
    strength: float | None = None
    precision: str = "float32"
    scaling: str = "none"
    outer_optimizer: str = "adam"
    meta_lr: float = 1e-3
    schedule: str = "constant"
    clip_norm: float = 0.0
    clip_value: float = 0.0
    meta_iterations: int = 1000
    tasks: int = 25
    seed: int = 0
    validate_every: int = 100
    validation_tasks: int = 100
    probe_every: int = 0
    probe_tasks: int = 4
    patience: int = 0
    reference_seconds: float = 0.0
    test_steps: tuple[int, ...] = (1, 3, 5, 10, 20)
    test_tasks: int = 600
    chunk: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing; names are looked up by `parts`."""
        counts = ("cg_iterations", "meta_iterations", "tasks", "validate_every", "validation_tasks", "probe_tasks",
                  "test_tasks")  # fmt: skip
        for name in counts:
            whole_number(name, getattr(self, name), 1)
        for name in ("inner_steps", "seed", "probe_every", "patience", "chunk"):
            whole_number(name, getattr(self, name), 0)
        if not self.test_steps:
            raise ValueError("test_steps: expected one or more numbers of inner steps, found none; try 1,5,10")
        for steps in self.test_steps:
            whole_number("test_steps", steps, 0)
        positive("meta_lr", self.meta_lr)
        for name in ("clip_norm", "clip_value", "reference_seconds"):
            at_least(name, getattr(self, name), 0)
        one_of("outer_optimizer", self.outer_optimizer, OUTER_OPTIMIZERS)
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("solver", self.solver, SOLVERS)

    @property
    def estimator(self) -> str:
        """The registered name of the method's estimator; `ValueError` for a method that is unknown."""
        known = (*METHODS, *estimators.names())
        if self.method not in known:
            raise ValueError(unknown("method", self.method, known))
        return METHODS.get(self.method, self.method)

    @property
    def iterates_cg(self) -> bool:
        """Whether the estimator is given conjugate gradients of `cg_iterations`."""
        return _needs_solver(self.estimator)


@dataclass(frozen=True)
class Parts:
    """What a recipe's names stand for; `problems` has one for each of `SPLITS`, `held` is the dtype of theta."""

    recipe: Recipe
    problems: Mapping[str, Problem]
    optimizer: Optimizer
    estimator: Estimator
    arithmetic: Precision
    held: torch.dtype


def parts(recipe: Recipe) -> Parts:
    """The parts of a recipe; `ValueError` for a name that is unknown, and for data sets without the three splits.

    A problem with a parameter `split` is trained on its own, validated on `validation` and tested on `test`; of any
    other problem, all tasks come from one distribution.
    """
    rescaling.parse(recipe.scaling)
    base, given = parse(recipe.problem)
    split = "split" in inspect.signature(problems[base]).parameters
    if split and given.get("split", "train") != "train":
        raise ValueError(
            f"problem: expected the split train, which is trained on, found {given['split']} in {recipe.problem!r}; "
            "leave the split out"
        )
    made = {
        name: build(
            recipe.problem,
            strength=recipe.strength,
            learning_rate=recipe.inner_lr,
            **({"split": name} if split else {}),
        )
        for name in SPLITS
    }
    arithmetic = precision(recipe.precision)
    held = torch.float32 if arithmetic.eps > torch.finfo(torch.float64).eps else torch.float64
    if recipe.meta_lr > torch.finfo(held).max:
        raise ValueError(f"meta_lr: expected a number that {held} holds, found {recipe.meta_lr:g}; take a smaller one")
    return Parts(
        recipe,
        made,
        make_optimizer(recipe.inner_optimizer, made["train"], recipe.inner_lr),
        _estimator(recipe),
        arithmetic,
        held,
    )


def _estimator(recipe: Recipe) -> Estimator:
    made = estimators[recipe.estimator]
    if not _needs_solver(recipe.estimator):
        return made()
    past = recipe.solver == "cg_unchecked"  # negative curvature is counted in the outcomes either way
    return made(solver=ConjugateGradients(recipe.cg_iterations, past_negative_curvature=past))


def _needs_solver(name: str) -> bool:
    solver = inspect.signature(estimators[name]).parameters.get("solver")
    return solver is not None and solver.default is inspect.Parameter.empty
