"""The cosines of the implicit gradient over inner steps and CG iterations, and what can be said of them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analyses.summary import UNIT, paired_change, summarise

WORTH_TELLING = 0.005  # a smaller change of a cosine is called no change


@dataclass(frozen=True)
class Cosines:
    """Medians with intervals of one case's cosines to one target, by one solver.

    `rows` are the measurements, `table` their summary with the index (inner_steps, iterations).
    """

    rows: pd.DataFrame
    table: pd.DataFrame

    @staticmethod
    def of(rows: pd.DataFrame, method: str, target: str) -> "Cosines":
        """Those among the rows of one case in one arithmetic."""
        return Cosines._of(rows[(rows["method"] == method) & (rows["target"] == target) & rows["iterations"].notna()])

    @staticmethod
    def _of(rows: pd.DataFrame) -> "Cosines":
        table = summarise(rows, ["inner_steps", "iterations"], ["cosine"])
        return Cosines(rows, table.set_index(["inner_steps", "iterations"]))

    def only(self, chosen: pd.Series) -> "Cosines":
        """The same over some of the rows."""
        return Cosines._of(self.rows[chosen])

    def tasks(self, steps: float) -> int:
        """How many tasks were measured after so many steps."""
        return len(self.rows.loc[self.rows["inner_steps"] == steps, list(UNIT)].drop_duplicates())

    @property
    def known(self) -> bool:
        """Whether there is any number."""
        return bool(self.table["cosine"].notna().any())

    def steps(self) -> list[float]:
        """The numbers of inner steps at which there are numbers."""
        known = self.table[self.table["cosine"].notna()]
        return sorted(set(known.index.get_level_values("inner_steps")))

    def iterations(self) -> list[float]:
        """The numbers of iterations."""
        return sorted(set(self.table.index.get_level_values("iterations")))

    def at(self, steps: float, iterations: float) -> tuple[float, float, float]:
        """Median and interval of one cell; NaN where it was not measured."""
        if (steps, iterations) not in self.table.index:
            return (np.nan, np.nan, np.nan)
        row = self.table.index.get_loc((steps, iterations))
        cells = self.table[["cosine", "cosine_low", "cosine_high"]].to_numpy(dtype=float)
        middle, low, high = cells[row].tolist()
        return middle, low, high

    def best(self, steps: float) -> float:
        """The number of iterations with the highest median cosine after so many steps; the fewest of several."""
        medians = [self.at(steps, count)[0] for count in self.iterations()]
        return self.iterations()[int(np.nanargmax(medians))]

    def hurts(self, steps: float) -> bool:
        """Whether going on from the best to the most iterations lowers the cosine, task by task and beyond chance.

        The interval is that of the paired change; with too few tasks for one the median alone decides.
        """
        best, most = self.best(steps), self.iterations()[-1]
        if best == most or self.at(steps, best)[0] - self.at(steps, most)[0] < WORTH_TELLING:
            return False
        change = self.change(steps, best, most)
        upper = change[0] if np.isnan(change[2]) else change[2]
        return upper < 0

    def helps(self, steps: float) -> bool:
        """Whether the most iterations beat the fewest beyond chance."""
        few, most = self.iterations()[0], self.iterations()[-1]
        change = self.change(steps, few, most)
        lower = change[0] if np.isnan(change[1]) else change[1]
        return lower > 0 and self.at(steps, most)[0] - self.at(steps, few)[0] >= WORTH_TELLING

    def change(self, steps: float, before: float, after: float) -> tuple[float, float, float]:
        """Median and interval of the change of each task's cosine between two numbers of iterations."""
        here = self.rows["inner_steps"] == steps
        found = paired_change(
            self.rows, here & (self.rows["iterations"] == before), here & (self.rows["iterations"] == after), "cosine"
        )
        middle, low, high = (float(found["change" + end].iloc[0]) for end in ("", "_low", "_high"))
        return middle, low, high

    def reaches(self, level: float) -> tuple[float, float] | None:
        """The fewest steps, and then iterations, from which on every larger setting keeps a median of `level`."""
        grid = self.table["cosine"].unstack("iterations").sort_index().sort_index(axis=1)
        good = (grid.to_numpy() >= level).astype(bool)
        kept = np.logical_and.accumulate(np.logical_and.accumulate(good[::-1, ::-1], axis=0), axis=1)[::-1, ::-1]
        places = np.argwhere(kept)
        if not len(places):
            return None
        row, column = places[0]
        return grid.index.to_numpy(dtype=float)[row].item(), grid.columns.to_numpy(dtype=float)[column].item()
