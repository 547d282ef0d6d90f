"""Batched throughout: the number of operations asked for from Python does not depend on the number of tasks.

What a kernel does inside is its own affair: the second derivative of a grouped convolution runs over its groups.
"""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch.overrides import TorchFunctionMode

from diagnostics.curvature import lanczos
from diagnostics.estimators.implicit import Implicit
from diagnostics.estimators.implicit_fixed_point import ImplicitFixedPoint
from diagnostics.hessian import second_order
from diagnostics.inner import Trajectory, run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.linear.neumann import Neumann
from diagnostics.meta_gradient import estimators
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.problem import Problem
from diagnostics.problem_names import build, problems
from diagnostics.reference import FLOAT64, in_arithmetic, stationary_reference
from diagnostics.rows import repeat_rows
from tests.cases import refusal

SMALL = {
    "few_shot": "few_shot[width=4,ways=2,queries=1]",
    "generalized_few_shot": "generalized_few_shot[width=4,base=3,ways=2,queries=1]",
}


class Count(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        self.operations += 1
        return func(*args, **(kwargs or {}))


def curvature(problem: Problem, loop: Trajectory) -> object:
    return lanczos(second_order(problem, loop.final, loop.theta, loop.data).hessian, loop.final, 5)


def everything() -> Mapping[str, Callable[[Problem, Trajectory], object]]:
    plain = {name: estimators[name]() for name in estimators.names() if not name.startswith("implicit")}
    return plain | {
        "implicit": Implicit(ConjugateGradients(3)),
        "implicit_fixed_point": ImplicitFixedPoint(Neumann(3, step=1.0)),
        "curvature": curvature,
        "stationary": lambda problem, loop: stationary_reference(
            problem, in_arithmetic(problem, loop, FLOAT64), patience=0
        ),
    }


def operations(problem: Problem, name: str, tasks: int) -> int:
    # One task over and over: how soon a solver's rows have all ended depends on the numbers.
    theta, data = problem.init(0).expand(tasks, -1), repeat_rows(problem.sample(1, 0), tasks)
    with Count() as count:
        loop = run_inner(problem, GradientDescent(problem.learning_rate), theta, data, 3)
        if name != "stationary" or problem.minimizer is not None:  # Newton's count of steps depends on the tasks
            everything()[name](problem, loop)
    return count.operations


@pytest.mark.parametrize("estimator", everything())
@pytest.mark.parametrize("name", problems.names())
def test_more_tasks_take_no_more_operations(name: str, estimator: str) -> None:
    problem = build(SMALL.get(name, name))
    message = refusal(estimator, problem)
    if message is not None:
        with pytest.raises(ValueError, match=message):
            operations(problem, estimator, 2)
        return
    few, many = (operations(problem, estimator, tasks) for tasks in (2, 5))
    assert few == many > 0


def test_the_count_would_see_a_loop() -> None:
    with Count() as one:
        torch.stack([row.sum() for row in torch.ones(2, 3)])
    with Count() as two:
        torch.stack([row.sum() for row in torch.ones(5, 3)])
    assert one.operations < two.operations
