"""Outcomes: what became of one task's computation, batched as integer codes, each with advice for the user."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # figures read the advice, and do without torch
    from torch import Tensor


class Outcome(Enum):
    """What happened, and what to do about it; in order of gravity, so that the graver of two is their maximum."""

    OK = ("ok", "")
    UNRESOLVED = (
        "unresolved",
        "The error is not 100 times larger than the difference of two settings of the reference, so only its size can "
        "be trusted; let the reference be computed in extended precision (reference_seconds).",
    )
    UNFINISHED = (
        "solver unfinished",
        "The linear solver used all its iterations before it met its tolerance; allow more iterations.",
    )
    INDEFINITE = (
        "indefinite",
        "The inner Hessian has a negative eigenvalue here, so this is no minimum and the implicit formula does not "
        "apply; take more inner steps or a larger strength.",
    )
    NEGATIVE_CURVATURE = (
        "negative curvature",
        "The linear solver met a direction of negative curvature: the inner Hessian is indefinite and the implicit "
        "formula does not apply; take more inner steps or a larger strength.",
    )
    UNDERFLOW = (
        "underflow",
        "A gradient fell below the smallest normal number of the arithmetic and lost its digits, or vanished; scale "
        "the loss (power_of_two does it exactly) or use an arithmetic of wider range.",
    )
    SINGULAR = ("singular", "The inner Hessian is singular to working precision; add damping or a larger strength.")
    SOLVER_DIVERGED = (
        "solver diverged",
        "The linear solver's terms grow, since its step is too long for the largest curvature; take a smaller step, or "
        "none, and it is chosen.",
    )
    UNSOLVED = (
        "no exact solve",
        "The linear system here was not solved to rounding within its iterations, so there is no exact solve to "
        "compare with; allow more exact_iterations.",
    )
    NOT_STATIONARY = (
        "no minimiser",
        "No minimiser was reached from where the inner loop ended, so there is no stationary gradient to compare "
        "with; take more inner steps, or smooth the loss (relu and max-pool have kinks).",
    )
    REPLAY_DIFFERS = (
        "replay differs",
        "The loop that was rerun for its graph left the recorded states; the inner loss is not deterministic.",
    )
    NOT_FINITE = ("not finite", "The gradient overflowed or is not a number although the inner loop is finite.")
    DIVERGED = ("diverged", "The inner loop overflowed; take a smaller inner step.")
    TOO_LARGE = (
        "too large",
        "It was not tried, since by its costs on one task it would take more memory or time than there is; take fewer "
        "tasks or inner steps, an estimator that keeps less (unrolled_adjoint, checkpointed, implicit), or allow more "
        "(largest_bytes, longest_seconds).",
    )
    KILLED = (
        "killed",
        "It was given up, since four processes died one after the other while measuring it, most likely for want of "
        "memory; give each worker more (fewer workers), ask for fewer tasks at a time (chunk), or try again "
        "(--retry-killed).",
    )

    def __init__(self, label: str, advice: str) -> None:
        """Give the member its short label and its advice."""
        self.label = label
        self.advice = advice

    @property
    def code(self) -> int:
        """The integer that stands for this outcome in a tensor; larger is graver."""
        return _CODES[self]

    @property
    def failed(self) -> bool:
        """Whether there is no number that means anything (as against a number with a warning)."""
        return self.code >= Outcome.SINGULAR.code


_MEMBERS = tuple(Outcome)
_CODES = {outcome: code for code, outcome in enumerate(_MEMBERS)}


def decode(codes: Tensor) -> list[Outcome]:
    """The outcomes that a flat tensor of codes stands for."""
    return [_MEMBERS[code] for code in codes.flatten().tolist()]


def where(condition: Tensor, outcome: Outcome) -> Tensor:
    """Codes `(...)`: `outcome` where the condition holds, `OK` elsewhere."""
    return condition.long() * outcome.code  # OK is 0


def graver(*codes: Tensor) -> Tensor:
    """The graver outcome, element by element, of tensors of codes that broadcast."""
    worst = codes[0]
    for other in codes[1:]:
        worst = worst.maximum(other)
    return worst
