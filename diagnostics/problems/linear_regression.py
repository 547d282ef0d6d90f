"""Linear regression: the synthetic problem of the iMAML paper's figure on accuracy, with its size and conditioning as
parameters.

The paper does not state the dimension or the condition number that it used, so this does not claim to be its figure.
"""

import torch
from torch import Tensor

from diagnostics.checks import at_least, positive, whole_number
from diagnostics.draws import conditioned_inputs, normal
from diagnostics.inputs import linear_inputs, second_moment
from diagnostics.problem import ConvexConstants, Problem, proximal
from diagnostics.problem_names import problems
from diagnostics.rows import Data


@problems.register("linear_regression")
def linear_regression(
    dimension: int = 20,
    condition: float = 100.0,
    examples: int = 40,
    noise: float = 0.1,
    strength: float = 0.1,
    learning_rate: float = 0.5,
) -> Problem:
    """Least squares `mean (x'w - y)^2 / 2` on the support examples, plus `strength/2 |w - theta|^2`; the same on the
    query's.

    The inputs of both sets have the second moment `X'X/n` with `dimension` eigenvalues from 1/condition to 1, in a
    basis of each task's own; `y = x'v + noise`, with v a task's own standard normal vector. Needs `examples >=
    dimension`.
    """
    whole_number("linear_regression: dimension", dimension, 1)
    whole_number("linear_regression: examples", examples, dimension)
    positive("linear_regression: learning_rate", learning_rate)
    at_least("linear_regression: strength", strength, 0)
    at_least("linear_regression: noise", noise, 0)
    at_least("linear_regression: condition", condition, 1)

    def loss(prefix: str):
        def mean_square(w: Tensor, theta: Tensor, data: Data) -> Tensor:
            error = (data[f"{prefix}_x"] @ w.unsqueeze(-1)).squeeze(-1) - data[f"{prefix}_y"]
            return 0.5 * (error**2).mean(-1)

        return mean_square

    def sample(tasks: int, seed: int) -> dict[str, Tensor]:
        support, query = conditioned_inputs(seed, (0, 2, 4), tasks, examples, dimension, condition)
        truth = normal(seed, 1, tasks, dimension, 1)

        def answers(x: Tensor, variable: int) -> Tensor:
            return (x @ truth).squeeze(-1) + noise * normal(seed, variable, tasks, examples)

        return {
            "support_x": support,
            "support_y": answers(support, 3),
            "query_x": query,
            "query_y": answers(query, 5),
        }

    def minimizer(theta: Tensor, data: Data) -> Tensor:
        x, y = data["support_x"], data["support_y"].unsqueeze(-1)
        regular = second_moment(x) + strength * torch.eye(dimension, dtype=theta.dtype, device=theta.device)
        return torch.linalg.solve(regular, (x.mT @ y / examples).squeeze(-1) + strength * theta)

    def constants(data: Data) -> ConvexConstants:
        values = torch.linalg.eigvalsh(second_moment(data["support_x"].double()))
        return ConvexConstants(
            smallest=values[:, 0] + strength,
            largest=values[:, -1] + strength,
            hessian_lipschitz=torch.zeros_like(values[:, 0]),
            outer_smoothness=torch.linalg.eigvalsh(second_moment(data["query_x"].double()))[:, -1],
        )

    def with_strength(strength: float) -> Problem:
        return linear_regression(dimension, condition, examples, noise, strength, learning_rate)

    return Problem(
        name="linear_regression",
        inner_loss=proximal(loss("support"), strength),
        outer_loss=loss("query"),
        init=lambda seed: normal(seed, 6, dimension),
        sample=sample,
        strength=strength,
        learning_rate=learning_rate,
        minimizer=minimizer,
        constants=constants,
        inputs=linear_inputs(with_strength, targets=("support_y", "query_y")),
    )
