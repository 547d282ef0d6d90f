"""Training runs boiled down: means over seeds of means over test tasks, with intervals, and differences in pairs.

A seed has a first theta and tasks of its own (a nested design in the words of `diagnostics.protocols.intervals`), so
that the means of its tasks, one number a seed, are independent: with S of them of standard deviation s

    mean +- t_(S-1) s / sqrt(S)          t: the quantile of Student's t that leaves 2.5% on each side

is the 95% interval over seeds and tasks both; one seed shows no spread, and has none. All runs of a seed meet the same
tasks: two methods are compared by the interval of their differences, seed by seed, on the tasks that both have.

A test task whose inner loop diverged has an infinite loss, and makes infinite what it has a part in. A run that
diverged is tested with its best theta of before, counts as that, and is counted.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analyses.seeds import over_seeds, t_over_root

LOOP = (
    "problem", "inner_optimizer", "inner_lr", "strength", "outer_optimizer", "outer_lr", "inner_steps",
)  # fmt: skip
METHOD = ("estimator", "solver", "solver_iterations", "precision", "scaling")
SETTING = (*LOOP, *METHOD)
VALUES = ("loss", "accuracy")
FLOORS = ("untrained", "nearest_neighbour")
FLOOR = ("problem", "inner_optimizer", "inner_lr", "strength", "scaling", "estimator", "test_steps")


def by_seed(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each setting, `test_steps` and seed: `loss` and `accuracy`, means over its test tasks.

    `tasks` counts them, `lost` those whose loop diverged; `diverged` tells whether the run did, and `iteration` how far
    it came. `ValueError` where a task of a setting and seed is there twice, with other numbers.
    """
    keys = [*SETTING, "test_steps", "seed"]
    means = task_rows(table).groupby(keys, dropna=False, sort=False, as_index=False).agg(
        loss=("loss", "mean"), accuracy=("accuracy", "mean"), tasks=("task", "size"), lost=("lost", "sum")
    )  # fmt: skip
    found = means.merge(_ends(table), on=[*SETTING, "seed"], how="left")
    return found.assign(diverged=found["diverged"].eq(1.0))


def task_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of single test tasks, with a lost task's loss infinite; `ValueError` for a task that is there twice."""
    rows = _numbers(table[_is(table, "test") & ~table["estimator"].isin(FLOORS)])
    keys = [*SETTING, "test_steps", "seed", "task"]
    rows = _each_once(rows, keys)
    lost = rows["loss"].isna()
    return rows[keys].assign(loss=rows["loss"].where(~lost, np.inf), accuracy=rows["accuracy"], lost=lost)


def summarise_training(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each setting and `test_steps`: `over_seeds` of `by_seed`."""
    return over_seeds(by_seed(table), [*SETTING, "test_steps"])


def differences(rows: pd.DataFrame, reference: Mapping[str, str | float | None]) -> pd.DataFrame:
    """Every setting less the reference in the same loop, by seed: `loss`, `accuracy` and the number of shared `tasks`.

    `rows` are those of `task_rows`; `reference` says what the columns `METHOD` of it hold, None for a cell that
    is empty. The reference's own rows are left out. The mean over tasks is taken over those that both met, so that the
    difference is the one of `diagnostics.protocols.intervals.paired(.., crossed=False)` for one seed.
    """
    of = np.ones(len(rows), dtype=bool)
    for name, value in reference.items():
        of &= (rows[name].isna() if value is None else rows[name].eq(value).fillna(False)).to_numpy(dtype=bool)
    keys = [*LOOP, "test_steps", "seed", "task"]
    both = rows[~of].merge(rows.loc[of, [*keys, *VALUES]], on=keys, suffixes=("", "_of"))
    sides = [*VALUES, *(f"{name}_of" for name in VALUES)]
    groups = both.groupby([*SETTING, "test_steps", "seed"], dropna=False, sort=False)
    means = groups[sides].mean().assign(tasks=groups.size()).reset_index()
    with np.errstate(invalid="ignore"):  # infinite less infinite is no number
        found = {name: means[name] - means[f"{name}_of"] for name in VALUES}
    return means.drop(columns=sides).assign(**found)


def floors(table: pd.DataFrame) -> pd.DataFrame:
    """What training must beat, means over the seeds: the untrained network by `test_steps`, and nearest neighbours."""
    rows = _numbers(table[_is(table, "test") & table["estimator"].isin(FLOORS)])
    return over_seeds(rows.drop_duplicates([*FLOOR, "seed"]), FLOOR)


def validations(table: pd.DataFrame) -> pd.DataFrame:
    """The validation rows: one for each setting, seed and iteration."""
    return _stage(table, "validation", [*VALUES, "elapsed"])


def gradients(table: pd.DataFrame) -> pd.DataFrame:
    """The probes of the mean gradient, which training follows, against the exact derivative of the very loop."""
    rows = table[table["task"].eq(-1).fillna(False) & table["target"].eq("unrolled").fillna(False)]
    return _stage(rows, "probe", ["cosine", "cosine_distance", "relative_error", "norm_ratio", "outcome"])


def pace(table: pd.DataFrame) -> pd.DataFrame:
    """Seconds of one outer iteration of each setting: the median over the seeds and the times between validations.

    A single time between two readings of the clock is not to be trusted where other work ran on the same machine.
    """
    rows = validations(table).sort_values([*SETTING, "seed", "iteration"])
    steps = rows.groupby([*SETTING, "seed"], dropna=False, sort=False)[["elapsed", "iteration"]].diff()
    rows = rows.assign(seconds=steps["elapsed"] / steps["iteration"]).dropna(subset="seconds")
    return rows.groupby(list(SETTING), dropna=False, sort=False)[["seconds"]].median().reset_index()


def rank_correlation(points: pd.DataFrame, one: str, other: str, within: Sequence[str] = ()) -> tuple[float, float]:
    """Spearman's rank correlation of two columns, its mean over seeds and half its interval.

    Each seed gives one number: the correlation over its settings or, `within` columns, its mean over the groups in
    which these are equal. A group of fewer than three settings, or in which one column is constant, has none.
    """
    known = points.dropna(subset=[one, other])
    groups = known.groupby(["seed", *within], dropna=False)
    ranks = known.assign(one=groups[one].rank(), other=groups[other].rank())
    found = [
        (key[0], _correlation(group["one"].to_numpy(float), group["other"].to_numpy(float)))
        for key, group in ranks.groupby(["seed", *within], dropna=False)
    ]
    each = pd.DataFrame(found, columns=["seed", "r"]).groupby("seed")["r"].mean().dropna()
    if each.empty:
        return float("nan"), float("nan")
    return float(each.mean()), t_over_root(len(each)) * float(each.std())


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])


def _ends(table: pd.DataFrame) -> pd.DataFrame:
    rows = table[_is(table, "end")].drop_duplicates([*SETTING, "seed"])
    found = rows[[*SETTING, "seed"]].assign(
        diverged=rows["outcome"].ne("ok").to_numpy(dtype=float), iteration=rows["iteration"].to_numpy(dtype=float)
    )
    return _in_numbers(found)


def _stage(table: pd.DataFrame, stage: str, values: Sequence[str]) -> pd.DataFrame:
    rows = _numbers(table[_is(table, stage)])
    keys = [*SETTING, "seed", "iteration"]
    return rows[[*keys, *values]].drop_duplicates(keys)


def _is(table: pd.DataFrame, stage: str) -> np.ndarray:
    return table["stage"].eq(stage).to_numpy(dtype=bool, na_value=False)


def _numbers(rows: pd.DataFrame) -> pd.DataFrame:
    return _in_numbers(rows.reset_index(drop=True))


def _in_numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """The numbers of the table as floats, so that an empty cell is NaN in each and merges with its like."""
    whole = [name for name in rows.columns if isinstance(rows[name].dtype, pd.Int64Dtype)]
    return rows.astype(dict.fromkeys(whole, "Float64")).astype(dict.fromkeys(whole, "float64"))


def _each_once(rows: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """The rows without repetitions; `ValueError` for two of one task that are not the same."""
    repeated = rows.duplicated(list(keys)).to_numpy()
    if not repeated.any():
        return rows
    rows = rows[~rows.duplicated([*keys, "iteration", *VALUES]).to_numpy()]
    other = rows.duplicated(list(keys)).to_numpy()
    if other.any():
        seed, task = rows.loc[other, ["seed", "task"]].iloc[0]
        raise ValueError(
            f"training: expected one row for each test task of a setting and seed, found task {task:g} of seed "
            f"{seed:g} twice; give runs that differ in what has no column (batch, clipping, iterations) folders apart"
        )
    return rows
