"""What stops a run before it begins, had in milliseconds and without measuring anything.

A grid that is larger than `CELLS`, or takes more than `HOURS` on any machine, asks for consent. A cell that would take
more memory than is free is refused, and the others go on.
"""

from collections.abc import Iterable, Sequence

from analyses.analysis import Cell
from analyses.estimate import bytes_of, known, size_of
from analyses.work import WORKS
from diagnostics.cost.process_bytes import free_bytes

CELLS = 1000  # more ask for consent: the largest preset has a fifth of them, and a slip in a list of seeds many more
HOURS = 24.0  # likewise, of what the cells take at the very least
CALL = 1e-4  # seconds: no batched operation takes less, on any machine
SPARE = 0.8  # the part of the free memory that a cell may be estimated to take


def too_long(cells: Sequence[Cell]) -> str | None:
    """The line that asks for consent, or None for a run of ordinary size."""
    if len(cells) > CELLS:
        return f"expected at most {CELLS} cells, found {len(cells)}; --dry-run tells what they take, --yes runs them"
    hours = sum(_at_least(cell) for cell in cells) / 3600
    if hours > HOURS:
        return (
            f"expected cells of at most {HOURS:g} hours in all, found some that take at least {hours:.0f}; "
            "--dry-run tells which, --yes runs them"
        )
    return None


def refusals(cells: Iterable[Cell], free: int | None = None) -> dict[str, str]:
    """By key, the cells that would take more memory than is free, each with the line that says so.

    `free` bytes are those of this process's control group or machine where none are given; where the system does not
    say, nothing is refused. A cell that means nothing is not refused here: measuring it says what is wrong with it.
    """
    free = free_bytes() if free is None else free
    if free is None:
        return {}
    found = {}
    for cell in cells:
        try:
            need = bytes_of(cell) if known(cell) else 0
        except ValueError:
            continue
        if need > SPARE * free:
            found[cell.key] = (
                f"too large: expected to need at most {SPARE:.0%} of the {free} bytes that are free, found an "
                f"estimate of {need}; take fewer tasks or inner steps, or a smaller chunk"
            )
    return found


def _at_least(cell: Cell) -> float:
    """Seconds that a cell takes on any machine; 0 where its work is not known, or means nothing."""
    if not known(cell):
        return 0.0
    try:
        facts = size_of(cell, probe=False).facts
        return CALL * facts.chunks * sum(WORKS[cell.measurement](cell.spec, facts).values())
    except ValueError:
        return 0.0
