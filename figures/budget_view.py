"""The split of errors as the figure and its verdicts look at it: one row a gradient and task, one column a part."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analyses.summary import UNIT, summarise
from figures.table_view import view

COLUMNS = ("solver", "solver_iterations", "target", "min_eigenvalue", "part", "relative_error")
TOTAL = "total"
PARTS = ("inner", "truncation", "first_order", "solver", "rounding")
TARGET_ORDER = ("stationary", "unrolled")
IMPLICIT, UNROLLED, FIRST_ORDER = "cg_unchecked", "unrolled_adjoint", "first_order"
NONE = -1.0  # iterations of a gradient that has no solver
GRADIENT = ["case", "target", "method", "precision", "iterations"]
PARTS_OF = {
    IMPLICIT: ("inner", "solver", "rounding"),
    UNROLLED: ("truncation", "rounding"),
    FIRST_ORDER: ("first_order", "truncation", "rounding"),
}
CANCELS = 2.0  # how many times longer than the whole its longest part is, where parts are said to cancel

WORDS = {
    "total": "the error",
    "inner": "the unconverged inner loop",
    "truncation": "the truncated loop",
    "first_order": "the second-order terms left out",
    "solver": "the unfinished linear solve",
    "rounding": "rounding",
}


def splits(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each gradient, number of steps and task, with `total` and every part as columns.

    They are relative to the target's length. A split of which one part is unknown is unknown as a whole, NaN, since
    nobody can tell then which part is the largest. `outcome` and `indefinite` are those of the total.
    """
    rows = view(frame, COLUMNS, "budget", apart=("part",))
    rows = rows[rows["part"].notna() & ~rows["theory"]]
    rows = rows.assign(iterations=rows["iterations"].fillna(NONE), part=rows["part"].astype("object"))
    keys = [*GRADIENT, "inner_steps", *UNIT]
    sizes = rows.set_index([*keys, "part"])["relative_error"].astype(float).unstack("part")
    whole = rows[rows["part"] == TOTAL].set_index(keys)[["estimator", "outcome", "indefinite", "min_eigenvalue"]]
    found = sizes.reindex(columns=[TOTAL, *PARTS]).join(whole, how="inner").reset_index()
    found = found[found["method"].isin(PARTS_OF)]
    found.loc[~_complete(found), [TOTAL, *PARTS]] = float("nan")
    order = {case: place for place, case in enumerate(dict.fromkeys(rows["case"]))}
    return found.assign(_order=found["case"].map(order)).sort_values("_order", kind="stable").drop(columns="_order")


def medians(rows: pd.DataFrame) -> pd.DataFrame:
    """The median size of the total and of each part, with intervals, for each gradient and number of steps.

    `largest` is the part with the longest median, None where none is known; `cancels` says that in the median task that
    part is more than `CANCELS` times longer than the whole.
    """
    times = rows[list(PARTS)].max(axis=1) / rows[TOTAL].where(rows[TOTAL] > 0)
    table = summarise(rows.assign(times=times), [*GRADIENT, "inner_steps"], [TOTAL, *PARTS, "times"])
    known = table[list(PARTS)].notna().any(axis=1)
    largest = pd.Series(None, index=table.index, dtype="object")
    if known.any():
        largest[known] = table.loc[known, list(PARTS)].idxmax(axis=1)
    return table.assign(largest=largest, cancels=(table["times"] > CANCELS).to_numpy(dtype=bool))


def _complete(rows: pd.DataFrame) -> pd.Series:
    """Whether every part that a gradient's error has is known; against the unrolled gradient nothing is truncated."""
    complete = rows[TOTAL].notna()
    for method, parts in PARTS_OF.items():
        for part in parts:
            has = (rows["method"] == method) & ((part != "truncation") | (rows["target"] == "stationary"))
            complete &= ~has | rows[part].notna()
    return complete


def target_of(rows: pd.DataFrame) -> str:
    """The target to speak of in one case: the stationary gradient where most implicit gradients have one."""
    for target in TARGET_ORDER:
        against = rows[(rows["target"] == target) & (rows["method"] == IMPLICIT)]
        if len(against) and against[TOTAL].notna().mean() >= 0.5:
            return target
    known = [target for target in TARGET_ORDER if rows.loc[rows["target"] == target, TOTAL].notna().any()]
    return known[0] if known else TARGET_ORDER[0]


def iteration_counts(rows: pd.DataFrame) -> list[float]:
    """The CG iterations that one case was run with."""
    return sorted(set(rows.loc[rows["method"] == IMPLICIT, "iterations"]))


def few_and_most(counts: Sequence[float]) -> list[float]:
    """The middling number of iterations, and the most."""
    return sorted({counts[(len(counts) - 1) // 2], counts[-1]}) if counts else []


@dataclass(frozen=True)
class Line:
    """The medians of one gradient in one arithmetic over the inner steps, where its error is known."""

    table: pd.DataFrame

    @staticmethod
    def of(table: pd.DataFrame, method: str, precision: str, iterations: float = NONE) -> "Line":
        """That of a gradient in the medians of one case and target."""
        chosen = (table["method"] == method) & (table["precision"] == precision) & (table["iterations"] == iterations)
        return Line(table[chosen & table["largest"].notna()].set_index("inner_steps").sort_index())

    def __bool__(self) -> bool:
        """Whether there is any number."""
        return not self.table.empty

    @property
    def steps(self) -> list[float]:
        """The numbers of inner steps."""
        return self.table.index.to_numpy(dtype=float).tolist()

    def size(self, part: str, count: float) -> tuple[float, float, float]:
        """The median length of a part after so many steps, and its interval."""
        middle, low, high = (float(self.table[part + end][count]) for end in ("", "_low", "_high"))
        return middle, low, high

    def parts(self) -> list[str]:
        """The parts that this gradient's error has."""
        return [name for name in PARTS if self.table[name].notna().any()]

    def rulers(self) -> dict[str, list[float]]:
        """Each part that is the largest somewhere, and after how many steps, in the order of the steps."""
        found: dict[str, list[float]] = {}
        for count, part in zip(self.steps, self.table["largest"], strict=True):
            found.setdefault(str(part), []).append(count)
        return found

    def cancelling(self) -> list[float]:
        """The numbers of steps at which parts cancel."""
        return [count for count in self.steps if bool(self.table["cancels"][count])]
