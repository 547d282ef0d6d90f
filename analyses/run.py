"""A run: the cells of its analyses measured and kept; `analyses/folder.py` writes what comes of them.

`measure_all` may be stopped at any moment and called again; it does what is missing.
"""

from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analyses import killed, manifest
from analyses.analysis import Cell, Rows, analyses
from analyses.engine import Engine, Failed, Inline, Killed, Measured
from analyses.folder import make_writable
from analyses.limits import refusals
from analyses.lock import locked
from analyses.settings import Settings, as_json, differences, fingerprint
from analyses.store import Store
from analyses.unfinished import keeping


class OtherRun(ValueError):
    """A folder that holds a run of other settings."""


@dataclass(frozen=True)
class Progress:
    """One finished cell: the `done`-th of `total`, what it was, how long it took."""

    done: int
    total: int
    cell: Cell
    seconds: float


def identity(settings: Settings) -> dict[str, Any]:
    """What two runs must share for one to complete the other: the settings and the code."""
    return {"settings": as_json(settings), "source": manifest.source()["sha256"]}


def run_name(preset: str, settings: Settings) -> str:
    """A folder name that is the same for the same settings and code, so that a run begun again completes itself."""
    return f"{preset}-{fingerprint(identity(settings))[:10]}"


def open_run(folder: Path, settings: Settings) -> Store:
    """The folder's store, begun or to be completed.

    Raises `OtherRun`, naming the differences, for a folder whose run has other settings or other code, and `OSError`
    where the folder cannot be written; nothing is left behind then.
    """
    wanted = identity(settings)
    store = Store(folder / "run.sqlite")
    found = store.identity()
    if found is not None and found != wanted:
        changes = differences(found, wanted)
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        named = "; ".join(changes[:3])
        raise OtherRun(
            f"{folder}: expected to complete a run of these settings, found one of others ({named}{more}); "
            "choose another --out"
        )
    make_writable(folder)
    store.begin(wanted)
    return store


def cells_of(settings: Settings) -> list[Cell]:
    """The cells of all analyses, each once."""
    return list({cell.key: cell for name in settings.analyses for cell in analyses[name].cells(settings)}.values())


def missing(settings: Settings, finished: Set[str], *, retry_killed: bool = False) -> list[Cell]:
    """The cells that a store with these keys lacks; those that were given up among them where they are retried."""
    given_up = frozenset() if retry_killed else finished
    return [
        cell for cell in cells_of(settings) if cell.key not in finished and killed.epitaph(cell).key not in given_up
    ]


def given_up(settings: Settings, finished: Set[str]) -> list[Cell]:
    """The cells that a store with these keys has as given up."""
    lacking = [cell for cell in cells_of(settings) if cell.key not in finished]
    return [cell for cell in lacking if killed.epitaph(cell).key in finished]


def measure_all(
    settings: Settings,
    store: Store,
    report: Callable[[Progress], None],
    engine: Engine | None = None,
    *,
    retry_killed: bool = False,
    free: int | None = None,
) -> list[Failed]:
    """Measure what is missing, keeping each cell as it is done; the cells that failed, to be tried again next time.

    A cell that is estimated to need more than the `free` bytes is not tried; None where those are not known.

    A cell that was given up since its workers died is kept as a row that says so (`analyses/killed.py`). Without an
    engine the cells are measured here. Raises `Locked` where another driver is measuring into the same store.
    """
    mode = "compile" if settings.compiled else "auto"
    failed: list[Failed] = []
    with locked(store.path.parent), store.opened() as kept, keeping(store.path.parent):
        cells = missing(settings, kept.keys(), retry_killed=retry_killed)
        total = len(cells_of(settings))
        done = total - len(cells)
        refused = {} if free is None else refusals(cells, free)
        tried = [cell for cell in cells if cell.key not in refused]
        failed += [Failed(cell, refused[cell.key]) for cell in cells if cell.key in refused]
        done += len(failed)
        for results in (engine or Inline()).results(tried, mode):
            kept.put_many([to_keep(result) for result in results if not isinstance(result, Failed)])
            failed += [result for result in results if isinstance(result, Failed)]
            for result in results:
                done += 1
                report(Progress(done, total, result.cell, result.seconds))
    return failed


def to_keep(result: Measured | Killed) -> tuple[Cell, Rows, float]:
    """What a store is given for a result."""
    if isinstance(result, Killed):
        return killed.epitaph(result.cell), killed.rows(result.cell), result.seconds
    return result.cell, result.rows, result.seconds
