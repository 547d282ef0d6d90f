"""Logistic regression: convex, with a Hessian that varies along the inner loop."""

import torch
from torch import Tensor
from torch.nn import functional

from diagnostics.checks import at_least, positive, whole_number
from diagnostics.draws import conditioned_inputs, normal, uniform
from diagnostics.inputs import linear_inputs, second_moment
from diagnostics.problem import ConvexConstants, Problem, proximal
from diagnostics.problem_names import problems
from diagnostics.rows import Data

STEEPEST = 1 / (6 * 3**0.5)  # the greatest value of |sigmoid''|


@problems.register("logistic")
def logistic(
    dimension: int = 20,
    condition: float = 100.0,
    examples: int = 40,
    strength: float = 0.1,
    learning_rate: float = 1.0,
) -> Problem:
    """Mean of `log(1 + exp(-y x'w))` over the support examples, plus `strength/2 |w - theta|^2`; the query's without
    the latter.

    Labels y are +-1, drawn with probability sigmoid(3 x'v), v a task's own standard normal vector. The inputs' second
    moment has `dimension` eigenvalues from 1/condition to 1 in a basis of each task's own. Needs `examples >=
    dimension`.
    """
    whole_number("logistic: dimension", dimension, 1)
    whole_number("logistic: examples", examples, dimension)
    positive("logistic: learning_rate", learning_rate)
    at_least("logistic: strength", strength, 0)
    at_least("logistic: condition", condition, 1)

    def loss(prefix: str):
        def mean_log_loss(w: Tensor, theta: Tensor, data: Data) -> Tensor:
            margin = (data[f"{prefix}_x"] @ w.unsqueeze(-1)).squeeze(-1) * data[f"{prefix}_y"]
            return -functional.logsigmoid(margin).mean(-1)

        return mean_log_loss

    def sample(tasks: int, seed: int) -> dict[str, Tensor]:
        support, query = conditioned_inputs(seed, (0, 2, 4), tasks, examples, dimension, condition)
        truth = normal(seed, 1, tasks, dimension, 1)

        def labels(x: Tensor, variable: int) -> Tensor:
            chance = torch.sigmoid(3 * (x @ truth).squeeze(-1))
            return torch.where(uniform(seed, variable, 0, 1, tasks, examples) < chance, 1.0, -1.0).double()

        return {"support_x": support, "support_y": labels(support, 3), "query_x": query, "query_y": labels(query, 5)}

    def constants(data: Data) -> ConvexConstants:
        x = data["support_x"].double()
        largest = _largest_moment(x)
        return ConvexConstants(
            smallest=torch.full_like(largest, strength),
            largest=largest / 4 + strength,
            hessian_lipschitz=STEEPEST * x.norm(dim=-1).amax(-1) * largest,
            outer_smoothness=_largest_moment(data["query_x"].double()) / 4,
        )

    def with_strength(strength: float) -> Problem:
        return logistic(dimension, condition, examples, strength, learning_rate)

    return Problem(
        name="logistic",
        inner_loss=proximal(loss("support"), strength),
        outer_loss=loss("query"),
        init=lambda seed: normal(seed, 6, dimension),
        sample=sample,
        strength=strength,
        learning_rate=learning_rate,
        constants=constants,
        inputs=linear_inputs(with_strength),
    )


def _largest_moment(x: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(second_moment(x))[:, -1]
