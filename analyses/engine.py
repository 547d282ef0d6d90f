"""How the cells of a run get measured: here, one after the other, or by workers. Either way, what became of each.

An engine gives an iterator of lists of results, in whatever order they come; each list is to be kept at once. Whoever
consumes it is the only one who touches the store.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from analyses.analysis import Cell, Rows
from analyses.interrupt import interrupts
from analyses.task import THREADS, answers, as_text


@dataclass(frozen=True)
class Measured:
    """A cell with its rows, and the seconds that it took."""

    cell: Cell
    rows: Rows
    seconds: float


@dataclass(frozen=True)
class Failed:
    """A cell that could not be measured, and why, in one line."""

    cell: Cell
    reason: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Killed:
    """A cell that was given up, since so many workers died that were measuring it."""

    cell: Cell
    deaths: int
    seconds: float = 0.0


Result = Measured | Failed | Killed


class NoWorkers(RuntimeError):
    """No worker was alive for as long as one was waited for; what was finished is kept."""


class Engine(Protocol):
    """Measures cells; `mode` is that of `recording`."""

    def results(self, cells: Sequence[Cell], mode: str) -> Iterator[list[Result]]:
        """What became of each cell, once. Raises `NoWorkers`, and `KeyboardInterrupt` once what is done is given."""
        ...

    def record(self) -> dict[str, Any]:
        """What a manifest says of it."""
        ...


@dataclass(frozen=True)
class Inline:
    """One cell after the other, in this process."""

    def results(self, cells: Sequence[Cell], mode: str) -> Iterator[list[Result]]:
        """A list of one for each cell, in order. Ctrl-C ends the cell at work, and spares the keeping of the last."""
        with interrupts() as interrupted:
            for cell in cells:
                with interrupted.welcome():
                    results = paired([cell], answers(as_text([cell]), mode))
                yield results
            interrupted.raise_if_wished()

    def record(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {"engine": "inline", "threads per task": THREADS}


@dataclass(frozen=True)
class Asked:
    """What was asked for on the command line. Raises `ValueError` for what contradicts itself.

    `cluster` is a scheduler's address, or the file that it writes; `wait_for_workers` the seconds without a live worker
    after which a run ends. Several workers ask for the engine `local` by themselves.
    """

    engine: str | None = None
    workers: int | None = None
    cluster: str | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    wait_for_workers: float = 60.0

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        if self.engine not in (None, "inline", "local"):
            raise ValueError(f"--engine: expected inline or local, found {self.engine!r}; or give --cluster ADDRESS")
        if self.workers is not None and not 1 <= self.workers <= 1024:
            raise ValueError(
                f"--workers: expected 1 to 1024 processes, found {self.workers}; leave it out for one a core"
            )
        if not 0 < self.wait_for_workers < 10**7:
            raise ValueError(
                f"--wait-for-workers: expected seconds > 0, found {self.wait_for_workers:g}; leave it out for 60"
            )
        if self.cluster is not None and (self.engine is not None or self.workers is not None):
            raise ValueError("--cluster: expected no --engine or --workers, found one; the cluster has its own workers")
        if self.engine == "inline" and (self.workers or 1) > 1:
            raise ValueError(f"--workers: expected 1 with --engine inline, found {self.workers}; take --engine local")
        if self.tls and (len(self.tls) < 3 or self.cluster is None):
            raise ValueError(
                "--tls-ca, --tls-cert, --tls-key: expected all three, and --cluster; found only some of them"
            )
        for path in self.tls.values():
            if not Path(path).is_file():
                raise ValueError(f"{path}: expected a file in PEM format for TLS, found none there; give its path")

    @property
    def tls(self) -> dict[str, str]:
        """The files of TLS, under dask's names for them."""
        files = {"tls_ca_file": self.tls_ca, "tls_client_cert": self.tls_cert, "tls_client_key": self.tls_key}
        return {name: str(path) for name, path in files.items() if path is not None}

    @property
    def kind(self) -> str:
        """The engine that this asks for: inline, local or cluster."""
        if self.cluster is not None:
            return "cluster"
        return self.engine or ("local" if (self.workers or 1) > 1 else "inline")


def engine(asked: Asked, tell: Callable[[str], None]) -> AbstractContextManager[Engine]:
    """The engine asked for, to be used in a block that ends it; `tell` is given what a user should know meanwhile.

    Entering the block connects to a cluster, and raises `ValueError` where that cannot be; the workers of `local` are
    started when there is something to measure.
    """
    if asked.kind == "inline":
        return nullcontext(Inline())
    from analyses.workers.clusters import cluster, local  # dask takes a second to import

    if asked.cluster is None:
        return local(asked.workers, asked.wait_for_workers, tell)
    return cluster(asked.cluster, asked.tls, asked.wait_for_workers, tell)


def paired(cells: Sequence[Cell], found: Sequence[Any]) -> list[Result]:
    """Cells with their answers as results."""
    return [
        Failed(cell, answer.reason, answer.seconds)
        if answer.rows is None
        else Measured(cell, answer.rows, answer.seconds)
        for cell, answer in zip(cells, found, strict=True)
    ]
