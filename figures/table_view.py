"""The tidy table as the figures look at it: one case a panel, one method a line."""

from collections.abc import Sequence

import pandas as pd

ALWAYS = ("problem", "seed", "task", "inner_steps", "estimator", "precision", "outcome")
SETTINGS = ("inner_optimizer", "inner_lr", "strength", "damping", "scaling")
GIVEN_UP = "killed"
FINEST_FIRST = ("extended", "float64", "float32", "float16", "float16_pure", "bfloat16", "bfloat16_pure")
EPSILON = {
    "extended": 2.0**-104, "float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "float16_pure": 2.0**-10,
    "bfloat16": 2.0**-7, "bfloat16_pure": 2.0**-7,
}  # fmt: skip


def view(frame: pd.DataFrame, columns: Sequence[str], figure: str, apart: Sequence[str] = ()) -> pd.DataFrame:
    """The table with `case`, `method`, `iterations`, `theory` and `indefinite` added.

    `case` is the problem, with the settings that differ among its rows; `method` the estimator, or the solver of an
    implicit one; `theory` marks what was not measured. Settings `apart` are lines of one case, and make none of their
    own. `ValueError` names the columns that are wanting.
    """
    absent = [name for name in (*ALWAYS, *columns) if name not in frame.columns]
    if absent:
        raise ValueError(f"figure {figure}: expected the column {', '.join(absent)}, found {', '.join(frame.columns)}")
    solver = frame["solver"].astype("object").where(frame["solver"].notna(), "") if "solver" in frame else ""
    estimator = frame["estimator"].astype("object")
    seen = frame.reset_index(drop=True).assign(
        case=_cases(frame.drop(columns=list(apart))).to_numpy(),
        method=estimator.where(estimator != "implicit", solver).to_numpy(),
        iterations=_floats(frame, "solver_iterations"),
        inner_steps=_floats(frame, "inner_steps"),
        theory=(frame["outcome"] == "prediction").to_numpy(dtype=bool),
        indefinite=_floats(frame, "min_eigenvalue") < 0,
    )
    if "target" not in seen:
        return seen
    # Two grids of a run may share a cell: its rows are then there twice, and must count once.
    keys = ["case", "seed", "task", "inner_steps", "method", "iterations", "precision", "target", *apart]
    return seen.drop_duplicates(keys)


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """The table without the rows of cells that were given up, which have no estimator, no step and no number."""
    return table[table["outcome"] != GIVEN_UP]


def cases(frame: pd.DataFrame) -> list[str]:
    """The cases of a view, in the order in which they come."""
    return list(dict.fromkeys(frame["case"]))


def finest(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the finest arithmetic that each case was measured in."""
    rank = frame["precision"].map({name: place for place, name in enumerate(FINEST_FIRST)}).fillna(len(FINEST_FIRST))
    return frame[rank == rank.groupby(frame["case"]).transform("min")]


def precisions(frame: pd.DataFrame) -> list[str]:
    """The arithmetics in the table, finest first, those that nobody knows last."""
    found = set(frame["precision"].dropna())
    return [name for name in FINEST_FIRST if name in found] + sorted(found - set(FINEST_FIRST))


def iteration_counts(frame: pd.DataFrame) -> list[int]:
    """The iterations that conjugate gradients were given, ascending."""
    found = frame.loc[frame["method"].isin(("cg", "cg_unchecked")) & ~frame["theory"], "iterations"]
    return sorted({int(count) for count in found.dropna()})


def _floats(frame: pd.DataFrame, name: str):
    if name not in frame.columns:
        return float("nan")
    return frame[name].to_numpy(dtype=float, na_value=float("nan"))


def _cases(frame: pd.DataFrame) -> pd.Series:
    label = frame["problem"].astype("object")
    problem = frame["problem"]
    kinds = frame[["problem", *(name for name in SETTINGS if name in frame)]].drop_duplicates()
    if len(kinds) == problem.nunique():  # the usual case, and much the faster
        return label
    for setting in SETTINGS:
        if setting not in frame.columns:
            continue
        differs = frame.groupby(problem)[setting].transform("nunique") > 1
        if differs.any():
            label = label.where(~differs, label + f", {setting} " + frame[setting].astype("str"))
    return label
