"""What was measured where the inner loops ended: how stationary, how curved, and in how many tasks something failed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analyses.summary import UNIT, summarise
from figures.table_view import finest

PLACE = ["case", "inner_steps"]
MEASURED = ("stationarity", "min_eigenvalue", "max_eigenvalue")
FLAGS = {"broke_down": "negative curvature", "no_minimiser": "no minimiser", "diverged": "diverged"}


def ends(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each case and number of steps, in the finest arithmetic: medians with intervals, and counts of tasks.

    Columns: `tasks`, the medians of `MEASURED` and of `step_curvature` (inner step times largest eigenvalue), and how
    many tasks are `indefinite`, have `broke_down` in CG, have `no_minimiser` or have `diverged`.
    """
    rows = finest(frame[~frame["theory"]])
    unit = [*PLACE, *UNIT]
    rows = rows.assign(
        **{flag: rows["outcome"].eq(outcome).to_numpy(dtype=bool) for flag, outcome in FLAGS.items()},
        **{name: _column(rows, name) for name in (*MEASURED, "inner_lr")},
    )
    counted = [*FLAGS, "indefinite"]
    first = rows.drop_duplicates(unit).set_index(unit)
    any_row = rows.groupby(unit, sort=False)[counted].any()
    one = first.drop(columns=counted).join(any_row).reset_index()
    one = one.assign(step_curvature=one["inner_lr"] * one["max_eigenvalue"])
    table = summarise(one, PLACE, [*MEASURED, "step_curvature"]).rename(columns={"rows": "tasks"})
    return table.merge(one.groupby(PLACE, as_index=False)[counted].sum(), on=PLACE)


@dataclass(frozen=True)
class Ends:
    """The same for one case, asked for by the number of steps."""

    table: pd.DataFrame

    @staticmethod
    def of(table: pd.DataFrame, case: str) -> "Ends":
        """Those of `case` in what `ends` gives."""
        return Ends(table[table["case"] == case].set_index("inner_steps").sort_index())

    def steps(self) -> list[float]:
        """The numbers of steps, ascending."""
        return self.table.index.to_numpy(dtype=float).tolist()

    def where(self, holds: Callable[[float], bool]) -> "Ends":
        """Those numbers of steps for which it holds."""
        return Ends(self.table[[holds(count) for count in self.steps()]])

    def count(self, what: str, steps: float) -> int:
        """In how many tasks, after so many steps."""
        return int(self.table[what][steps])

    def median(self, what: str, steps: float) -> tuple[float, float, float]:
        """The median of a measure after so many steps, and its interval."""
        middle, low, high = (float(self.table[what + end][steps]) for end in ("", "_low", "_high"))
        return middle, low, high


def _column(rows: pd.DataFrame, name: str) -> np.ndarray:
    if name not in rows:
        return np.full(len(rows), np.nan)
    return rows[name].to_numpy(dtype=float, na_value=np.nan)
