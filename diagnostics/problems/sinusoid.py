"""The sinusoid regression of MAML (Finn, Abbeel and Levine 2017) and iMAML."""

import torch
from torch import Tensor

from diagnostics.checks import at_least, one_of, positive, whole_number
from diagnostics.draws import uniform
from diagnostics.models import mlp
from diagnostics.problem import Problem, proximal
from diagnostics.problem_names import problems
from diagnostics.rows import Data

PHASES = {"maml": -1.0, "imaml": 1.0}  # y = amplitude sin(x - phase) in MAML's released code, sin(x + phase) in iMAML's


@problems.register("sinusoid")
def sinusoid(
    activation: str = "tanh",
    shots: int = 10,
    queries: int = 10,
    phase: str = "maml",
    initialisation: str = "fan_in",
    strength: float = 2.0,
    learning_rate: float = 0.01,
) -> Problem:
    """Mean squared error of an MLP 1-40-40-1 on `shots` points of a sine, plus `strength/2 |w - theta|^2`; on
    `queries` others.

    A task is an amplitude in [0.1, 5] and a phase in [0, pi]; x is uniform in [-5, 5]. `phase` names the convention:
    `maml` is sin(x - phase), `imaml` is sin(x + phase). `initialisation`: see `models.mlp`.
    """
    whole_number("sinusoid: shots", shots, 1)
    whole_number("sinusoid: queries", queries, 1)
    positive("sinusoid: learning_rate", learning_rate)
    at_least("sinusoid: strength", strength, 0)
    sign = PHASES[one_of("sinusoid: phase", phase, tuple(PHASES))]
    network = mlp((1, 40, 40, 1), activation, initialisation)

    def loss(prefix: str):
        def mean_square(w: Tensor, theta: Tensor, data: Data) -> Tensor:
            return ((network.apply(w, data[f"{prefix}_x"]) - data[f"{prefix}_y"]) ** 2).mean((-2, -1))

        return mean_square

    def sample(tasks: int, seed: int) -> dict[str, Tensor]:
        amplitude = uniform(seed, 0, 0.1, 5.0, tasks, 1, 1)
        offset = sign * uniform(seed, 1, 0.0, torch.pi, tasks, 1, 1)
        data: dict[str, Tensor] = {}
        for variable, prefix, points in ((2, "support", shots), (3, "query", queries)):
            x = uniform(seed, variable, -5.0, 5.0, tasks, points, 1)
            data |= {f"{prefix}_x": x, f"{prefix}_y": amplitude * torch.sin(x + offset)}
        return data

    return Problem(
        name="sinusoid",
        inner_loss=proximal(loss("support"), strength),
        outer_loss=loss("query"),
        init=network.init,
        sample=sample,
        strength=strength,
        learning_rate=learning_rate,
    )
