"""Cases and yardsticks that the tests share.

A tolerance is never a bare number here. An error is divided by the unit that theory gives it, `eps * condition *
scale`, and the ratio must stay below LIMIT, which is the threshold of LAPACK's test programs: it leaves room for
the constants of the theory (a few roundings an operation, the square root of the size), and for nothing else.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from diagnostics.inner import Optimizer, optimizers, run_inner
from diagnostics.linear.dense import Dense
from diagnostics.meta_gradient import Estimator, estimators
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.outcome import Outcome, decode
from diagnostics.problem import Problem
from diagnostics.problem_names import problems
from diagnostics.rows import Data, row_norms
from diagnostics.solvers import LinearSolver, MatVec, solvers

LIMIT = 30.0
WORST: dict[str, tuple[float, str]] = {}  # family of checks -> its worst ratio, and where that was

# Settings that keep a registered problem small. Those that a builder does not have are left out, so that a problem
# added later is tested at once, with its defaults where they have other names.
SMALL: dict[str, object] = {
    "dimension": 5, "examples": 8, "shots": 3, "queries": 4, "width": 4, "ways": 3,
}  # fmt: skip
OVERRIDES: dict[str, dict[str, object]] = {
    "few_shot": {"shots": 1, "queries": 2},
    "generalized_few_shot": {"base": 3, "ways": 2, "shots": 1, "queries": 1},
}


def small(name: str, **more: object) -> Problem:
    """A registered problem in a size fit for tests."""
    builder = problems[name]
    known = inspect.signature(builder).parameters
    chosen = {key: value for key, value in SMALL.items() if key in known} | OVERRIDES.get(name, {}) | more
    return builder(**chosen)


def theta_and_data(
    problem: Problem, tasks: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, dict[str, Tensor]]:
    """Meta-parameters `(B, P)`, another row for each task, and a sample."""
    theta = torch.stack([problem.init(seed + task) for task in range(tasks)]).to(dtype)
    data = problem.sample(tasks, seed)
    return theta, {key: value.to(dtype) if value.is_floating_point() else value for key, value in data.items()}


def gd(problem: Problem) -> GradientDescent:
    """Gradient descent with the step that the problem is usually run with."""
    return GradientDescent(problem.learning_rate)


def make_estimator(name: str) -> Estimator:
    """An estimator with its defaults; one that needs a linear solver gets the exact one."""
    known = inspect.signature(estimators[name]).parameters
    return estimators[name](**({"solver": Dense()} if "solver" in known else {}))


def refusal(name: str, problem: Problem) -> str | None:
    """The message with which an estimator of that name, with its defaults, refuses a problem; None if it takes it."""
    if name in ("forward_mode", "finite_difference") and problem.init(0).numel() > 128:
        return f"^{name}: expected at most 128 components of theta, found {problem.init(0).numel()}; use "
    return None


def usual_outcome(name: str) -> Outcome:
    """What an estimator with its defaults says where nothing is amiss: a single iteration of CG is never finished."""
    return Outcome.UNFINISHED if name == "released_gbml" else Outcome.OK


def make_solver(name: str) -> LinearSolver:
    """A solver with its defaults; one that iterates gets ample iterations."""
    known = inspect.signature(solvers[name]).parameters
    return solvers[name](**({"iterations": 200} if "iterations" in known else {}))


def make_optimizer(name: str) -> Optimizer:
    return optimizers[name](0.1)


def check_ratio(family: str, error: Tensor, unit: Tensor | float, where: object = "", limit: float = LIMIT) -> None:
    """Assert that `error <= limit * unit` everywhere, and remember the worst ratio of the family. NaN fails."""
    if torch.as_tensor(error).numel() == 0:
        return
    ratios = torch.as_tensor(error, dtype=torch.float64) / torch.as_tensor(unit, dtype=torch.float64)
    ratios = torch.where(torch.as_tensor(error) == 0, 0.0, ratios)  # no error is no error, in units of nothing too
    worst = float(ratios.max()) if bool(ratios.isfinite().all()) else float("nan")
    if not worst <= WORST.get(family, (-1.0, ""))[0]:
        WORST[family] = (worst, str(where))
    assert worst < limit, f"{family}: the ratio of error to unit is {worst:.3g}, expected < {limit:g} ({where})"


@contextmanager
def provoked(message: str = "ratio of error") -> Iterator[None]:
    """What is inside must fail its check with `message`; the failure does not enter the summary of worst ratios."""
    before = dict(WORST)
    with pytest.raises(AssertionError, match=message):
        yield
    WORST.clear()
    WORST.update(before)


def only(codes: Tensor) -> Outcome:
    """The one outcome that all rows have."""
    found = set(decode(codes))
    assert len(found) == 1, f"expected one outcome, found {found}"
    return found.pop()


def symmetric(values: Tensor, seed: int = 0) -> Tensor:
    """Symmetric matrices `(B, N, N)` with the eigenvalues `values (B, N)`, in random bases."""
    generator = torch.Generator().manual_seed(seed)
    rows, size = values.shape
    basis = torch.linalg.qr(torch.randn(rows, size, size, generator=generator, dtype=torch.float64)).Q
    matrix = (basis * values.double().unsqueeze(1)) @ basis.mT
    return ((matrix + matrix.mT) / 2).to(values.dtype)


def vectors(rows: int, size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal rows."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(rows, size, generator=generator, dtype=torch.float64).to(dtype)


def derivatives(scalar: Callable[..., Tensor], inputs: tuple[Tensor, ...], orders: int) -> list[Tensor]:
    """Derivatives of a scalar function, each of the one before along fixed directions, flat."""
    found, total = [], scalar(*inputs)
    for order in range(orders):
        gradients = torch.autograd.grad(total, inputs, create_graph=True)
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        total = (flat * vectors(1, flat.numel())[0] * (1 + order)).sum()
        found.append(flat.detach())
    return found


def times(matrix: Tensor) -> MatVec:
    """The product with a batch of matrices."""
    return lambda v: (matrix @ v.unsqueeze(-1)).squeeze(-1)


def outer_value(problem: Problem, optimizer: Optimizer, theta: Tensor, data: Data, steps: int) -> Tensor:
    """The outer loss `(B,)` after `steps` inner steps: the function whose derivative the unrolled gradient is."""
    return problem.outer_loss(run_inner(problem, optimizer, theta, data, steps).final, theta, data)


def central_difference(
    function: Callable[[Tensor], Tensor], at: Tensor, direction: Tensor, step: float, roundings: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`(derivative (B,), uncertainty (B,))` of `function (B, P) -> (B,)` along `direction (B, P)`, row by row.

    Two central differences, at `step` and `step / 2`, give one of fourth order (Richardson). The uncertainty is the
    correction that this made, which is what the *worse* of the two was wrong by where the function is smooth, so
    that it bounds the error of the better by far, plus the rounding of the function's values, `roundings` times
    eps, over the step. Across a kink the two differences disagree at first order, which the uncertainty then shows:
    it never looks at the gradient under test.
    """
    slopes, rounding = [], torch.zeros(len(at), dtype=at.dtype)
    for h in (step, step / 2):
        ahead, behind = function(at + h * direction), function(at - h * direction)
        slopes.append((ahead - behind) / (2 * h))
        rounding = roundings * torch.finfo(at.dtype).eps * (ahead.abs() + behind.abs()) / (2 * h)
    correction = (slopes[1] - slopes[0]) / 3
    return slopes[1] + correction, correction.abs() + rounding


def check_by_differences(
    family: str,
    problem: Problem,
    optimizer: Optimizer,
    theta: Tensor,
    data: Data,
    steps: int,
    gradient: Tensor,
    *,
    kinks: bool = False,
    sharp: float = 1e-5,
    directions: int = 6,
    step: float | None = None,
) -> None:
    """Assert that `gradient (B, P)` is the derivative of the outer loss after `steps`, along random directions.

    Along each direction the differences must agree with the gradient within LIMIT of their own uncertainty, and that
    must be below `sharp` of what a random direction meets of the gradient, or the check would be blunt.

    With `kinks` (relu, max-pool) a direction may cross one between -step and +step, where no derivative exists to agree
    with. A step of 3e-5 makes that rare, and it shows in the uncertainty: three quarters of the directions must be
    free of it, the rest do not count. Their loss is also computed through many layers, which is worth a few
    roundings and not one.
    """
    usual, smooth, roundings = (3e-5, 0.75, 4.0) if kinks else (1e-3, 1.0, 1.0)
    step = usual if step is None else step
    norm = row_norms(gradient)
    counted = 0
    for seed in range(directions):
        u = vectors(len(theta), theta.shape[1], seed)
        u = u / row_norms(u).unsqueeze(-1)

        def value(at: Tensor) -> Tensor:
            return outer_value(problem, optimizer, at, data, steps)

        slope, uncertainty = central_difference(value, theta, u, step, roundings)
        # A random direction in P dimensions meets only |g| / sqrt(P) of a gradient.
        counts = uncertainty <= sharp * norm / theta.shape[1] ** 0.5
        counted += int(counts.sum())
        error = (slope - (gradient * u).sum(-1)).abs()
        check_ratio(family, error[counts], uncertainty[counts], f"{problem.name}, {steps} steps, direction {seed}")
    total = directions * len(theta)
    assert counted >= smooth * total, f"{family}: only {counted} of {total} differences were sharp enough to count"
