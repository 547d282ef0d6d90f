"""Where a training run has come to: everything that its end depends on, and what it has seen on the way."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diagnostics.training.probe import Probe

PROBE_COLUMNS = (
    "iteration", "task", "stationary", "cosine", "cosine_distance", "relative_error", "norm_ratio", "digits",
    "uncertainty", "stationarity", "outcome", "extended",
)  # fmt: skip


@dataclass(frozen=True)
class Best:
    """The theta `(P,)` with the best validation so far, and after how many iterations that was."""

    theta: Tensor
    iteration: int
    score: float


@dataclass
class Progress:
    """A run after `iteration` outer steps. It is changed in place: the records grow by one each iteration.

    `theta (P,)` and the outer optimizer's `moments` are what the next step starts from. `losses`, `norms` (of the
    gradient before clipping), `warned` (tasks whose outcome is not OK) and `seconds` (of training alone, added up, by
    the processor's clock on a CPU) have one number an iteration. `validations` are (iteration, mean loss, mean
    accuracy, tasks without a loss); `probes` the rows of `PROBE_COLUMNS`, task -1 for the mean gradient. `diverged_at`
    is the iteration that could not be made, or -1.
    """

    iteration: int
    theta: Tensor
    moments: dict[str, Tensor]
    best: Best
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    warned: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    validations: list[tuple[float, ...]] = field(default_factory=list)
    probes: list[tuple[float, ...]] = field(default_factory=list)
    diverged_at: int = -1

    @property
    def spent(self) -> float:
        """Seconds of training so far."""
        return self.seconds[-1] if self.seconds else 0.0

    def keep_probe(self, found: tuple[Probe, ...]) -> None:
        """Add the rows of a probe that was made now."""
        for one in found:
            names = ("cosine", "cosine_distance", "relative_error", "norm_ratio", "digits")
            columns = [getattr(one.distance, name) for name in names]
            columns += [one.uncertainty, one.stationarity, one.outcome]
            tasks = len(one.outcome) - 1
            for row, values in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
                task, stationary = (row if row < tasks else -1), float(one.target == "stationary")
                exact = float(one.reference == "extended")
                self.probes.append((self.iteration, task, stationary, *map(float, values), exact))


def table(rows: list[tuple[float, ...]], columns: int) -> NDArray[np.float64]:
    """Rows as an array `(n, columns)`, for no rows as well."""
    return np.array(rows, dtype=np.float64).reshape(-1, columns)
