"""What a comparison found, in words: the table of its lines, the worst of them, and whether it holds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from analyses.compare import Line
from analyses.level import Level

HEAD = ("analysis", "column", "equal", "within", "outside", "missing", "not compared", "worst")
MEANING = {
    "bitwise": "every value but the clock's readings to the last bit",
    "numeric": "every value within the tolerance of its column; `worst` is the largest difference in units of it",
    "statistical": "the intervals of medians over tasks and seeds overlap, and the order of the curves is the same",
}


def holds(lines: Sequence[Line]) -> bool:
    """Whether nothing is outside. Raises `ValueError` where nothing at all was compared."""
    if not any(line.equal + line.within + line.outside for line in lines):
        raise ValueError(
            "comparison: expected values that both sides have and that can be told apart from chance, found none; "
            "compare runs of the same analyses, statistically ones of at least 6 tasks or seeds"
        )
    return not any(line.outside for line in lines)


def in_words(level: Level, lines: Sequence[Line], cells: str) -> Iterator[str]:
    """The table, a line for each column that is outside, and the verdict; `cells` says what was compared.

    Columns of an analysis that are equal throughout share a line.
    """
    told = [row for name in dict.fromkeys(line.analysis for line in lines) for row in _rows(name, lines)]
    widths = [max(len(row[at]) for row in [HEAD, *told]) for at in range(len(HEAD))]
    for row in [HEAD, *told]:
        cellwise = (f"{x:<{w}}" if at < 2 else f"{x:>{w}}" for at, (x, w) in enumerate(zip(row, widths, strict=True)))
        yield "  ".join(cellwise).rstrip()
    for line in lines:
        if line.outside:
            yield f"outside: {line.analysis} {line.column}: {line.where}"
    yield f"level: {level.name} ({level.why}): {MEANING[level.name]}"
    yield _verdict(level, lines, cells)


def _rows(name: str, lines: Sequence[Line]) -> Iterator[tuple[str, ...]]:
    own = [line for line in lines if line.analysis == name]
    same = [line for line in own if not (line.within or line.outside or line.missing or line.untold)]
    if same:
        rest = "all columns" if len(same) == len(own) else f"{len(same)} others" if len(same) > 1 else same[0].column
        yield _row(Line(name, rest, equal=sum(line.equal for line in same)))
    yield from (_row(line) for line in own if line not in same)


def _row(line: Line) -> tuple[str, ...]:
    counts = (line.equal, line.within, line.outside, line.missing, line.untold)
    within = f"{line.within} ({line.floor} below floor)" if line.floor else str(line.within)
    shown = [within if at == 1 else str(count) if count else "" for at, count in enumerate(counts)]
    shown[1] = shown[1] if line.within else ""
    worst = "" if line.worst == 0 else "inf" if line.worst == float("inf") else f"{line.worst:.2g}"
    return (line.analysis, line.column, *shown, worst)


def _verdict(level: Level, lines: Sequence[Line], cells: str) -> str:
    sums = {name: sum(getattr(line, name) for line in lines) for name in ("equal", "within", "outside", "missing")}
    counts = ", ".join(f"{count} {name}" for name, count in sums.items() if count)
    said = "reproduced" if holds(lines) else "NOT reproduced"
    exactly = level.name == "numeric" and not (sums["within"] or sums["outside"])
    same = "; what was compared is the same to the last bit" if exactly else ""
    return f"{said} at the level {level.name}: {cells}; {counts}{same}"


def checklist(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What the reproducibility checklists of conferences ask for, as far as a manifest knows it."""
    settings = manifest.get("settings", {})
    tables = [table for value in settings.values() if isinstance(value, list) for table in value if "seeds" in table]
    seeds = sorted({seed for table in tables for seed in table["seeds"]})
    tasks = sorted({table["tasks"] for table in tables})
    machine, packages = manifest.get("machine", {}), manifest.get("packages", {})
    source = manifest.get("source", {})
    yield "for your checklist:"
    yield f"  seeds: {_several(seeds)}; tasks per seed: {_several(tasks)}"
    yield "  intervals: of the median over (seed, task) pairs, between order statistics, at least 95% (sign test)"
    yield f"  compute: {manifest.get('measuring seconds', 'unknown')} s on {machine.get('processor', 'unknown')}, " + (
        f"{manifest.get('numerics', {}).get('torch threads', 'unknown')} thread per task"
    )
    named = ", ".join(f"{name} {packages[name]}" for name in ("torch", "numpy") if name in packages)
    commit = f"commit {str(source['commit'])[:12]}" if source.get("commit") else f"source {source.get('sha256')!s:.12}"
    dirty = ", changed since" if source.get("dirty") else ""
    yield f"  versions: gradgauge {manifest.get('gradgauge', 'unknown')} ({commit}{dirty}), {named}, " + (
        f"Python {machine.get('python', 'unknown')}"
    )
    yield f"  command: {manifest.get('command', 'unknown')}"


def _several(values: Sequence[object]) -> str:
    return ", ".join(map(str, values)) if values else "unknown"
