"""A quadratic with a chosen spectrum: everything about it is known in closed form."""

import torch
from torch import Tensor

from diagnostics.checks import at_least, positive, whole_number
from diagnostics.draws import normal, orthonormal, spectrum
from diagnostics.inputs import Inputs
from diagnostics.problem import ConvexConstants, Problem, proximal
from diagnostics.problem_names import problems
from diagnostics.rows import Data


@problems.register("quadratic")
def quadratic(
    dimension: int = 20, condition: float = 100.0, strength: float = 0.1, learning_rate: float = 0.5
) -> Problem:
    """Inner loss `w'Aw/2 - b'w + strength/2 |w - theta|^2`, outer loss `(w - c)'C(w - c)/2`.

    A has `dimension` eigenvalues from 1/condition to 1 in a random basis of its own for each task; C likewise, with
    eigenvalues from 1/2 to 1, so that it does not commute with A. The minimiser is `(A + strength I)^-1 (b + strength
    theta)`.
    """
    whole_number("quadratic: dimension", dimension, 1)
    at_least("quadratic: condition", condition, 1)
    positive("quadratic: learning_rate", learning_rate)
    at_least("quadratic: strength", strength, 0)

    def inner(w: Tensor, theta: Tensor, data: Data) -> Tensor:
        return (w * (0.5 * _times(data["A"], w) - data["b"])).sum(-1)

    def outer(w: Tensor, theta: Tensor, data: Data) -> Tensor:
        away = w - data["c"]
        return 0.5 * (away * _times(data["C"], away)).sum(-1)

    def sample(tasks: int, seed: int) -> dict[str, Tensor]:
        return {
            "A": _with_spectrum(orthonormal(seed, 0, tasks, dimension, dimension), spectrum(dimension, condition)),
            "C": _with_spectrum(orthonormal(seed, 1, tasks, dimension, dimension), spectrum(dimension, 2.0)),
            "b": normal(seed, 2, tasks, dimension),
            "c": normal(seed, 3, tasks, dimension),
        }

    def minimizer(theta: Tensor, data: Data) -> Tensor:
        regular = data["A"] + strength * torch.eye(dimension, dtype=theta.dtype, device=theta.device)
        return torch.linalg.solve(regular, data["b"] + strength * theta)

    def constants(data: Data) -> ConvexConstants:
        values = torch.linalg.eigvalsh(data["A"].double())
        return ConvexConstants(
            smallest=values[:, 0] + strength,
            largest=values[:, -1] + strength,
            hessian_lipschitz=torch.zeros_like(values[:, 0]),
            outer_smoothness=torch.linalg.eigvalsh(data["C"].double())[:, -1],
        )

    return Problem(
        name="quadratic",
        inner_loss=proximal(inner, strength),
        outer_loss=outer,
        init=lambda seed: normal(seed, 4, dimension),
        sample=sample,
        strength=strength,
        learning_rate=learning_rate,
        minimizer=minimizer,
        constants=constants,
        inputs=Inputs(
            moment=lambda data: data["A"],
            change=_change,
            absorb=lambda w, shift, by: torch.linalg.solve(by, w),
            with_strength=lambda strength: quadratic(dimension, condition, strength, learning_rate),
            targets=("b", "c"),
        ),
    )


def _with_spectrum(basis: Tensor, values: Tensor) -> Tensor:
    matrix = (basis * values) @ basis.mT
    return (matrix + matrix.mT) / 2


def _change(data: Data, shift: Tensor, by: Tensor) -> Data:
    """The quadratic in the coordinates `M^-1 w`, as of inputs whose second moment is A; it has no inputs to shift."""
    square = {key: by.mT @ data[key] @ by for key in ("A", "C")}
    return {
        **{key: (value + value.mT) / 2 for key, value in square.items()},
        "b": _times(by.mT, data["b"]),
        "c": torch.linalg.solve(by, data["c"]),
    }


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
