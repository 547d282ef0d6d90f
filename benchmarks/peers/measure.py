"""One cell of the comparison: does a contender compute the gradient, how exactly, in how many seconds and bytes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.peers.contenders import Compute, Contender
from benchmarks.peers.rounds import Spread, interleaved, ratios, spread
from benchmarks.peers.setting import Setting, Workload
from diagnostics.cost.live_bytes import live_bytes
from diagnostics.metrics import distance

SAME = 1e-9  # a float64 difference above which it is another function: rounding alone leaves 1e-14 to 1e-11 here


@dataclass(frozen=True)
class Cell:
    """A workload with so many steps, and for the implicit gradient iterations of CG."""

    workload: Workload
    steps: int
    iterations: int | None

    @property
    def method(self) -> str:
        """`unrolled` or `implicit`."""
        return "unrolled" if self.iterations is None else "implicit"

    @property
    def label(self) -> str:
        """The cell's column in a table."""
        return f"{self.steps}" if self.iterations is None else f"{self.steps}, {self.iterations}"

    def setting(self, dtype: torch.dtype, *, posed: bool) -> Setting:
        """The cell's numbers; only the implicit gradient has a well-posed form of its own."""
        return self.workload.setting(dtype, self.steps, self.iterations, posed=posed and self.iterations is not None)


@dataclass(frozen=True)
class Check:
    """What a contender's gradients are, before any is timed: relative errors over the tasks, and bytes.

    `float64_difference` is the worst task's from gradgauge, both in float64; the other errors are float32's.
    """

    float64_difference: float
    error_median: float
    error_worst: float
    peak_bytes: int | None

    @property
    def same(self) -> bool:
        """Whether it is the same function of the same numbers."""
        return self.float64_difference <= SAME


@dataclass(frozen=True)
class Row:
    """A contender in a cell; `failed` says why there is nothing else."""

    cell: Cell
    contender: Contender
    failed: str | None = None
    check: Check | None = None
    seconds: list[float] | None = None
    to_plain: Spread | None = None
    to_fastest_peer: Spread | None = None
    fastest_peer: str | None = None
    to_fastest_loop: Spread | None = None
    fastest_loop: str | None = None

    @property
    def median_seconds(self) -> float | None:
        """Seconds, median over rounds."""
        return None if self.seconds is None else spread(self.seconds).median


def measure(cell: Cell, contenders: Mapping[Contender, Compute], rounds: int, *, clock: str, memory: bool) -> list[Row]:
    """The rows of a cell: all contenders are checked before any is timed, and one that fails is left out of the rounds.

    The reference is gradgauge's in float64 from float32's numbers; that `plain` meets it is its check. The fastest peer
    is the one of the least median time among those whose gradient is right, the fastest loop that among those of them
    that take one task after the other.
    """
    exact, working = (cell.setting(dtype, posed=True) for dtype in (torch.float64, torch.float32))
    timed = cell.setting(torch.float32, posed=False)
    ours = next(compute for contender, compute in contenders.items() if contender.kind == "ours")
    reference = ours(exact)
    checks: dict[Contender, Check] = {}
    failed: dict[Contender, str] = {}
    for contender, compute in contenders.items():
        try:
            if not compute(timed).isfinite().all():
                raise ArithmeticError("its gradient on the timed problem is not finite")
            errors = _errors(compute(working), reference)
            checks[contender] = Check(
                float64_difference=float(_errors(compute(exact), reference).max()),
                error_median=float(errors.median()),
                error_worst=float(errors.max()),
                # Compiled code makes its buffers below what can be counted.
                peak_bytes=live_bytes(_bound(compute, timed)).peak if memory and not contender.compiled else None,
            )
        except Exception as error:  # whatever happens inside a peer is a finding about that peer
            failed[contender] = f"{type(error).__name__}: {error}".splitlines()[0]
    seconds = interleaved({c.name: _bound(contenders[c], timed) for c in checks}, rounds, clock)
    peers = [c for c, check in checks.items() if c.kind == "peer" and check.same]
    medians = {c.name: spread(seconds[c.name]).median for c in peers}
    fastest = min(medians, key=medians.__getitem__, default=None)
    loop = min((c.name for c in peers if not c.batched), key=medians.__getitem__, default=None)
    return [
        Row(
            cell,
            contender,
            check=checks[contender],
            seconds=seconds[contender.name],
            to_plain=ratios(seconds[contender.name], seconds["plain"]) if "plain" in seconds else None,
            to_fastest_peer=ratios(seconds[contender.name], seconds[fastest]) if fastest else None,
            fastest_peer=fastest,
            to_fastest_loop=ratios(seconds[contender.name], seconds[loop]) if loop else None,
            fastest_loop=loop,
        )
        if contender in checks
        else Row(cell, contender, failed=failed[contender])
        for contender in contenders
    ]


def _errors(gradients: Tensor, reference: Tensor) -> Tensor:
    """Relative errors `(B,)`, infinite where a gradient is not finite."""
    return torch.nan_to_num(distance(gradients, reference).relative_error, nan=torch.inf)


def _bound(compute: Compute, setting: Setting) -> Callable[[], Tensor]:
    return lambda: compute(setting)
