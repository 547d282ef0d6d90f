"""The sinusoid regression of MAML (Finn, Abbeel and Levine 2017) and iMAML."""

import torch
from torch import Tensor

from diagnostics.checks import at_least, one_of, positive, whole_number
from diagnostics.draws import uniform
from diagnostics.inputs import Inputs, change_x, second_moment
from diagnostics.models import mlp
from diagnostics.problem import Problem, proximal
from diagnostics.problem_names import problems
from diagnostics.rows import Data

HIDDEN = 40
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
    network = mlp((1, HIDDEN, HIDDEN, 1), activation, initialisation)

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
        inputs=Inputs(
            moment=lambda data: second_moment(data["support_x"] - _centre(data).unsqueeze(1)),
            change=change_x,
            absorb=_absorb,
            centre=_centre,
        ),
    )


def _centre(data: Data) -> Tensor:
    return data["support_x"].mean(1)


def _absorb(w: Tensor, shift: Tensor, by: Tensor) -> Tensor:
    """The first layer alone meets the input x: its weights are divided, and its biases take up the shift."""
    weights, biases, others = w.split([HIDDEN, HIDDEN, w.shape[1] - 2 * HIDDEN], dim=1)
    return torch.cat([weights / by.squeeze(-1), biases + weights * shift, others], dim=1)
