"""A run measured again and held against its tables.

All cells, or a sample drawn by a seed that is told. Cells of the same problem, seed, rescaling and arithmetic in one
kind of measurement are drawn together, since their rows cannot be told apart by what they are of. The run's tables are
views of all its cells (some show only a problem's finest arithmetic): the rows of cells that were not drawn are taken
from the run's own tables, so that the view sees them all, and are not compared.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import pandas as pd

from analyses.analysis import Cell, Rows, analyses
from analyses.compare import Line, cell_names, compare, selectors
from analyses.compare_medians import compare_medians
from analyses.engine import Engine, Failed, Inline, Measured
from analyses.finished import Finished
from analyses.run import Progress, cells_of
from analyses.settings import Budget, Cost, Grid, Rounding, Settings, Training
from analyses.table import COLUMNS, tidy

Table = TypeVar("Table", Grid, Rounding, Cost, Budget, Training)


@dataclass(frozen=True)
class Again:
    """Cells that were measured again, `rows` by their keys, and those that could not be."""

    settings: Settings
    cells: Sequence[Cell]
    rows: Mapping[str, Rows]
    failed: Sequence[Failed]


def chosen(settings: Settings, sample: int | None = None, seed: int = 0) -> list[Cell]:
    """All cells, or about `sample` of them by a generator of that seed, in their order.

    Raises `ValueError` for a sample of less than one cell.
    """
    cells = cells_of(settings)
    if sample is None or sample >= len(cells):
        return cells
    if sample < 1:
        raise ValueError(f"sample: expected at least 1 cell, found {sample}; leave it out to check all")
    drawn = {_twins(cell) for cell in random.Random(seed).sample(cells, sample)}
    return [cell for cell in cells if _twins(cell) in drawn]


def other_seeds(settings: Settings) -> Settings:
    """The same settings with as many seeds that none of its tables has: those that follow the largest."""
    first = 1 + max(seed for table in settings.tables() for seed in table.seeds)

    def moved(tables: tuple[Table, ...]) -> tuple[Table, ...]:
        return tuple(replace(table, seeds=tuple(first + at for at in range(len(table.seeds)))) for table in tables)

    return replace(
        settings, grids=moved(settings.grids), roundings=moved(settings.roundings), costs=moved(settings.costs),
        budgets=moved(settings.budgets), trainings=moved(settings.trainings), generalized=moved(settings.generalized),
    )  # fmt: skip


def measure_again(
    settings: Settings, cells: Sequence[Cell], report: Callable[[Progress], None], engine: Engine | None = None
) -> Again:
    """Measure the cells as a run does, here or by an engine; nothing is written anywhere."""
    rows: dict[str, Rows] = {}
    failed: list[Failed] = []
    done = 0
    for results in (engine or Inline()).results(cells, "compile" if settings.compiled else "auto"):
        for result in results:
            done += 1
            if isinstance(result, Measured):
                rows[result.cell.key] = json.loads(json.dumps(result.rows))  # as a store would give them back
            elif isinstance(result, Failed):
                failed.append(result)
            else:
                failed.append(Failed(result.cell, f"killed {result.deaths} workers", result.seconds))
            report(Progress(done, len(cells), result.cell, result.seconds))
    return Again(settings, cells, rows, failed)


def check(run: Finished, again: Again, level: str) -> list[Line]:
    """The lines of the comparison of a run with what was measured again, at a level of `analyses.level`."""
    found = {name: table for name in run.settings.analyses if (table := _again(name, run, again)) is not None}
    if level == "statistical":
        return compare_medians(run.settings, run.tables, found)
    expected = {name: table.loc[_is_of(again.cells, name, run.settings, table)] for name, table in run.tables.items()}
    expected = {name: table for name, table in expected.items() if len(table)}
    return compare(run.settings, expected, found, bitwise=level == "bitwise", absent=run.absent)


def compare_runs(expected: Finished, found: Finished, level: str) -> list[Line]:
    """The lines of the comparison of two runs, at a level of `analyses.level`."""
    if level == "statistical":
        return compare_medians(expected.settings, expected.tables, found.tables)
    absent = {
        name: expected.absent.get(name, set()) | found.absent.get(name, set()) for name in expected.settings.analyses
    }
    return compare(expected.settings, expected.tables, found.tables, bitwise=level == "bitwise", absent=absent)


def _again(name: str, run: Finished, again: Again) -> pd.DataFrame | None:
    """The table of an analysis from the cells measured again, as the run would have shown it."""
    cells = [cell for cell in analyses[name].cells(again.settings) if cell.key in again.rows]
    frames = [tidy(again.rows[cell.key]) for cell in cells]
    if not frames:
        return None
    measured = pd.concat(frames, ignore_index=True)
    beside = run.tables.get(name)
    if beside is not None and again.settings == run.settings:
        others = beside.loc[~_is_of(again.cells, name, run.settings, beside)]
        measured = pd.concat([measured, others], ignore_index=True)
    table = analyses[name].view(measured)
    table = table.loc[table.index < sum(map(len, frames))]
    return table.assign(analysis=name).reset_index(drop=True)[list(COLUMNS)]


def _is_of(cells: Sequence[Cell], name: str, settings: Settings, table: pd.DataFrame) -> pd.Series:
    """Which rows of an analysis's table may be of these cells."""
    keys = {cell.key for cell in cells}
    own = analyses[name].cells(settings)
    every = cell_names(own)
    known = {what for cell, what in zip(own, every, strict=True) if cell.key in keys}
    strange = set(zip(*(table[column] for column in selectors(own)), strict=True)) - set(every)
    rows = zip(*(table[column] for column in selectors(own)), strict=True)
    # A row of no cell at all is everybody's business.
    return pd.Series([what in known or what in strange for what in rows], index=table.index, dtype=bool)


def _twins(cell: Cell) -> tuple[object, ...]:
    return (cell.measurement, *cell_names([cell])[0])
