"""The table of costs as the figure and its verdicts look at it: one row a setting, and what is cheapest.

A setting is an inner optimizer, a way to the gradient, its CG iterations and a number of inner steps. Its costs are
those of one gradient of the whole batch of tasks; over several seeds they are medians, as accuracies are over tasks.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analyses.summary import summarise
from figures.caution import mostly_indefinite
from figures.table_view import finest, view

COLUMNS = ("solver", "solver_iterations", "target", "cosine", "cosine_distance", "min_eigenvalue", "seconds",
           "seconds_low", "seconds_high", "chunk", "inner_optimizer", "peak_bytes")  # fmt: skip
COSTS = ("seconds", "peak_bytes")
LOOP, IMPLICIT = "inner_loop", "cg_unchecked"
NONE = -1.0  # iterations of a gradient that has no solver
SETTING = ["case", "inner_optimizer", "method", "iterations", "inner_steps"]
TARGET_ORDER = ("stationary", "unrolled")
LEVELS = (0.9, 0.99, 0.999)
FLAT = 1.05  # the largest cost over the least, of what counts as not growing
EXPONENTS = np.linspace(0.05, 2.0, 196)
WORDS = {
    LOOP: "the inner loop alone",
    "unrolled": "unrolled, full graph",
    "unrolled_adjoint": "unrolled, adjoint sweep",
    "checkpointed": "unrolled, checkpointed",
    "first_order": "first order",
    IMPLICIT: "implicit",
}


def priced(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with a cost, or that were too large to be tried, of each case's finest arithmetic.

    Of batches of several sizes only those of the largest, since their costs do not compare.
    """
    rows = view(_of_the_largest_batch(frame), COLUMNS, "cost", apart=("inner_optimizer",))
    rows = finest(rows[~rows["theory"]])
    rows = rows.assign(iterations=rows["iterations"].fillna(NONE))
    return rows[rows["seconds"].notna() | (rows["outcome"] == "too large")]


def _of_the_largest_batch(frame: pd.DataFrame) -> pd.DataFrame:
    if "chunk" not in frame or "problem" not in frame:
        return frame  # `view` says what is wanting
    tasks = pd.Series(frame["chunk"].to_numpy(dtype=float, na_value=np.nan))
    most = tasks.groupby(frame["problem"].to_numpy(), dropna=False).transform("max")
    return frame[(tasks.isna() | (tasks == most)).to_numpy(dtype=bool)]


def costs(rows: pd.DataFrame) -> pd.DataFrame:
    """Seconds with their quartiles, and bytes, of each setting; `tasks` is the size of the batch."""
    numbers = ["seconds", "seconds_low", "seconds_high", "peak_bytes", "chunk"]
    plain = rows[SETTING].assign(**{name: rows[name].to_numpy(dtype=float, na_value=np.nan) for name in numbers})
    found = plain.groupby(SETTING, sort=False, as_index=False)[numbers].median()
    return found.assign(peak_bytes_low=np.nan, peak_bytes_high=np.nan).rename(columns={"chunk": "tasks"})


def accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """Medians of the cosine and of 1 - cosine for each setting and target, with the setting's costs."""
    keys = [*SETTING, "target"]
    judged = rows[rows["target"].notna()]
    found = summarise(judged, keys, ["cosine", "cosine_distance"])
    found = found.merge(mostly_indefinite(judged, keys), on=keys, how="left")
    return found.merge(costs(rows), on=SETTING, how="left")


def first_optimizer(table: pd.DataFrame) -> str:
    """The inner optimizer of one case that was measured first; `table` is in the order of the rows, as `costs` is."""
    return str(table.loc[table["seconds"].notna(), "inner_optimizer"].iloc[0])


def compared(table: pd.DataFrame, target: str, optimizer: str) -> pd.DataFrame:
    """The settings of one case whose accuracies may be compared, for they have one and the same target.

    The stationary gradient is one target for all. The unrolled one is another for each optimizer and number of steps,
    and a loop of one step would beat every other: so these are of one optimizer, after the most steps.
    """
    here = table[(table["target"] == target) & table["cosine"].notna() & table["seconds"].notna()]
    if target != "unrolled" or here.empty:
        return here
    here = here[here["inner_optimizer"] == optimizer]
    return here[here["inner_steps"] == here["inner_steps"].max()] if len(here) else here


def front(costs: Sequence[float], errors: Sequence[float]) -> list[int]:
    """The places of the settings that nothing beats, the cheapest first: no other has less of one and no more of both.

    Pareto's front; of several that are alike the first.
    """
    known = [place for place in range(len(costs)) if not (np.isnan(costs[place]) or np.isnan(errors[place]))]
    kept: list[int] = []
    for place in sorted(known, key=lambda place: (costs[place], errors[place], place)):
        if not kept or errors[place] < errors[kept[-1]]:
            kept.append(place)
    return kept


def cheapest(table: pd.DataFrame, level: float, by: str) -> pd.Series | None:
    """The setting with the least of a cost whose median cosine is at least this; None where there is none."""
    good = table[(table["cosine"] >= level) & table[by].notna()]
    return None if good.empty else good.sort_values(by, kind="stable").iloc[0]


def growth(line: pd.DataFrame, by: str) -> float:
    """The exponent p of `cost = a + b steps^p`, a and b >= 0, by least squares in relative errors.

    0 where the costs differ by less than 5%, and NaN for fewer than three numbers of steps. What does not grow, as the
    graph of a single step, must not hide the growth of the rest; of four numbers or more the fewest is left out, where
    something else may be the largest.
    """
    line = line[(line["inner_steps"] > 0) & (line[by] > 0)].sort_values("inner_steps")
    line = line[1:] if line["inner_steps"].nunique() > 3 else line
    steps, cost = line["inner_steps"].to_numpy(float), line[by].to_numpy(float)
    if len(set(steps)) < 3:
        return float("nan")
    if cost.max() <= FLAT * cost.min():
        return 0.0
    return float(min(EXPONENTS, key=lambda power: _misfit(steps**power, cost)))


def power_text(exponent: float) -> str:
    """`K^1.02`, or `flat`."""
    return f"K^{exponent:.2f}" if exponent else "flat"


def _misfit(grown: np.ndarray, cost: np.ndarray) -> float:
    """The sum of squared relative errors of the best `a + b grown`."""
    columns = np.stack([1 / cost, grown / cost], axis=1)
    for used in (columns, columns[:, 1:]):
        found, *_ = np.linalg.lstsq(used, np.ones(len(cost)), rcond=None)
        if found.min() >= 0:
            return float(((used @ found - 1) ** 2).sum())
    return float("inf")


def per_step(line: pd.DataFrame, by: str) -> float:
    """What one more inner step costs, between the fewest and the most; NaN for one number of steps."""
    line = line.dropna(subset=by).sort_values("inner_steps")
    if line["inner_steps"].nunique() < 2:
        return float("nan")
    first, last = line.iloc[0], line.iloc[-1]
    return float((last[by] - first[by]) / (last["inner_steps"] - first["inner_steps"]))


def ways(table: pd.DataFrame) -> list[tuple[str, float]]:
    """The ways to a gradient that are compared, the loop first.

    CG is there with one number of iterations: the middling one of those that every optimizer was run with.
    """
    present = list(dict.fromkeys(table["method"]))
    order = [name for name in WORDS if name in present] + [name for name in present if name not in WORDS]
    return [(name, _middling(table[table["method"] == name])) for name in order]


def _middling(table: pd.DataFrame) -> float:
    each = [set(rows["iterations"]) for _, rows in table.groupby(["case", "inner_optimizer"])]
    shared = sorted(set.intersection(*each)) or sorted(set.union(*each))
    return shared[len(shared) // 2]


def way_name(method: str, iterations: float) -> str:
    """A way in words."""
    name = WORDS.get(method, method.replace("_", " "))
    return name if iterations == NONE else f"{name}, {iterations:g} CG iteration" + ("" if iterations == 1 else "s")


def line_of(table: pd.DataFrame, optimizer: str, way: tuple[str, float]) -> pd.DataFrame:
    """The costs of one way with one optimizer, over inner steps."""
    chosen = (table["inner_optimizer"] == optimizer) & (table["method"] == way[0]) & (table["iterations"] == way[1])
    return table[chosen & table["seconds"].notna()].sort_values("inner_steps")


def seconds_text(value: float) -> str:
    """`1.2 ms`, `3.4 s`."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("\N{GREEK SMALL LETTER MU}s", 1e-6)):
        if value >= 0.9995 * size:
            return f"{float(f'{value / size:.2g}'):g} {unit}"
    return f"{value:.1e} s"


def bytes_text(value: float) -> str:
    """`310 kB`, `1.2 GB`; in powers of 1000."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= 0.9995 * size:
            return f"{float(f'{value / size:.2g}'):g} {unit}"
    return f"{value:.0f} bytes"


TEXTS = {"seconds": seconds_text, "peak_bytes": bytes_text}
