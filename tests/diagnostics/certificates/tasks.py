"""Small problems, each beside its losses in balls."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from diagnostics.certificates import problems as balls
from diagnostics.certificates.problems import Losses
from diagnostics.models import mlp
from diagnostics.problem import Problem, proximal
from diagnostics.problem_names import build
from diagnostics.rows import Data

BY_HAND: dict[str, Callable[[Data], Losses]] = {
    "quadratic": balls.quadratic,
    "linear_regression": balls.linear_regression,
    "logistic": balls.logistic,
}
CONVEX = tuple(BY_HAND)
NAMES = (*CONVEX, "tanh_mlp[1,3,1]", "tanh_mlp[1,4,4,1]")


def tanh_problem(widths: tuple[int, ...], points: int = 5, strength: float = 2.0) -> Problem:
    """The sinusoid problem with a network of other widths, its biases drawn and not zero."""
    network = mlp(widths, initialisation="torch")

    def loss(prefix: str):
        def mean_square(w: Tensor, theta: Tensor, data: Data) -> Tensor:
            return ((network.apply(w, data[f"{prefix}_x"]) - data[f"{prefix}_y"]) ** 2).mean((-2, -1))

        return mean_square

    return replace(
        build("sinusoid", shots=points, queries=points),
        name=named(widths),
        inner_loss=proximal(loss("support"), strength),
        outer_loss=loss("query"),
        init=network.init,
        strength=strength,
    )


def named(widths: tuple[int, ...]) -> str:
    return f"tanh_mlp[{','.join(map(str, widths))}]"


def widths_of(name: str) -> tuple[int, ...]:
    return tuple(int(width) for width in name.removeprefix("tanh_mlp[").removesuffix("]").split(","))


def problem(name: str, **settings: float) -> Problem:
    """By its name in NAMES; settings that the problem does not have are an error."""
    return build(name, **settings) if name in BY_HAND else tanh_problem(widths_of(name), **settings)  # type: ignore[arg-type]


def one_task(data: Data, row: int) -> dict[str, Tensor]:
    return {key: value[row] for key, value in data.items()}


def losses(name: str, data: Data, row: int = 0) -> Losses:
    """One task's losses in balls."""
    task = one_task(data, row)
    return BY_HAND[name](task) if name in BY_HAND else balls.tanh_mlp(task, widths_of(name))
