"""The same inner loop in other units: rescaling by powers of two, exact in binary floating point.

With inputs times 2^p, targets times 2^q and the outer loss times 2^s, the loop

    w' = 2^(q-p) w,    inner' = 2^(2q) inner,    step' = 2^(-2p) step,    strength' = 2^(2p) strength,
    outer' = 2^(2q+s) outer,    g' = 2^(p+q+s) g

has the states and the meta-gradient of the first, up to exponents: what differs was overflow or underflow. p brings the
inner Hessian near 1, and q the weights. s centres the norms of the adjoint, from the loop's end to its start, in the
arithmetic's range; it is all that can be chosen where the weights are not linear coefficients of the inputs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from diagnostics.inner import Optimizer, Trajectory, run_inner
from diagnostics.inputs import Inputs
from diagnostics.meta_gradient import outer_gradients
from diagnostics.one_step import sweep
from diagnostics.problem import ConvexConstants, Loss, Problem
from diagnostics.rows import Data, row_norms

COMPARED = 2  # inner steps, enough for a state beside the weights (momentum) to take part
HEADROOM = 1 / 4  # of the exponents above 1: kept free over the adjoint, for what a step back computes on its way


@dataclass(frozen=True)
class Powers:
    """Exponents of two: of the inputs, the targets and the outer loss (p, q and s above)."""

    inputs: int = 0
    targets: int = 0
    outer: int = 0


@dataclass(frozen=True)
class InUnits:
    """An inner loop in the units that `powers` states."""

    problem: Problem
    optimizer: Optimizer
    theta: Tensor
    data: Data
    powers: Powers = Powers()

    def carry_back(self, gradient: Tensor) -> Tensor:
        """The gradient in the original units, `2^-(p+q+s) g'`."""
        exponent = -(self.powers.inputs + self.powers.targets + self.powers.outer)
        half = exponent // 2  # 2^exponent itself may be out of range
        return gradient * 2.0**half * 2.0 ** (exponent - half)


def centred(problem: Problem, optimizer: Optimizer, theta: Tensor, data: Data, steps: int, tiny: float) -> InUnits:
    """The loop of `steps` from float64 numbers, in units that centre it in an arithmetic of smallest normal `tiny`.

    The adjoint's norms are found by a sweep in float64. The losses of all tasks have one scale.
    """
    room = -math.log2(tiny)  # binary arithmetics reach about as far above 1 as below
    found = _centred_weights(InUnits(problem, optimizer, theta, data), room)
    loop = run_inner(found.problem, found.optimizer, found.theta, found.data, steps)
    outer = _centring_exponent(adjoint_norms(found.problem, loop), room)
    powers = replace(found.powers, outer=outer)
    return replace(found, problem=_with_outer(found.problem, 2.0**outer), powers=powers)


def adjoint_norms(problem: Problem, trajectory: Trajectory) -> Tensor:
    """Norms `(K+1, B)` of `d outer / d state` at every state."""
    return torch.stack([row_norms(adjoint.by_state) for adjoint in sweep(problem, trajectory)]).flip(0)


def _centring_exponent(norms: Tensor, room: float) -> int:
    """The s that centres the norms about 1 or, where they span more than there is, keeps the greatest below the top."""
    seen = norms[(norms > 0) & norms.isfinite()]
    if seen.numel() == 0:
        return 0
    low, high = float(seen.min().log2()), float(seen.max().log2())
    top = (1 - HEADROOM) * room
    return math.floor(max(-top, min(top, top - high, -(low + high) / 2)))


def _centred_weights(plain: InUnits, room: float) -> InUnits:
    """The loop with its inner Hessian and weights near 1, where the problem and the optimizer allow it.

    That they do is not taken on trust: the first steps in float64, and the outer gradient after them, must be the same,
    bit for bit. An optimizer that is not homogeneous in the gradient (Adam) takes other steps in other units, a loss
    that was exchanged need not be what the inputs state, and then the units stay.
    """
    inputs = plain.problem.inputs
    if inputs is None or inputs.with_strength is None or not is_dataclass(plain.optimizer):
        return plain
    p = _input_exponent(plain, inputs, room)
    sizes = [2.0**-p * plain.theta, *(plain.data[key] for key in inputs.targets)]
    q = -_middle(torch.cat([row_norms(x.flatten(1)) / x[0].numel() ** 0.5 for x in sizes])) if inputs.targets else 0
    changed = _change_units(plain, inputs, inputs.with_strength, Powers(p, q))
    return changed if _same_loop(plain, changed) else plain


def _same_loop(plain: InUnits, changed: InUnits) -> bool:
    """Whether the first steps and the outer gradients `(by w, by theta)` after them are the same, up to exponents."""
    p, q = changed.powers.inputs, changed.powers.targets
    loops = [run_inner(x.problem, x.optimizer, x.theta, x.data, COMPARED) for x in (plain, changed)]
    before, after = (loop.states[:, :, : loop.size] for loop in loops)
    outer = [outer_gradients(x.problem, loop) for x, loop in zip((plain, changed), loops, strict=True)]
    return torch.equal(2.0 ** (q - p) * before, after) and all(
        torch.equal(2.0 ** (p + q) * one, two) for one, two in zip(*outer, strict=True)
    )


def _input_exponent(plain: InUnits, inputs: Inputs, room: float) -> int:
    """The p that brings the inner Hessian near 1, as far as inner step and strength stay within the range."""
    strength = plain.problem.strength or 0.0
    mean = inputs.moment(plain.data).diagonal(dim1=-2, dim2=-1).mean(-1)
    p = -_middle(mean.clamp(min=strength)) / 2
    for value, grows in ((plain.optimizer.learning_rate, -1), (strength, 1)):
        if value:
            middle = -grows * math.log2(abs(value)) / 2
            p = max(middle - room / 2, min(middle + room / 2, p))
    return round(p)


def _middle(sizes: Tensor) -> int:
    """The exponent halfway between the least and the greatest size that is not zero."""
    seen = sizes[sizes > 0]
    return round(float(seen.min().log2() + seen.max().log2()) / 2) if seen.numel() else 0


def _change_units(plain: InUnits, inputs: Inputs, with_strength: Callable[[float], Problem], powers: Powers) -> InUnits:
    """The loop with its inputs and targets times powers of two; the outer loss comes times 2^(2q) by itself."""
    p, q = powers.inputs, powers.targets
    problem, theta = plain.problem, plain.theta
    features = inputs.moment(plain.data).shape[-1]
    by = (2.0**p * torch.eye(features, dtype=theta.dtype, device=theta.device)).expand(len(theta), -1, -1)
    data = inputs.change(plain.data, torch.zeros_like(by[:, 0]), by)
    stronger = problem if problem.strength is None else with_strength(2.0 ** (2 * p) * problem.strength)
    step = 2.0 ** (-2 * p)
    return InUnits(
        problem=replace(
            problem,
            inner_loss=stronger.inner_loss,
            strength=stronger.strength,
            learning_rate=step * problem.learning_rate,
            minimizer=problem.minimizer and stronger.minimizer,
            constants=problem.constants and stronger.constants,
        ),
        optimizer=replace(cast(Any, plain.optimizer), learning_rate=step * plain.optimizer.learning_rate),
        theta=2.0 ** (q - p) * theta,
        data={**data, **{key: 2.0**q * data[key] for key in inputs.targets}},
        powers=powers,
    )


def _with_outer(problem: Problem, factor: float) -> Problem:
    """The problem with its outer loss times a factor."""
    loss: Loss = problem.outer_loss
    stated = problem.constants

    def outer_loss(w: Tensor, theta: Tensor, data: Data) -> Tensor:
        return factor * loss(w, theta, data)

    def constants(data: Data) -> ConvexConstants:
        found = cast(Callable[[Data], ConvexConstants], stated)(data)
        return replace(found, outer_smoothness=factor * found.outer_smoothness)

    return replace(problem, outer_loss=outer_loss, constants=stated and constants)
