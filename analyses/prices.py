"""What one batched operation takes on this machine: each is made a few times, once for all the cells that have it.

An operation on very many rows is made on fewer and taken in proportion. Once
an operation of a plain arithmetic has taken `LONG` seconds in all, it is recorded and runs faster (see
`diagnostics.recording`), which `Prices.total` allows for.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import Tensor

from analyses.work import Operation, Work
from diagnostics.arithmetic.precision import PRECISIONS, Precision, enter_rows, precision
from diagnostics.certified import COARSER, coarser
from diagnostics.hessian import second_order
from diagnostics.inner import StepMap, advance, make_optimizer, run_inner
from diagnostics.one_step import take_step
from diagnostics.problem import Problem
from diagnostics.problem_names import build
from diagnostics.recording import LONG, recording

ROWS, ROWS_EXTENDED = 1024, 32  # beyond so many an operation is priced in proportion
ENOUGH = 0.05  # seconds of one operation after which it is not made again
SLOW = 2.0  # seconds of an operation that is made once only
TURNS = 3  # of which the fastest counts
RECORDING = 0.4  # seconds that it takes to record an operation
OVERHEAD = 0.005  # seconds: an operation that takes less consists of overhead, most of which a recording saves
RECORDED, RECORDED_LARGE = 0.45, 0.9  # what a recording takes, relative to the original


@dataclass(frozen=True)
class Where:
    """The problem and the inner optimizer whose operations are priced."""

    problem: str
    strength: float | None
    inner_lr: float | None
    inner_optimizer: str

    @staticmethod
    def of(spec: Mapping[str, Any]) -> "Where":
        """Those of a cell."""
        return Where(spec["problem"], spec["strength"], spec["inner_lr"], spec["inner_optimizer"])

    def build(self) -> Problem:
        """The problem itself."""
        return build(self.problem, strength=self.strength, learning_rate=self.inner_lr)


def setting(name: str) -> Precision:
    """The arithmetic, or the coarser setting, of a name in a cell's work."""
    return precision(name) if name in PRECISIONS else next(s for s in map(coarser, _CUT) if s.name == name)


_CUT = tuple(PRECISIONS[name] for name in COARSER)


def seconds(where: Where, work: Work, *, recorded: bool = True) -> float:
    """What the work takes; with `recorded`, what takes long goes faster once it has been recorded."""
    total = 0.0
    for operation, count in work.items():
        each = price(where, operation)
        plain = recorded and operation.setting in ("float32", "float64")
        total += _faster(each, count) if plain else each * count
    return total


def _faster(each: float, count: int) -> float:
    """The time of so many calls of an operation that is recorded once it has taken `LONG`."""
    whole = each * count
    if whole <= LONG:
        return whole
    after = (whole - LONG) * (RECORDED if each < OVERHEAD else RECORDED_LARGE)
    return min(whole, LONG + RECORDING + after)


@lru_cache(maxsize=4096)
def price(where: Where, operation: Operation) -> float:
    """The seconds of one operation, measured."""
    extended = operation.setting.startswith("extended")
    rows = min(operation.rows, ROWS_EXTENDED if extended else ROWS)
    calls = _operations(where, operation.setting, rows)
    return _fastest(calls[operation.kind]) * operation.rows / rows


@lru_cache(maxsize=64)
def _operations(where: Where, name: str, rows: int) -> dict[str, Callable[[], object]]:
    """The operations on a batch of so many tasks, at the start of the loop."""
    problem, arithmetic = where.build(), setting(name)
    theta, data = problem.draw(rows, 0)
    with arithmetic.running():
        theta, data = arithmetic.enter(theta), enter_rows(arithmetic, data)
        optimizer = make_optimizer(where.inner_optimizer, problem, where.inner_lr)
        loop = run_inner(problem, optimizer, theta, data, 0)
    state, w = loop.states[0], loop.final
    step = StepMap(problem.inner_loss, optimizer, loop.size, tuple(data))

    def inside(call: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            with recording("off"), arithmetic.running():
                return call()

        return run

    made: dict[str, Any] = {}

    def pull() -> Tensor:
        if "graph" not in made:
            made["graph"] = take_step(problem, loop, state)
        return made["graph"].pull(state)[0]

    def product() -> Tensor:
        if "point" not in made:
            made["point"] = second_order(problem, w, theta, data)
        return made["point"].hessian(w)

    return {
        "step": inside(lambda: advance(step, state, theta, data)),
        "graph": inside(lambda: take_step(problem, loop, state)),
        "pull": inside(pull),
        "linearise": inside(lambda: second_order(problem, w, theta, data)),
        "product": inside(product),
    }


def _fastest(call: Callable[[], object]) -> float:
    taken: list[float] = []
    # The first call of a kind loads and allocates, and does not count where there is time for a second one.
    while len(taken) < 2 and sum(taken) < SLOW or len(taken) <= TURNS and sum(taken[1:]) < ENOUGH:
        begun = time.process_time()  # of one thread: what else the machine does hardly counts
        call()
        taken.append(time.process_time() - begun)
    return min(taken)
