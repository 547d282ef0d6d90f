"""How much work a cell is: the counts of the few operations that its time goes into, before any is made.

An operation is one batched call: a `step` of the inner loop; the `graph` of a step and a `pull` through it; the inner
loss to second order at a point, `linearise`, and a `product` with the Hessian there. A loop of K steps is K steps; a
reverse sweep that serves the ends k in E is K graphs and sum(k) pulls; the systems at all ends are one batch of
|E| B rows, whose iterations are products.

Counts that depend on numbers not yet known are said to be what they are at most, but for two: the search for the
minimiser goes on for as long as the first steps' rate of decrease foretells, and Newton's method takes `NEWTON` steps.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

from diagnostics.arithmetic.precision import PRECISIONS, Precision
from diagnostics.certified import coarser
from diagnostics.reference import FLOAT64, REFINEMENTS, WRITTEN_OUT

GIVEN_UP = 20  # products after which CG has met the negative curvature of a network that is far from a minimiser
NEWTON = 4  # steps of Newton's method from where the search ended; of the 20 allowed it mostly takes 3 to 5
TO_ROUNDING = 0.25  # products of CG or MINRES to rounding, relative to the unknowns: spectra of networks are clustered
SIZING = 60  # Lanczos iterations where a study has no setting for them
EIGENVALUES = 256  # weights up to which rounding and budget studies write the Hessian out
KINDS = 6  # kinds of operation that are rounded alone where digits are traced


@dataclass(frozen=True)
class Operation:
    """A batched call: its kind, the arithmetic or the coarser setting of one, and the rows of the batch."""

    kind: str
    setting: str
    rows: int


@dataclass(frozen=True)
class Facts:
    """What a cell's problem and tasks are like, as far as the counts depend on it.

    `unknowns` is N; `implicit` says whether there is an implicit gradient, `closed_form` whether the minimiser is
    known, `convex` whether theory's bounds are computed. `tasks` are those of one chunk, of which there are `chunks`;
    `exact` is the arithmetic of the references, `search` the steps in search of the minimiser, at most the cell's
    patience, and `reached` whether they are expected to lead there.
    """

    unknowns: int
    implicit: bool
    closed_form: bool
    convex: bool
    tasks: int
    chunks: int
    exact: Precision
    search: int
    reached: bool


Work = Counter[Operation]


@dataclass(frozen=True)
class _Count:
    """The counts of one chunk, as they are added up."""

    spec: Mapping[str, Any]
    facts: Facts
    work: Work

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(self.spec["steps"])

    @property
    def longest(self) -> int:
        return max(self.steps)

    @property
    def at_ends(self) -> int:
        return len(self.steps) * self.facts.tasks

    def add(self, kind: str, setting: str, count: float, rows: int | None = None) -> None:
        if count:
            self.work[Operation(kind, setting, rows or self.facts.tasks)] += ceil(count)

    def loop(self, setting: str) -> None:
        self.add("step", setting, self.longest + 1)

    def sweep(self, setting: str) -> None:
        """One reverse sweep for all ends."""
        self.add("graph", setting, self.longest)
        self.add("pull", setting, sum(self.steps))

    def iterated(self, setting: str, solves: int = 1) -> None:
        """Conjugate gradients at all ends; each kept iterate has a residual and a mixed product of its own."""
        counts = set(self.spec["iterations"])
        self.add("linearise", setting, solves, self.at_ends)
        self.add("product", setting, solves * (max(counts) + 2 * len(counts)), self.at_ends)

    def solution(self, most: int) -> float:
        """Products of one solve to rounding, by at most so many iterations where the Hessian is not written out."""
        unknowns, search = self.facts.unknowns, self.facts.search
        if unknowns <= WRITTEN_OUT:
            return unknowns
        if not (self.facts.reached and search):
            return min(most, max(WRITTEN_OUT, TO_ROUNDING * unknowns))
        # A loop that falls by 1e-5 in s steps of about 1/L has L/mu = s / log(1e5); CG takes sqrt(L/mu)/2 log(2/eps).
        return min(most, unknowns, 18 * sqrt(1 + search / 11.5))

    def settings(self, finest: Precision) -> tuple[str, str]:
        """The two settings in which `certified` computes a reference."""
        exact = self.facts.exact
        by_float64 = exact.eps < FLOAT64.eps < finest.eps
        return exact.name, FLOAT64.name if by_float64 else coarser(exact).name

    def stationary(self, finest: Precision) -> None:
        """The minimiser, and the gradient there in two settings."""
        if not self.facts.implicit:
            return
        self.loop("float64")
        self.minimise()
        for setting in self.settings(finest) if self.facts.reached else ():
            rounds = REFINEMENTS if setting.startswith("extended") else 0
            self.add("linearise", "float64", 1)
            self.add("linearise", setting, 1)
            self.add("product", setting, rounds + 3)
            self.add("step", setting, rounds + 1)
            self.add("product", "float64", (2 * rounds + 1) * self.solution(2000))

    def minimise(self) -> None:
        if not self.facts.closed_form:
            # Far from a minimiser the first solve meets negative curvature, or the first step does not lead down.
            solves = NEWTON * self.solution(2000) if self.facts.reached else self.solution(GIVEN_UP)
            self.add("step", "float64", self.facts.search)
            self.add("linearise", "float64", NEWTON + 1 if self.facts.reached else 2)
            self.add("product", "float64", solves)
        self.add("linearise", "float64", 1)
        self.add("product", "float64", min(SIZING, self.facts.unknowns))

    def spectrum(self, iterations: int, dense_below: int, rows: int | None = None, times: int = 1) -> None:
        unknowns, rows = self.facts.unknowns, rows or self.at_ends
        self.add("linearise", "float64", times, rows)
        each = unknowns if unknowns <= dense_below else min(iterations, unknowns)
        self.add("product", "float64", times * each, rows)

    def gradients(self, setting: str, *, solves: int = 1) -> None:
        """The unrolled and the implicit gradients at the ends of a loop."""
        self.sweep(setting)
        if self.facts.implicit:
            self.iterated(setting, solves)

    def references(self, finest: Precision, *, own: str) -> None:
        """The unrolled reference; `own` is an arithmetic in which the loop has been run already."""
        for setting in self.settings(finest):
            if setting != own:
                self.loop(setting)
            self.sweep(setting)


def grid_work(spec: Mapping[str, Any], facts: Facts) -> Work:
    """One chunk of a cell of the shared grid."""
    arithmetic, count = PRECISIONS[spec["precision"]], _Count(spec, facts, Counter())
    own, below = arithmetic.name, spec["dense_below"]
    count.loop(own)
    if own != "float64":
        count.loop("float64")
    count.references(arithmetic, own=own)
    count.stationary(arithmetic)
    count.spectrum(spec["lanczos_iterations"], below)
    count.add("graph", own, sum(count.steps) + count.longest)  # the whole graph for each end, and one sweep
    count.add("pull", own, 2 * sum(count.steps))
    if facts.implicit:
        for setting in {own, "float64"}:
            count.add("linearise", setting, 1, count.at_ends)
            unknowns, most = facts.unknowns, spec["exact_iterations"]
            count.add("product", setting, unknowns if unknowns <= below else most, count.at_ends)
        count.iterated(own, solves=2)
        if facts.convex:
            count.minimise()
    return count.work


def rounding_work(spec: Mapping[str, Any], facts: Facts) -> Work:
    """One chunk of a study of rounding."""
    arithmetics = [PRECISIONS[name] for name in spec["precisions"]]
    finest = min(arithmetics, key=lambda arithmetic: arithmetic.eps)
    count, exact = _Count(spec, facts, Counter()), facts.exact.name
    count.loop(exact)
    for setting in count.settings(finest):
        if setting != exact:
            count.loop(setting)
        count.gradients(setting)
    count.stationary(finest)
    count.loop("float64")
    count.spectrum(SIZING, EIGENVALUES)
    for arithmetic in arithmetics:
        if arithmetic != facts.exact:
            count.loop(arithmetic.name)
            count.gradients(arithmetic.name)
    if spec["scaling"] != "none":
        for setting in ("float64", coarser(FLOAT64).name):
            count.loop(setting)
            count.sweep(setting)
    # The growth rate: three power iterations, each to the end of the loop and back.
    count.loop("float64")
    count.add("graph", "float64", 6 * count.longest)
    count.add("pull", "float64", 9 * count.longest)
    for name in spec["traced"]:
        # The loop twice, every step again, three sweeps side by side, and a loop and a sweep for each kind of operation
        # under a mode that looks at each result.
        count.add("step", name, count.longest)
        count.add("step", "float64", count.longest)
        count.add("graph", "float64", 3 * count.longest)
        count.add("pull", "float64", 3 * count.longest)
        count.add("graph", name, count.longest)
        count.add("pull", name, count.longest)
        for kind in ("step", "graph", "pull"):
            count.add(kind, coarser(FLOAT64).name, (KINDS + 2) * count.longest)
    return count.work


def budget_work(spec: Mapping[str, Any], facts: Facts) -> Work:
    """One chunk of a split of errors."""
    arithmetics = [PRECISIONS[name] for name in spec["precisions"]]
    finest = min(arithmetics, key=lambda arithmetic: arithmetic.eps)
    count, exact = _Count(spec, facts, Counter()), facts.exact.name
    count.loop(exact)
    for setting in count.settings(finest):
        if setting != exact:
            count.loop(setting)
        count.gradients(setting)
        if facts.implicit:
            rounds = REFINEMENTS if setting.startswith("extended") else 0
            count.add("linearise", "float64", 1, count.at_ends)
            count.add("product", "float64", 10, count.at_ends)
            count.add("linearise", setting, 1, count.at_ends)
            count.add("product", setting, rounds + 2, count.at_ends)
            unknowns = facts.unknowns
            # Indefinite ends do not converge, so that all iterations are made.
            each = unknowns if unknowns <= WRITTEN_OUT else spec["exact_iterations"]
            count.add("product", "float64", (1 + rounds) * each, count.at_ends)
    count.stationary(finest)
    count.spectrum(SIZING, EIGENVALUES)
    for arithmetic in arithmetics:
        count.loop(arithmetic.name)
        count.gradients(arithmetic.name)
    return count.work


COUNTING = 9  # a gradient is made three times with every operation counted, which takes so many times as long together


def cost_work(spec: Mapping[str, Any], facts: Facts) -> Work:
    """The batch of a cell of costs: every way to a gradient, warmed up, timed and counted, and the references."""
    arithmetic, count = PRECISIONS[spec["precision"]], _Count(spec, facts, Counter())
    own, times, tasks = arithmetic.name, 1 + spec["repeats"] + COUNTING, facts.tasks
    count.loop(own)
    for steps in count.steps:
        count.add("step", own, times * (steps + 1))
        for name in spec["estimators"]:
            if name == "implicit":
                if facts.implicit:
                    for iterations in spec["iterations"]:
                        count.add("step", own, times * (steps + 1))
                        count.add("linearise", own, times)
                        count.add("product", own, times * (iterations + 2))
                continue
            count.add("step", own, times * (steps + 1) * (2 if name == "checkpointed" else 1))
            if name != "first_order":
                count.add("graph", own, times * steps)
                count.add("pull", own, times * steps)
    count.loop("float64")
    count.references(arithmetic, own=own)
    count.stationary(arithmetic)
    count.spectrum(spec["lanczos_iterations"], 64, rows=tasks, times=len(count.steps))
    return count.work


WORKS: dict[str, Callable[[Mapping[str, Any], Facts], Work]] = {
    "grid": grid_work,
    "rounding": rounding_work,
    "budget": budget_work,
    "cost": cost_work,
}
