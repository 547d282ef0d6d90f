"""The rows as markdown for a reader and as CSV for a program."""

import csv
from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path

from benchmarks.peers.measure import Row
from benchmarks.peers.rounds import Spread

CELL = ("workload", "method", "steps", "cg_iterations", "contender", "kind")
TO = ("to_plain", "to_fastest_peer", "to_fastest_loop")
CHECK = ("peak_bytes", "float64_difference", "same", "error_median", "error_worst")


def markdown(rows: Sequence[Row]) -> str:
    """Tables for each workload and method: time, also against `plain` and the fastest peers, bytes, errors."""
    groups = list(dict.fromkeys((row.cell.workload.name, row.cell.method) for row in rows))
    return "\n\n".join(
        _group([row for row in rows if (row.cell.workload.name, row.cell.method) == group]) for group in groups
    )


def _group(rows: Sequence[Row]) -> str:
    cell = rows[0].cell
    what = "inner steps" if cell.iterations is None else "inner steps, CG iterations"
    title = f"### {cell.workload.name}, {cell.method} gradient, {cell.workload.tasks} tasks ({what})"
    seconds = _table(rows, "seconds", lambda row: f"{row.median_seconds:.3g}")
    to_plain = _table(rows, "time over plain, median (least to most)", lambda row: _spread(row.to_plain))
    ours = [row for row in rows if row.contender.kind == "ours"]
    to_peer = _table(ours, "time over the fastest peer", lambda row: _spread(row.to_fastest_peer))
    to_loop = _table(ours, "time over the fastest peer that loops", lambda row: _spread(row.to_fastest_loop))
    peak = _table(rows, "peak MB", _megabytes)
    errors = _table(rows, "float32 error, median (worst task)", _error)
    notes = [
        f"Fastest peer: {_where({row.cell.label: row.fastest_peer for row in rows if row.fastest_peer})}. "
        f"Of those that loop: {_where({row.cell.label: row.fastest_loop for row in rows if row.fastest_loop})}.",
        *_differences(rows),
    ]
    differ = any(row.fastest_peer != row.fastest_loop for row in rows)
    return "\n\n".join([title, seconds, to_plain, to_peer, *([to_loop] if differ else []), peak, errors, *notes])


def _where(names: dict[str, str]) -> str:
    """Each name with the columns it stands for; `none` where there is none."""
    columns = {name: [label for label, found in names.items() if found == name] for name in names.values()}
    return "; ".join(f"{name} (at {' | '.join(labels)})" for name, labels in columns.items()) or "none"


def _differences(rows: Sequence[Row]) -> list[str]:
    """A sentence for each contender that computes another gradient."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.check and not row.check.same:
            found.setdefault(row.contender.name, []).append(row.check.float64_difference)
    return [
        f"Not the same gradient: {name}, whose worst task differs by {min(values):.2g} to {max(values):.2g} in float64."
        for name, values in found.items()
    ]


def _table(rows: Sequence[Row], corner: str, show: Callable[[Row], str]) -> str:
    columns = list(dict.fromkeys(row.cell.label for row in rows))
    lines = [f"| {corner} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in dict.fromkeys(row.contender.name for row in rows):
        shown = {r.cell.label: f"failed: {r.failed}" if r.failed else show(r) for r in rows if r.contender.name == name}
        lines.append(f"| {name} | {' | '.join(shown[column] for column in columns)} |")
    return "\n".join(lines)


def _megabytes(row: Row) -> str:
    count = row.check and row.check.peak_bytes
    return "not counted" if count is None else f"{count / 1e6:.3g}"


def _error(row: Row) -> str:
    if row.check is None:
        return ""
    mark = "" if row.check.same else " **wrong**"
    worst = f"{row.check.error_worst:.1e}" if isfinite(row.check.error_worst) else "not finite"
    return f"{row.check.error_median:.1e} ({worst}){mark}"


def _spread(value: Spread | None) -> str:
    return "" if value is None else f"{value.median:.3g} ({value.least:.3g} to {value.most:.3g})"


def write(rows: Sequence[Row], absent: dict[str, str], folder: Path) -> None:
    """`seconds.csv`, a line a round; `summary.csv`, a line a contender and cell; `absent.csv`, the reasons."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(
        folder / "seconds.csv",
        (*CELL, "round", "seconds"),
        [[*_cell(row), r, value] for row in rows for r, value in enumerate(row.seconds or [])],
    )
    spreads = [f"{name}_{part}" for name in TO for part in ("median", "least", "most")]
    columns = ("median_seconds", *spreads, "fastest_peer", "fastest_loop", *CHECK, "failed")
    _write(folder / "summary.csv", (*CELL, *columns), [_summary(row) for row in rows])
    _write(folder / "absent.csv", ("contender", "reason"), [[name, reason] for name, reason in absent.items()])


def _cell(row: Row) -> list[object]:
    cell = row.cell
    return [
        cell.workload.name, cell.method, cell.steps, cell.iterations, row.contender.name, row.contender.kind,
    ]  # fmt: skip


def _summary(row: Row) -> list[object]:
    spreads = [
        getattr(value, part) if value else None
        for value in (getattr(row, name) for name in TO)
        for part in ("median", "least", "most")
    ]
    check = [getattr(row.check, name) if row.check else None for name in CHECK]
    return [*_cell(row), row.median_seconds, *spreads, row.fastest_peer, row.fastest_loop, *check, row.failed]


def _write(path: Path, header: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(lines)
