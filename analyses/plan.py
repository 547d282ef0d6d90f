"""What a run is going to do, said before it does it: its cells, what they share, and what they are expected to take.

Nothing is written, and nothing is measured but the prices of single operations.
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analyses.analysis import Cell, analyses
from analyses.estimate import Estimate, estimate, known, size_of
from analyses.limits import refusals
from analyses.run import missing
from analyses.settings import Settings, differences
from analyses.store import Store
from diagnostics.cost.process_bytes import free_bytes

STARTUP = 2.0  # seconds that the first cell of a process takes more than it would later
FACTOR = 2  # within which 19 of 20 estimates were; see docs/scaling.md


@dataclass(frozen=True)
class Group:
    """Cells that differ in nothing but seed and rescaling: how many, those left, and what these are expected to take.

    `seconds` are of all that are left, None where some cell's work is not known; `bytes` are the largest cell's.
    """

    analyses: tuple[str, ...]
    problem: str
    optimizer: str
    arithmetic: str
    cells: int
    left: int
    seconds: float | None
    bytes: int


@dataclass(frozen=True)
class Plan:
    """A run's groups in the order of its analyses, what its cells have in common, and the memory that is free."""

    groups: tuple[Group, ...]
    asked: int  # cells, counted once for each analysis that asks for them
    longest: int  # inner steps of the longest loop
    calls: Mapping[str, int]  # batched operations by kind, of the cells that are left
    extended: int  # cells whose references are in extended precision
    refused: Mapping[str, str]
    free: int | None
    largest: tuple[int, ...]  # bytes of the cells that are left, the largest first

    @property
    def cells(self) -> int:
        """All cells, each once."""
        return sum(group.cells for group in self.groups)

    @property
    def left(self) -> int:
        """Those that are not done yet."""
        return sum(group.left for group in self.groups)

    def seconds(self, workers: int = 1) -> float:
        """The time of all that is known of the cells left, shared out evenly among workers."""
        known = sum(group.seconds or 0.0 for group in self.groups)
        return STARTUP + known / workers if self.left else 0.0


def plan(settings: Settings, finished: Set[str] = frozenset()) -> Plan:
    """The plan of a run of which the cells with the keys `finished` are done.

    Raises `ValueError` for settings that mean nothing, as the run itself would.
    """
    wanted = _askers(settings)
    estimates = {key: estimate(cell) for key, (cell, _) in wanted.items()}
    left = {cell.key: cell for cell in missing(settings, finished)}
    work = [found for key, found in estimates.items() if found is not None and key in left]
    grouped: dict[tuple[Any, ...], list[str]] = {}
    for key, (cell, names) in wanted.items():
        spec = cell.spec
        label = (names, str(spec.get("problem", cell.measurement)), _optimizer(spec), _arithmetic(spec))
        grouped.setdefault(label, []).append(key)
    calls: dict[str, int] = {}
    for found in work:
        for operation, count in found.work.items():
            calls[operation.kind] = calls.get(operation.kind, 0) + count
    told = [cell for cell, _ in wanted.values() if known(cell)]
    return Plan(
        groups=tuple(_group(label, keys, left, estimates) for label, keys in grouped.items()),
        asked=sum(len(names) for _, names in wanted.values()),
        longest=max((max(cell.spec["steps"]) for cell in told), default=0),
        calls=calls,
        extended=sum(size_of(cell).facts.exact.name == "extended" for cell in told),
        refused=refusals(left.values()),
        free=free_bytes(),
        largest=tuple(sorted((found.bytes for found in work), reverse=True)),
    )


def kept(folder: Path, identity: dict[str, Any]) -> set[str]:
    """The keys of the cells that the folder's run has done; none where there is no run.

    Raises `ValueError` where it is a run of another identity, naming a difference, and `Unusable` for what is no store.
    """
    store = Store(folder / "run.sqlite")
    found = store.identity()
    if found is None:
        return set()
    if found != identity:
        changes = differences(found, identity)
        raise ValueError(
            f"{folder}: expected a run of these settings, found one of others ({len(changes)} differ, as "
            f"{changes[0]}); choose another --out"
        )
    return store.keys()


def lines(told: Plan, workers: int = 1) -> Iterator[str]:
    """The plan as text, a line at a time."""
    done = f", {told.cells - told.left} done, {told.left} left" if told.left < told.cells else ""
    yield f"{told.cells} cells{done}"
    heads = ("analyses", "problem", "optimizer", "arithmetic", "cells", "left", "time", "memory")
    table = [heads, *(_cells_of(group) for group in told.groups)]
    widths = [max(len(row[at]) for row in table) for at in range(len(heads))]
    for row in table:
        words = [
            word.ljust(width) if at < 4 else word.rjust(width)
            for at, (word, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(words).rstrip()
    if told.asked > told.cells:
        yield f"shared: {told.asked} are asked for, {told.cells} measured, since analyses look at the same ones"
    if told.calls:
        steps, products = (told.calls.get(kind, 0) for kind in ("step", "product"))
        sweeps = told.calls.get("pull", 0)
        yield (
            f"the longest loop has {told.longest} inner steps, and one serves all its shorter ones; in all {steps} "
            f"batched steps, {sweeps} pulls of reverse sweeps, {products} Hessian-vector products"
        )
    if told.extended:
        yield f"references in extended precision: {told.extended} cells"
    together = sum(told.largest[:workers])
    free = "unknown" if told.free is None else _size(told.free)
    yield (
        f"about {_time(told.seconds(workers))} on {workers} worker{'s' * (workers > 1)}, as a rule within a factor of "
        f"{FACTOR}; at most {_size(together)} at once, beside the libraries, of {free} that are free"
    )
    unknown = sum(group.left for group in told.groups if group.seconds is None)
    if unknown:
        yield f"not estimated: {unknown} cells"
    for line in told.refused.values():
        yield f"refused: {line}"


def _askers(settings: Settings) -> dict[str, tuple[Cell, tuple[str, ...]]]:
    """Each cell by its key, with the analyses that ask for it."""
    found: dict[str, tuple[Cell, tuple[str, ...]]] = {}
    for name in settings.analyses:
        for key, cell in {cell.key: cell for cell in analyses[name].cells(settings)}.items():
            found[key] = (cell, (*found.get(key, (cell, ()))[1], name))
    return found


def _group(label: tuple[Any, ...], keys: list[str], left: Mapping[str, Cell], estimates: Mapping[str, Estimate | None]):
    found = [estimates[key] for key in keys if key in left]
    known = [one for one in found if one is not None]
    return Group(
        *label,
        cells=len(keys),
        left=len(found),
        seconds=sum(one.seconds for one in known) if len(known) == len(found) else None,
        bytes=max((one.bytes for one in known), default=0),
    )


def _optimizer(spec: Mapping[str, Any]) -> str:
    return str(spec.get("inner_optimizer", "-"))


def _arithmetic(spec: Mapping[str, Any]) -> str:
    return ",".join(spec["precisions"]) if "precisions" in spec else str(spec.get("precision", "-"))


def _cells_of(group: Group) -> tuple[str, ...]:
    return (
        ",".join(group.analyses),
        group.problem,
        group.optimizer,
        group.arithmetic,
        str(group.cells),
        str(group.left),
        "?" if group.seconds is None else _time(group.seconds),
        _size(group.bytes) if group.left else "-",
    )


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(count: int) -> str:
    return f"{count / 2**20:.0f} MiB" if count < 10 * 2**30 else f"{count / 2**30:.0f} GiB"
