"""Numbers as a reader wants them in a sentence."""

from collections.abc import Sequence
from math import floor, isfinite, isnan, log10

import numpy as np


def cosine(found: Sequence[float]) -> str:
    """A median cosine with its interval: two digits, or as many as tell the median from 1."""
    middle, low, high = found
    if isnan(middle):
        return "unknown"
    away = 1 - middle
    digits = 2 if away >= 0.095 else 1 - floor(log10(away)) if away > 5e-6 else 0
    if not digits:
        return "1 (to 5 digits)"
    written = [f"{value:.{digits}f}" for value in (middle, low, high)]
    return written[0] if isnan(low) or isnan(high) else f"{written[0]} [{written[1]}, {written[2]}]"


def percent(value: float) -> str:
    """A fraction as a percentage with two significant digits; powers of ten where a percentage says little."""
    if isnan(value):
        return "unknown"
    if not isfinite(value):
        return "infinitely"
    if value >= 10:
        return f"{value:.2g} times" if value < 100 else f"{_power(value) if value >= 1e5 else f'{value:.0f}'} times"
    if value < 5e-5:
        return _power(value) if value else "0"
    return f"{float(f'{100 * value:.2g}'):g}%"


def _power(value: float) -> str:
    """`3.2e-6`."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def plain(value: float) -> str:
    """Two or three significant digits."""
    return "unknown" if isnan(value) else f"{float(f'{value:.2g}'):g}"


def with_interval(found: Sequence[float], write=plain) -> str:  # noqa: ANN001 - one of the writers above
    """A median with its interval in brackets; without, where there is none."""
    middle, low, high = found
    if isnan(low) or isnan(high):
        return write(middle)
    if low == middle == high or write(low) == write(middle) == write(high):
        return write(middle)
    return f"{write(middle)} [{write(low)}, {write(high)}]"


def counts(values: Sequence[float], all_values: Sequence[float]) -> str:
    """Numbers of steps as words; those that follow each other among all that were tried become a range."""
    tried = sorted(all_values)
    runs: list[list[float]] = []
    for value in sorted(values):
        follows = runs and tried.index(value) == tried.index(runs[-1][-1]) + 1
        if follows:
            runs[-1].append(value)
        else:
            runs.append([value])
    parts = [[f"{run[0]:g} to {run[-1]:g}"] if len(run) > 2 else [f"{x:g}" for x in run] for run in runs]
    return listed([part for run in parts for part in run])


def listed(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def steps(count: float) -> str:
    """`1 inner step`, `20 inner steps`."""
    return f"{count:g} inner step" + ("" if count == 1 else "s")


def steps_of(values: Sequence[float], all_values: Sequence[float]) -> str:
    """`1 to 10 and 50 inner steps`."""
    return f"{counts(values, all_values)} inner step" + ("" if list(values) == [1] else "s")


def iterations(count: float) -> str:
    """`1 CG iteration`, `20 CG iterations`."""
    return f"{count:g} CG iteration" + ("" if count == 1 else "s")


def of_tasks(hit: int, tasks: int) -> str:
    """`22 of 32 tasks`."""
    return f"{hit} of {tasks} task" + ("" if tasks == 1 else "s")


def first(flags: Sequence[bool]) -> int | None:
    """The place of the first that holds and from which on all hold."""
    holding = np.logical_and.accumulate(np.asarray(flags, dtype=bool)[::-1])[::-1]
    return int(np.argmax(holding)) if holding.any() else None


def aligned(rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """A table's head and rows as lines of text, in columns; no line where there is a head alone."""
    if len(rows) < 2:
        return ()
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return tuple("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
