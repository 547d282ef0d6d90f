"""Two tables of one analysis compared, row by row and column by column: equal, within tolerance, outside, missing.

Rows are matched by what was asked for (`tolerances.KEY`), and those that share it by their order. A cell that one
side does not have at all was not finished there, and its rows are `missing`; a row that is absent from a cell that is
there has no such excuse and is `outside`, in the line called `rows`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analyses.analysis import Cell, analyses
from analyses.settings import Settings
from analyses.table import TEXT
from analyses.tolerances import CLOCKS, COMPARED, EXACT, KEY, SETTINGS_DIGITS, condition, larger, tolerances

ROWS = "rows"  # the line that counts rows, among those that count the values of a column
UNMEASURED = "killed"  # the outcome of a row that stands for a cell that could not be measured
THRESHOLD = {"ok", "unresolved"}
INDEFINITE = {"ok", "unresolved", "solver unfinished", "indefinite", "negative curvature", "no exact solve"}


@dataclass(frozen=True)
class Line:
    """One analysis and column: how many values are what, the worst difference in units of its tolerance, and where.

    `floor` of the values within are below the floor of their arithmetic on both sides; `untold` are not compared.
    """

    analysis: str
    column: str
    equal: int = 0
    within: int = 0
    floor: int = 0
    outside: int = 0
    missing: int = 0
    untold: int = 0
    worst: float = 0.0
    where: str = ""


def selectors(cells: Sequence[Cell]) -> list[str]:
    """The columns that tell from which of an analysis's cells a row is."""
    one = [name for name in ("precision", "inner_optimizer") if all(isinstance(c.spec.get(name), str) for c in cells)]
    return ["problem", "seed", "scaling", *one]


def cell_names(cells: Sequence[Cell]) -> list[tuple[object, ...]]:
    """What `selectors` are in the rows of each cell."""
    return [tuple(cell.spec.get(name, "none") for name in selectors(cells)) for cell in cells]


def compare(
    settings: Settings,
    expected: Mapping[str, pd.DataFrame],
    found: Mapping[str, pd.DataFrame],
    *,
    bitwise: bool,
    absent: Mapping[str, set[str]] | None = None,
) -> list[Line]:
    """The lines of all analyses. `absent` are columns that a side does not have, by analysis.

    Bitwise, everything but the clock's readings must be the same to the last bit, -0.0 and 0.0 told apart (NaN and
    nothing are the same in a table), and no column may be absent. Else every value has the tolerance of
    `analyses.tolerances`.
    """
    lines: list[Line] = []
    for name in settings.analyses:
        old, new = (_measured(side.get(name)) for side in (expected, found))
        if old is None or new is None:
            there = next((table for table in (old, new) if table is not None), None)
            if there is not None:
                lines.append(Line(name, ROWS, missing=len(there)))
            continue
        by = selectors(analyses[name].cells(settings))
        lines += _compare_table(name, old, new, by, bitwise, (absent or {}).get(name, set()))
    return lines


def _measured(table: pd.DataFrame | None) -> pd.DataFrame | None:
    if table is None:
        return None
    return table.loc[(table["outcome"] != UNMEASURED).to_numpy(dtype=bool)].reset_index(drop=True)


def _compare_table(
    name: str, expected: pd.DataFrame, found: pd.DataFrame, by: list[str], bitwise: bool, absent: set[str]
) -> Iterator[Line]:
    pairs = _keys(expected).merge(_keys(found), how="outer", on=["key", "turn"], suffixes=("_old", "_new"))
    both = pairs.dropna(subset=["at_old", "at_new"])
    old = expected.iloc[both["at_old"].to_numpy(dtype=int)].reset_index(drop=True)
    new = found.iloc[both["at_new"].to_numpy(dtype=int)].reset_index(drop=True)
    yield _row_line(name, pairs, expected, found, by, matched=len(both))
    bounds = {} if bitwise else tolerances(larger(old, new))
    for column in COMPARED:
        if column in absent:
            if column in KEY:  # rows that do not match have told it already
                continue
            lost = {"outside" if bitwise else "missing": len(old)}
            yield Line(name, column, **lost, worst=np.inf if bitwise else 0.0, where="the column is not there")
        elif column == "outcome" and not bitwise:
            yield _outcomes(name, old, new)
        elif bitwise or column in EXACT:
            yield _exact(name, column, old, new)
        else:
            yield _numeric(name, column, old, new, bounds[column])
    for column in CLOCKS:
        told = old[column].notna() | new[column].notna()
        if told.any():
            yield Line(name, column, untold=int(told.sum()))


def _keys(table: pd.DataFrame) -> pd.DataFrame:
    """What identifies each row, and its place in the table."""
    parts = [_as_text(table[name]) for name in KEY]
    key = pd.Series(["\x1f".join(row) for row in zip(*parts, strict=True)], dtype="str")
    return pd.DataFrame({"key": key, "turn": key.groupby(key).cumcount(), "at": np.arange(len(table))})


def _as_text(values: pd.Series) -> list[str]:
    if values.dtype == "float64":
        return [f"{value + 0.0:.{SETTINGS_DIGITS}g}" for value in values]  # -0.0 is 0.0 here
    return ["" if value is pd.NA or value != value else str(value) for value in values]


def _row_line(
    name: str, pairs: pd.DataFrame, expected: pd.DataFrame, found: pd.DataFrame, by: list[str], matched: int
) -> Line:
    """Rows that only one side has: of a cell that is not there at all, or of one that is."""
    missing, lost, where = 0, 0, ""
    for own, other, rows, others in (("at_old", "at_new", expected, found), ("at_new", "at_old", found, expected)):
        alone = rows.iloc[pairs.loc[pairs[other].isna(), own].to_numpy(dtype=int)]
        known = set(zip(*(others[column] for column in by), strict=True))
        inside = np.array([cell in known for cell in zip(*(alone[column] for column in by), strict=True)], dtype=bool)
        missing, lost = missing + int((~inside).sum()), lost + int(inside.sum())
        if inside.any() and not where:
            side = "the comparison" if own == "at_old" else "the run"
            where = f"{describe(alone.loc[inside].iloc[0])}: not in {side}"
    worst = np.inf if lost else 0.0
    return Line(name, ROWS, equal=matched, outside=lost, missing=missing, worst=worst, where=where)


def _exact(name: str, column: str, old: pd.DataFrame, new: pd.DataFrame) -> Line:
    wrong = ~_same(old[column], new[column])
    return Line(
        name, column, equal=int((~wrong).sum()), outside=int(wrong.sum()), worst=np.inf if wrong.any() else 0.0,
        where=_first(column, old, new, wrong),
    )  # fmt: skip


def _same(a: pd.Series, b: pd.Series) -> np.ndarray:
    """Which values are the same to the last bit, or missing on both sides."""
    missing = (a.isna() & b.isna()).to_numpy(dtype=bool)
    if a.dtype == "float64":
        return (a.to_numpy(dtype=float).view(np.int64) == b.to_numpy(dtype=float).view(np.int64)) | missing
    return (a == b).fillna(False).to_numpy(dtype=bool) | missing


def _outcomes(name: str, old: pd.DataFrame, new: pd.DataFrame) -> Line:
    """Outcomes are the same, but for those that hang on a number that is not.

    `unresolved` compares two numbers that have tolerances of their own: it may come and go with them. How a solver
    meets an indefinite Hessian is as little bounded as what it makes of it, and is not compared.
    """
    a, b = old["outcome"], new["outcome"]
    same = _same(a, b)
    moved = ~(_same(old["relative_error"], new["relative_error"]) &
              _same(old["reference_uncertainty"], new["reference_uncertainty"]))  # fmt: skip
    allowed = ~same & moved & (a.isin(THRESHOLD) & b.isin(THRESHOLD)).to_numpy(dtype=bool)
    unbounded = np.isinf(condition(larger(old, new))) & (a.isin(INDEFINITE) & b.isin(INDEFINITE)).to_numpy(dtype=bool)
    untold = ~same & ~allowed & unbounded
    wrong = ~same & ~allowed & ~untold
    return Line(
        name, "outcome", equal=int(same.sum()), within=int(allowed.sum()), outside=int(wrong.sum()),
        untold=int(untold.sum()), worst=np.inf if wrong.any() else 0.0, where=_first("outcome", old, new, wrong),
    )  # fmt: skip


def _numeric(name: str, column: str, old: pd.DataFrame, new: pd.DataFrame, bound: np.ndarray) -> Line:
    a, b = (side[column].to_numpy(dtype=float, na_value=np.nan) for side in (old, new))
    same = (a.view(np.int64) == b.view(np.int64)) | (np.isnan(a) & np.isnan(b))
    if column == "digits":  # the logarithm of an error is as far off as the error is
        a, b = 10.0**-a, 10.0**-b
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = np.where(a == b, 0.0, np.abs(a - b))
        ratio = np.where(same | (apart == 0), 0.0, apart / bound)
    unlike = np.isnan(a) != np.isnan(b)
    ratio = np.where(unlike | (np.isinf(a) != np.isinf(b)), np.inf, ratio)
    untold = ~same & np.isinf(bound)
    ratio = np.where(untold, 0.0, ratio)
    near = ~same & ~untold & (ratio <= 1)
    wrong = ~same & ~untold & ~near
    floor = near & (np.abs(a) <= bound) & (np.abs(b) <= bound)
    at = ratio == ratio.max() if wrong.any() else wrong
    return Line(
        name, column, equal=int(same.sum()), within=int(near.sum()), floor=int(floor.sum()),
        outside=int(wrong.sum()), untold=int(untold.sum()), worst=float(ratio.max(initial=0.0)),
        where=_first(column, old, new, wrong & at),
    )  # fmt: skip


def _first(column: str, old: pd.DataFrame, new: pd.DataFrame, wrong: np.ndarray) -> str:
    """The first row that is wrong, and the two values, in words."""
    if not wrong.any():
        return ""
    at = int(np.flatnonzero(wrong)[0])
    return f"{describe(old.iloc[at])}: expected {old[column].iloc[at]!s}, found {new[column].iloc[at]!s}"


def describe(row: pd.Series) -> str:
    """What a row is of, in words."""
    named = {name: row[name] for name in KEY if name not in ("inner_lr", "strength", "damping")}
    return ", ".join(
        str(value) if name in TEXT else f"{name} {value}"
        for name, value in named.items()
        if value is not pd.NA and value == value and value != "none"
    )
