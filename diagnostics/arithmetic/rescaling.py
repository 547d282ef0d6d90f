"""The same problem with rescaled data: would a gradient still be unstable, in the same inner loop?

`standardize`, `whiten` and `scale:<factor>` replace the inputs by `x' = (x - shift) M` and start at the weights that
compute the same function on them (see `inputs`). M gives every feature the second moment 1, all of them the identity
for a moment, or a factor; a model without an intercept (linear and logistic regression) cannot undo a shift, so that
its moment is about zero and nothing is shifted. Inner step and strength stay: it is *another* problem, with its own
exact gradient, and in the old coordinates its inner loop is preconditioned by M M'. Where the weights undo the map,
theta' = S theta + constant, its gradient is carried back by g = S' g', so that the two can be compared.

`power_of_two` is the *same* loop in other units (see the module of that name), and so is `loss_scale:<factor>`, which
multiplies the losses alone by a power of two, as is usual in training: what they change was overflow or underflow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from diagnostics.arithmetic.low import scaled_losses
from diagnostics.arithmetic.power_of_two import Powers, centred
from diagnostics.checks import positive
from diagnostics.inner import Optimizer
from diagnostics.inputs import Inputs
from diagnostics.problem import Problem
from diagnostics.registry import unknown
from diagnostics.rows import Data

RESCALINGS = ("none", "power_of_two", "standardize", "whiten", "scale:<factor>", "loss_scale:<factor>")
WITH_FACTOR = ("scale", "loss_scale")
CONSTANT = 2.0**-40  # a spread below this part of the mean is the mean's rounding: the feature is constant
SINGULAR = 2.0**-50  # least eigenvalue of a moment, relative to the greatest, that float64 tells from zero


@dataclass(frozen=True)
class Rescaled:
    """A rescaled problem: run `optimizer` on `problem` from `theta` with `data`, float64 as yet, in any arithmetic.

    `carry_back` takes a gradient `(B, P)` of it, back in float64, to the original coordinates and units; None where the
    rescaling is no change of variables.
    """

    problem: Problem
    optimizer: Optimizer
    theta: Tensor
    data: Data
    carry_back: Callable[[Tensor], Tensor] | None
    powers: Powers = Powers()


def parse(name: str) -> tuple[str, float]:
    """The kind of rescaling that a name stands for, and its factor (1 for those without).

    Raises `ValueError` for an unknown name, with the nearest known, and for a factor that is no finite number > 0.
    """
    kind, colon, factor = name.partition(":")
    if kind not in WITH_FACTOR or not colon:
        if name not in RESCALINGS[: -len(WITH_FACTOR)]:
            raise ValueError(unknown("rescaling", name, RESCALINGS))
        return name, 1.0
    try:
        return kind, positive(f"rescaling {kind}:<factor>", float(factor))
    except ValueError:
        raise ValueError(f"rescaling: expected {kind}:<factor> with a finite factor > 0, found {name!r}") from None


def rescale(
    name: str,
    problem: Problem,
    optimizer: Optimizer,
    theta: Tensor,
    data: Data,
    steps: int = 0,
    tiny: float = torch.finfo(torch.float32).tiny,
) -> Rescaled:
    """The problem, its inner step, `theta (B, P)` and data under the rescaling called `name`.

    `theta` and the data are float64. `steps` is the longest loop that will be run, `tiny` the smallest normal number of
    the arithmetic that will run it; only `power_of_two` looks at them. Raises `ValueError` for an unknown name, for
    inputs that the problem does not state or that cannot be rescaled so, and for numbers that are not float64 or not
    finite, before or after.
    """
    kind, factor = parse(name)
    _check_numbers(f"{name}: problem {problem.name!r}", theta, data)
    if kind == "none":
        return Rescaled(problem, optimizer, theta, data, lambda g: g)
    if kind == "loss_scale":
        return Rescaled(scaled_losses(problem, factor), optimizer, theta, data, lambda g: g / factor)
    if kind == "power_of_two":
        units = centred(problem, optimizer, theta, data, steps, tiny)
        return Rescaled(units.problem, units.optimizer, units.theta, units.data, units.carry_back, units.powers)
    inputs = problem.inputs
    if inputs is None:
        raise ValueError(
            f"{name}: problem {problem.name!r} does not state its inputs; state them with "
            "dataclasses.replace(problem, inputs=diagnostics.inputs.Inputs(...)), or use power_of_two"
        )
    moment = inputs.moment(data)
    shift = torch.zeros_like(moment[:, 0])
    if kind == "scale":
        by = factor * torch.eye(moment.shape[1], dtype=moment.dtype, device=moment.device).expand_as(moment)
    else:
        shift = shift if inputs.centre is None else inputs.centre(data)
        by = (_standardizing if kind == "standardize" else _whitening)(problem, moment, shift)
    return _changed(name, problem, inputs, optimizer, theta, data, shift, by)


def _changed(
    name: str,
    problem: Problem,
    inputs: Inputs,
    optimizer: Optimizer,
    theta: Tensor,
    data: Data,
    shift: Tensor,
    by: Tensor,
) -> Rescaled:
    """The problem on the inputs `(x - shift) M`."""
    there = inputs.absorb(theta, shift, by)
    changed = inputs.change(data, shift, by)
    _check_numbers(f"{name}: problem {problem.name!r}, rescaled", theta if there is None else there, changed)

    def carry_back(gradient: Tensor) -> Tensor:
        at = theta.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(cast(Tensor, inputs.absorb(at, shift, by)), at, gradient)[0]

    if there is None:
        return Rescaled(problem, optimizer, theta, changed, None)
    return Rescaled(problem, optimizer, there, changed, carry_back)


def _standardizing(problem: Problem, moment: Tensor, centre: Tensor) -> Tensor:
    """The diagonal M `(B, d, d)` that gives every feature the second moment 1 about the centre."""
    spread = moment.diagonal(dim1=-2, dim2=-1).sqrt()
    constant = ~(spread > CONSTANT * centre.abs())  # also NaN, of a diagonal below zero
    if constant.any():
        task, feature = constant.nonzero()[0].tolist()
        raise ValueError(
            f"standardize: expected inputs that vary, found problem {problem.name!r} with feature {feature} constant "
            f"in task {task}; leave the feature out, or use more examples"
        )
    return torch.diag_embed(1 / spread)


def _whitening(problem: Problem, moment: Tensor, centre: Tensor) -> Tensor:
    """The symmetric M = moment^(-1/2) `(B, d, d)`, so that M' moment M is the identity."""
    if problem.inputs is not None and problem.inputs.alike:
        raise ValueError(
            f"whiten: the inputs of problem {problem.name!r} have too few examples of too many features for a second "
            "moment; use standardize"
        )
    values, vectors = torch.linalg.eigh(moment)
    singular = ~(values[:, 0] > SINGULAR * values[:, -1]) | ~(values[:, -1].sqrt() > CONSTANT * centre.norm(dim=-1))
    if singular.any():
        task = int(singular.nonzero()[0])
        raise ValueError(
            f"whiten: expected a second moment of the inputs that can be inverted, found problem {problem.name!r} with "
            f"eigenvalues from {values[task, 0]:.3g} to {values[task, -1]:.3g} in task {task}; use standardize, or "
            "more examples"
        )
    return (vectors * values.rsqrt().unsqueeze(1)) @ vectors.mT


def _check_numbers(what: str, theta: Tensor, data: Data) -> None:
    """Raise where a number is not float64, or not finite."""
    for name, x in {"theta": theta, **{f"data[{key!r}]": x for key, x in data.items()}}.items():
        if x.is_floating_point() and x.dtype != torch.float64:
            raise ValueError(
                f"{what}: expected float64, which enters an arithmetic afterwards, found {x.dtype} in {name}"
            )
        if not x.isfinite().all():
            raise ValueError(f"{what}: expected finite numbers, found NaN or infinity in {name}")
