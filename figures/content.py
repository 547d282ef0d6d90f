"""What the report says, gathered from the tables before anything is written: plain values for the templates."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from analyses.summary import FEWEST, QUIET
from figures.caution import ADVICE
from figures.names import METHODS, problem_name
from figures.section import Section, Verdict, in_order
from figures.table_view import measured, view

HEADINGS = {
    "case": "problem",
    "inner_steps": "inner steps",
    "iterations": "CG iterations",
    "method": "gradient",
    "min_eigenvalue": "smallest eigenvalue",
    "max_eigenvalue": "largest eigenvalue",
    "step_curvature": "inner step x largest eigenvalue",
    "broke_down": "CG broke down",
}
SHOWN_DIGITS = 4


@dataclass(frozen=True)
class Warned:
    """An outcome that is no plain success, how many rows have it, and what to do."""

    outcome: str
    rows: int
    advice: str


@dataclass(frozen=True)
class Content:
    """One section of the report, ready to be written."""

    section: Section
    verdicts: tuple[Verdict, ...]
    basis: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    warned: tuple[Warned, ...]


def contents(tables: Mapping[str, pd.DataFrame]) -> list[Content]:
    """The sections that there are tables for, in the order of the report."""
    return [_content(section, tables[section.name]) for section in in_order() if section.name in tables]


def answers(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Every verdict's answer as one line of plain text, and what a section tells besides; the rest is on the page."""
    lines = []
    for section in in_order():
        if section.name not in tables:
            continue
        numbers, asked = measured(tables[section.name]), ", ".join(section.questions)
        lines += [
            f"{asked} {section.name}: {problem_name(verdict.problem)}: {verdict.answer}"
            for verdict in section.verdicts(numbers)
        ]
        lines += section.told(numbers) if section.told else ()
    return lines


def _content(section: Section, table: pd.DataFrame) -> Content:
    numbers = measured(table)
    headings, rows = _cells(section.summary(numbers))
    based = section.basis(numbers) if section.basis else basis(numbers, section.name)
    return Content(section, section.verdicts(numbers), based, headings, rows, _warned(table))


def basis(table: pd.DataFrame, figure: str) -> str:
    """Over what the medians are taken, and what the intervals are."""
    rows = view(table, (), figure)
    rows = rows[~rows["theory"]]
    if rows.empty:
        return "Nothing was measured."
    units = rows[["case", "seed", "task"]].drop_duplicates().groupby("case").size()
    seeds = rows.groupby("case")["seed"].nunique()
    spread = (_range(units, "task"), _range(seeds, "seed"))
    text = f"Medians over {spread[0]} from {spread[1]} for each problem."
    if units.min() < FEWEST:
        return text + f" Fewer than {FEWEST} tasks are too few for an interval."
    return text + (
        " Intervals are 95% confidence intervals of the median over (seed, task) pairs, between order statistics, "
        "with no assumption about the distribution."
    )


def _range(counts: pd.Series, noun: str) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low if low == high else f'{low} to {high}'} {noun}" + ("" if high == 1 else "s")


def _warned(table: pd.DataFrame) -> tuple[Warned, ...]:
    counts = table.loc[~table["outcome"].isin(QUIET), "outcome"].value_counts()
    return tuple(Warned(str(name), int(counts[name]), ADVICE.get(str(name), "")) for name in sorted(counts.index))


def _cells(summary: pd.DataFrame) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """The summary as text: an interval stands in brackets after its median, and a column of zeros is left out."""
    names = [name for name in summary.columns if not name.endswith(("_low", "_high"))]
    idle = [
        name
        for name in names
        if (name.endswith("_missing") or name in ("warned", "unfinished")) and not summary[name].any()
    ]
    names = [name for name in names if name not in idle]
    columns = []
    for name in names:
        values = summary[name].tolist()
        if f"{name}_low" in summary:
            ends = zip(values, summary[f"{name}_low"].tolist(), summary[f"{name}_high"].tolist(), strict=True)
            columns.append([_with_ends(*three) for three in ends])
        elif name == "case":
            columns.append([problem_name(str(value)) for value in values])
        elif name == "method":
            columns.append([METHODS.get(str(value), str(value)) for value in values])
        else:
            columns.append([_written(value) for value in values])
    headings = tuple(_heading(name) for name in names)
    return headings, tuple(zip(*columns, strict=True))


def _heading(name: str) -> str:
    if name.endswith("_missing"):
        return f"{_heading(name.removesuffix('_missing'))}: no number"
    return HEADINGS.get(name, name.replace("_", " "))


def _with_ends(middle: float, low: float, high: float) -> str:
    if low != low or high != high:
        return _written(middle)
    return f"{_written(middle)} [{_written(low)}, {_written(high)}]"


def _written(value: object) -> str:
    if isinstance(value, str):
        return value.replace("_", " ")
    number = float(value)  # pyright: ignore[reportArgumentType]
    if number != number:
        return ""
    whole = abs(number) < 1e15 and number == int(number)
    return f"{number:.0f}" if whole else f"{number:.{SHOWN_DIGITS}g}"
