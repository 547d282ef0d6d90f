"""What an analysis is: the cells of work that it needs, how one is measured, and its view of the rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from analyses.settings import Settings, fingerprint
from diagnostics.registry import Registry


@dataclass(frozen=True)
class Cell:
    """A pure function's name and its JSON arguments; equal cells, of whichever analyses, are measured once."""

    measurement: str
    spec: Mapping[str, Any]

    @staticmethod
    def of(measurement: str, spec: Any) -> "Cell":
        """A cell whose arguments are a frozen dataclass of plain values."""
        return Cell(measurement, asdict(spec))

    @property
    def key(self) -> str:
        """The hash that stands for this cell in a store."""
        return fingerprint({"measurement": self.measurement, "spec": self.spec})

    @property
    def name(self) -> str:
        """What a user knows this cell by."""
        told = [self.spec.get(key, "none") for key in ("problem", "method", "precision", "scaling")]
        known = [str(value) for value in told if value != "none"]
        known += [f"{self.spec['inner_steps']} inner steps"] if "inner_steps" in self.spec else []
        return ", ".join([*known, f"seed {self.spec.get('seed')}"])


@dataclass(frozen=True)
class Analysis:
    """`cells(settings)` is the work; `view(rows)` the table, from the rows of all that was measured."""

    questions: tuple[str, ...]
    about: str
    cells: Callable[[Settings], Sequence[Cell]]
    view: Callable[[pd.DataFrame], pd.DataFrame]


Rows = list[dict[str, object]]

analyses: Registry[Analysis] = Registry("analysis", "analyses")
measurements: Registry[Callable[[Mapping[str, Any]], Rows]] = Registry("measurement", "analyses")
