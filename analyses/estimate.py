"""What a cell is expected to take, in seconds and in bytes, before it is measured.

Seconds are the counts of `work` times the `prices` of this machine. Bytes are those of what lives at once: the states
of the loops, and the largest of the whole graph of a loop, the graphs at all ends with what an eigenvalue or linear
solver keeps beside them, and the rows of the table. The bytes of one task's graph are counted in float64, where that
takes milliseconds; in another arithmetic a number has another width, and what is computed on the way comes to
`WORKSPACE` times as much.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import log
from typing import Any

from analyses.analysis import Cell
from analyses.prices import Where, seconds
from analyses.work import EIGENVALUES, SIZING, WORKS, Facts, Work
from diagnostics.certified import affordable
from diagnostics.chunks import saved_bytes, tasks_that_fit
from diagnostics.inner import make_optimizer, run_inner
from diagnostics.reference import FLOAT64, NEAR, WRITTEN_OUT
from diagnostics.rows import take_rows

WIDTH = {"bfloat16": 4, "float16": 4, "float32": 4, "float64": 8, "extended": 16}  # bytes; low ones are also widened
WORKSPACE = {"extended": 4.0}  # of what autograd keeps; products of matrices are split into slices there
PLAIN = 1.5  # the same in an arithmetic of the machine
ROW_BYTES = 2500  # of a row of the table, as Python's objects
ROW_SECONDS = 3e-5  # to judge one and to keep it
BASE_BYTES = 20 * 2**20  # code that is loaded and caches that fill, whatever the cell
DRAWN = 64  # tasks that are drawn to learn what they are like; a run of millions must not be begun to be refused
COPIES = 3  # of the tasks: as drawn, in the cell's arithmetic, and in that of the references
PROBED = 40  # inner steps whose rate of decrease foretells how far the minimiser is


@dataclass(frozen=True)
class Estimate:
    """What a cell is expected to take, and the work that the seconds are of."""

    seconds: float
    bytes: int
    work: Work


@dataclass(frozen=True)
class Size:
    """A cell's facts, the bytes in float64 of one task's graph and of the task itself, and the width S of a state."""

    facts: Facts
    graph_bytes: int
    task_bytes: int
    state: int


def known(cell: Cell) -> bool:
    """Whether anything can be said of a cell: its work is known, and it is done on the processor, which is here."""
    return cell.measurement in WORKS and cell.spec.get("device", "cpu") == "cpu"


def estimate(cell: Cell) -> Estimate | None:
    """The expectation for a cell; None where it is not known."""
    if not known(cell):
        return None
    size, spec = size_of(cell), cell.spec
    work = WORKS[cell.measurement](spec, size.facts)
    each = seconds(Where.of(spec), work, recorded=cell.measurement != "cost")
    whole = size.facts.chunks * each + rows_of(cell) * ROW_SECONDS
    return Estimate(whole, bytes_of(cell), Work({key: size.facts.chunks * count for key, count in work.items()}))


def size_of(cell: Cell, *, probe: bool = True) -> Size:
    """The facts that a cell's counts depend on. Without `probe` no minimiser is looked for, and it takes milliseconds.

    Raises `ValueError` for names and numbers that mean nothing.
    """
    spec = cell.spec
    copies = {
        "grid": max(*spec["steps"], len(spec["steps"])),
        "cost": 0,
    }.get(cell.measurement, 4 * len(spec["steps"]))
    search = spec["patience"] if probe else 0
    where = Where.of(spec)
    return _size(
        where, spec["tasks"], copies, max(spec["steps"]), spec["reference_seconds"], search, spec.get("chunk", 0)
    )


@lru_cache(maxsize=1024)
def _size(
    where: Where, tasks: int, copies: int, longest: int, reference_seconds: float, patience: int, chunk: int
) -> Size:
    problem = where.build()
    drawn = min(tasks, DRAWN) if reference_seconds else 0
    theta, data = problem.draw(max(1, drawn), 0)
    first_theta, first = theta[:1], take_rows(data, slice(0, 1))
    optimizer = make_optimizer(where.inner_optimizer, problem, where.inner_lr)
    start = problem.start(first_theta, first)
    everyone = first_theta.expand(tasks, -1)  # of which no more than the first is looked at
    together = tasks if copies == 0 else chunk or tasks_that_fit(problem, everyone, first, copies)
    known = problem.minimizer is not None
    steps = 0 if known or not patience else min(patience, _search(where))
    facts = Facts(
        unknowns=start.shape[-1],
        implicit=problem.has_implicit_gradient,
        closed_form=known,
        convex=problem.constants is not None,
        tasks=min(tasks, together),
        chunks=-(-tasks // together),
        exact=affordable(problem, theta, data, longest, reference_seconds * drawn / tasks) if drawn else FLOAT64,
        search=steps,
        reached=known or steps < patience,
    )
    each = sum(x.element_size() * x.numel() for x in (first_theta, *first.values()))
    return Size(facts, _graph_bytes(where), each, optimizer.start(start).shape[-1])


@lru_cache(maxsize=256)
def _graph_bytes(where: Where) -> int:
    problem = where.build()
    return saved_bytes(problem, *problem.draw(1, 0))


@lru_cache(maxsize=256)
def _search(where: Where) -> int:
    """The inner steps after which the gradient has fallen to `NEAR` of its first, as the rate over `PROBED` foretells.

    The rate is that of the second half, in which what falls quickly has fallen. For a gradient that does not fall it is
    a number of steps that is beyond any patience.
    """
    problem = where.build()
    theta, data = problem.draw(2, 0)
    optimizer = make_optimizer(where.inner_optimizer, problem, where.inner_lr)
    norms = run_inner(problem, optimizer, theta, data, PROBED).gradient_norms
    first, middle, last = (norms[at].log() for at in (0, PROBED // 2, PROBED))
    rate = (middle - last) / (PROBED - PROBED // 2)
    left = (last - first) - log(NEAR)
    steps = (PROBED + left / rate.clamp(min=1e-9)).max()
    return int(steps.nan_to_num(nan=1e9, posinf=1e9).clamp(0, 1e9))


def bytes_of(cell: Cell) -> int:
    """The bytes that a cell is expected to have alive at once, beside those that the process has anyway.

    Raises `ValueError` for names and numbers that mean nothing.
    """
    spec, size = cell.spec, size_of(cell, probe=False)
    facts, steps = size.facts, tuple(spec["steps"])
    own = _arithmetics(spec)
    widest = max((*own, facts.exact.name), key=lambda name: WIDTH[name])
    at_ends = len(steps) * facts.tasks

    def graph(arithmetic: str) -> float:
        return size.graph_bytes * WIDTH[arithmetic] / WIDTH["float64"] * WORKSPACE.get(arithmetic, PLAIN)

    # The loop in its own arithmetic, in float64, and in the two settings of the reference; others come one by one.
    states = (max(steps) + 1) * facts.tasks * size.state * (WIDTH[own[0]] + 8 + 2 * WIDTH[facts.exact.name])
    phases = [at_ends * graph(widest)]
    if cell.measurement == "grid":
        # A graph for each step of the loop, all of the same data.
        shared = size.task_bytes / max(1, size.graph_bytes)
        phases.append(facts.tasks * graph(own[0]) * (1 + max(steps) * max(0.1, 1 - shared)))
    if cell.measurement == "cost":
        phases = [facts.tasks * graph(widest)]  # the gradients that are priced are refused one by one where too large
    dense = spec.get("dense_below", EIGENVALUES)
    rows = facts.tasks if cell.measurement == "cost" else at_ends
    if facts.unknowns <= max(dense, WRITTEN_OUT):
        kept = 4 * facts.unknowns**2
    else:
        kept = min(spec.get("lanczos_iterations", SIZING), facts.unknowns) * facts.unknowns
    phases.append(rows * (graph("float64") + 8 * kept))
    given = COPIES * spec["tasks"] * size.task_bytes
    return int(BASE_BYTES + given + states + max(phases) + rows_of(cell) * ROW_BYTES)


def rows_of(cell: Cell) -> int:
    """About how many rows of the table a cell gives."""
    spec = cell.spec
    ends, counts = len(spec["steps"]) * spec["tasks"], len(spec["iterations"])
    if cell.measurement == "grid":
        return ends * (10 + 8 * counts)
    if cell.measurement == "budget":
        return ends * len(spec["precisions"]) * (12 + 8 * counts)
    if cell.measurement == "cost":
        return ends * 2 * (len(spec["estimators"]) + counts)
    traced = len(spec["traced"]) * 6 * max(spec["steps"]) * spec["tasks"]
    return ends * (len(spec["precisions"]) + 1) * (3 + 3 * counts) + traced


def _arithmetics(spec: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(spec["precisions"]) if "precisions" in spec else (spec["precision"],)
