"""What a study of rounding measured, task by task: each rounding error beside the difference that it might explain.

With u and i the unrolled (MAML) and the implicit (iMAML) gradient of one loop in exact arithmetic, and u~ and i~ the
same two computed in an arithmetic, rounding makes up these shares of the difference between the two methods:

    |u~ - u| / |i - u|   for MAML        |i~ - i| / |i - u|   for iMAML

The table has |u~ - u|/|u|, |i~ - i|/|i|, |i - u|/|u| and |i|/|u|, so that shares are formed within each task, and only
then summed up over tasks.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from analyses.summary import UNIT, summarise
from figures.ends import Ends, ends
from figures.table_view import FINEST_FIRST, SETTINGS, cases, precisions, view
from figures.wording import listed

MAML, IMAML, MODEL = "unrolled_adjoint", "cg_unchecked", "predicted_rounding"
NAMES = {MAML: "MAML", IMAML: "iMAML"}
ROUNDING, STATIONARY, DIFFERENCE = "exact_arithmetic", "stationary", "unrolled"  # targets, by what they tell here
COLUMNS = (
    "solver", "solver_iterations", "target", "relative_error", "min_eigenvalue", "outcome_step", "growth_rate",
    "reference", "reference_uncertainty", "norm_ratio",
)  # fmt: skip
GONE = ("diverged", "not finite")  # outcomes that leave no number, since overflow took it
FAILURES = (*GONE, "underflow")
TOLD_BY = 100.0  # errors that are not so many times the reference's uncertainty are not told by it
CELL = ["case", "target", "method", "precision", "exact", "iterations", "inner_steps"]


def study(frame: pd.DataFrame, figure: str) -> pd.DataFrame:
    """The rows of both methods and of the model, with what each task's other rows say of them.

    Of iMAML only the rows with the most CG iterations of each case. New columns: `exact`, whether the row's arithmetic
    is the reference's; `moved`, the rounding error, infinite where the arithmetic alone overflows; `share`, that of the
    difference; `change`, |e~ - e|/e for the distances e~ and e to the stationary gradient in the arithmetic and in the
    exact one; `own_difference`, |i - u|/|i|; `untold`, whether the rounding error is too small for the reference.
    """
    rows = view(_of_the_finest_reference(frame), COLUMNS, figure)
    implicit = rows["method"] == IMAML
    most = rows.assign(most=rows["iterations"].where(implicit)).groupby("case")["most"].transform("max")
    exact = rows["precision"].eq(rows["reference"]).fillna(False).to_numpy(dtype=bool)
    kept = rows["method"].isin([MAML, MODEL]) | implicit & (rows["iterations"] == most)
    kept &= rows["target"].isin([ROUNDING, STATIONARY]) | implicit & rows["target"].eq(DIFFERENCE)
    return _paired(rows.assign(exact=exact)[kept])


def _of_the_finest_reference(frame: pd.DataFrame) -> pd.DataFrame:
    """A task that two studies share counts once, and with one reference."""
    if not {"problem", "seed", "task", "reference"} <= set(frame.columns):
        return frame  # `view` says what is wanting
    same = [name for name in ("problem", *SETTINGS, *UNIT) if name in frame]
    rank = frame["reference"].map({name: place for place, name in enumerate(FINEST_FIRST)})
    best = frame.assign(rank=rank).groupby(same, dropna=False)["rank"].transform("min")
    return frame[rank.isna() | (rank == best)]


def _paired(rows: pd.DataFrame) -> pd.DataFrame:
    place = ["case", *UNIT, "inner_steps"]
    measures = {"relative_error": "difference", "norm_ratio": "length"}
    apart = (
        rows[rows["exact"] & (rows["target"] == DIFFERENCE)].set_index(place)[list(measures)].rename(columns=measures)
    )
    settled = rows[rows["exact"] & (rows["target"] == STATIONARY)].set_index([*place, "method"])["relative_error"]
    rows = rows.join(apart, on=place).join(settled.rename("settled"), on=[*place, "method"])
    rounding = rows["target"].eq(ROUNDING) & ~rows["theory"]
    # Where one arithmetic overflows and another does not, rounding has moved the gradient infinitely far.
    gone = rows["outcome"].isin(GONE)
    held = (~gone).groupby([rows[name] for name in (*place, "method")]).transform("any")
    error = rows["relative_error"].where(~gone | ~held, np.inf)
    in_u = error * rows["length"].where(rows["method"] == IMAML, 1.0)
    compared = rows["target"].eq(STATIONARY) & ~rows["exact"]
    return rows.assign(
        moved=error.where(rounding),
        share=(in_u / rows["difference"]).where(rounding),
        change=((error - rows["settled"]).abs() / rows["settled"]).where(compared),
        own_difference=(rows["difference"] / rows["length"]).where(rows["exact"] & (rows["target"] == DIFFERENCE)),
        untold=rounding & (rows["relative_error"] < TOLD_BY * rows["reference_uncertainty"]),
    )


def medians(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each cell of a study: medians over tasks of errors, shares, changes and growth rates."""
    return summarise(rows, CELL, ["relative_error", "moved", "share", "change", "own_difference", "growth_rate"])


def coarsest_first(rows: pd.DataFrame) -> list[str]:
    """The arithmetics whose rounding errors were measured, the coarsest first."""
    return precisions(rows[rows["target"].eq(ROUNDING) & ~rows["theory"]])[::-1]


def one_of_each_epsilon(arithmetics: list[str]) -> list[str]:
    """Those that differ in their machine epsilon: what an arithmetic accumulates in does not change it."""
    return list(dict.fromkeys(name.removesuffix("_pure") for name in arithmetics))


def _middle(values: pd.Series) -> float:
    """The median, or the lesser of the middle two: a step that there was."""
    return float(values.quantile(interpolation="lower"))


def failures(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each case, method, arithmetic and kind of failure, if any task has it.

    Columns: `hit` tasks of `tasks`; `loop`, the middle of their shortest loops that fail; `step`, the middle of the
    inner steps at which those do, NaN where no step is to blame.
    """
    rows = rows[rows["target"].eq(ROUNDING) & ~rows["theory"]]
    line = ["case", "method", "precision"]
    tasks = rows[[*line, *UNIT]].drop_duplicates().groupby(line, as_index=False).size()
    failed = rows[rows["outcome"].isin(FAILURES)].sort_values("inner_steps")
    failed = failed.assign(step=failed["outcome_step"].to_numpy(dtype=float, na_value=np.nan))
    first = failed.drop_duplicates([*line, "outcome", *UNIT])
    found = first.groupby([*line, "outcome"], as_index=False).agg(
        hit=("task", "size"), loop=("inner_steps", _middle), step=("step", _middle)
    )
    return found.merge(tasks.rename(columns={"size": "tasks"}), on=line)


@dataclass(frozen=True)
class Case:
    """One case of a study: its rows, their medians, its failures, and what was measured where its loops ended."""

    name: str
    rows: pd.DataFrame
    table: pd.DataFrame
    failed: pd.DataFrame
    ends: Ends

    @staticmethod
    def all(rows: pd.DataFrame) -> list["Case"]:
        """The cases of a study, in order."""
        if rows.empty:
            return []
        table, failed, at_ends = medians(rows), failures(rows), ends(rows)

        def case(name: str) -> Case:
            ours, middles, fails = (found[found["case"] == name] for found in (rows, table, failed))
            return Case(name, ours, middles, fails, Ends.of(at_ends, name))

        return [case(name) for name in cases(rows)]

    @cached_property
    def arithmetics(self) -> list[str]:
        """Those whose rounding was measured, coarsest first."""
        return coarsest_first(self.rows)

    @cached_property
    def exact(self) -> str:
        """The arithmetic of the references, in words."""
        found = dict.fromkeys(self.rows["reference"].dropna())
        return listed(["extended precision" if name == "extended" else str(name) for name in found])

    @cached_property
    def usual(self) -> str:
        """The arithmetic to speak of: float32, or the finest where that was not measured."""
        return "float32" if "float32" in self.arithmetics else self.arithmetics[-1]

    def line(self, method: str, target: str, precision: str | None = None, value: str = "relative_error") -> pd.Series:
        """Medians over the number of inner steps; without a precision those in exact arithmetic."""
        rows = self.table[(self.table["method"] == method) & (self.table["target"] == target)]
        rows = rows[rows["exact"]] if precision is None else rows[~rows["exact"] & (rows["precision"] == precision)]
        return rows.set_index("inner_steps")[value].astype(float).sort_index().dropna()

    def lines(self, method: str, value: str = "relative_error") -> dict[str, pd.Series]:
        """Those of a method's rounding, by arithmetic, coarsest first; only those with a number."""
        found = {name: self.line(method, ROUNDING, name, value) for name in self.arithmetics}
        return {name: line for name, line in found.items() if len(line)}
