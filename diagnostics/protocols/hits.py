"""Which queries are classified rightly, from the scores of a batch of episodes."""

import torch
from torch import Tensor

from diagnostics.arithmetic.extended import rounded


def hits(scores: Tensor, labels: Tensor) -> Tensor:
    """The credit `(B, Q)` in float64 for scores `(B, Q, C)` and labels `(B, Q)`: 1 if the label scores highest, else 0.

    m classes that tie for the highest score share it, 1/m each: what choosing one of them at random earns on average.
    So a constant classifier earns 1/C whatever the order of the classes, which an argmax does not give, and the many
    ties of 8-bit arithmetic favour nobody. Scores that are NaN earn nothing.
    """
    numbers = rounded(scores).double()
    highest = numbers == numbers.amax(-1, keepdim=True)
    credit = highest.double() / highest.sum(-1, keepdim=True).clamp(min=1)
    return credit.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def accuracy(scores: Tensor, labels: Tensor) -> Tensor:
    """The mean credit `(B,)` of each episode's queries; arguments as in `hits`."""
    return hits(scores, labels).mean(-1)


def votes(scores: Tensor) -> Tensor:
    """The mean of the class probabilities softmax(s) over the first dimension: `(P, B, Q, C) -> (B, Q, C)`, float64."""
    return torch.softmax(rounded(scores).double(), -1).mean(0)
