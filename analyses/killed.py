"""A cell whose workers die: the row that stands for it, and the name under which a store keeps that row.

It is kept as another cell, so that the cell itself is still to be measured where someone asks for that, and its rows
then take the place of this one.
"""

from analyses.analysis import Cell, Rows
from diagnostics.outcome import Outcome

MOST_DEATHS = 4  # workers that a cell may kill: one or two may have died of something else
ASKED = ("problem", "seed", "inner_optimizer", "inner_lr", "strength", "precision", "scaling")


def epitaph(cell: Cell) -> Cell:
    """What the store calls the row of a cell that was given up."""
    return Cell("killed", {"measurement": cell.measurement, "spec": cell.spec})


def rows(cell: Cell) -> Rows:
    """The one row: what was asked, as far as the table has a column for it, and no number."""
    asked = {name: cell.spec[name] for name in ASKED if cell.spec.get(name) is not None}
    return [asked | {"task": -1, "outcome": Outcome.KILLED.label}]
