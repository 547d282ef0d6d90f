"""A run: the cells of its analyses measured and kept, then its tables and its manifest written into a folder.

`measure_all` may be stopped at any moment and called again; it does what is missing.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analyses import manifest
from analyses.analysis import Cell, analyses, measurements
from analyses.settings import Settings, as_json, differences, fingerprint
from analyses.store import Store
from analyses.table import in_kind, tidy
from diagnostics.files import write_whole
from diagnostics.recording import recording


class OtherRun(ValueError):
    """A folder that holds a run of other settings."""


@dataclass(frozen=True)
class Failed:
    """A cell that could not be measured, and why, in one line."""

    cell: Cell
    reason: str


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
    _make_writable(folder)
    store.begin(wanted)
    return store


def cells_of(settings: Settings) -> list[Cell]:
    """The cells of all analyses, each once."""
    return list({cell.key: cell for name in settings.analyses for cell in analyses[name].cells(settings)}.values())


def measure_all(settings: Settings, store: Store, report: Callable[[Progress], None]) -> list[Failed]:
    """Measure what is missing, keeping each cell as it is done; the cells that failed."""
    cells, finished = cells_of(settings), store.keys()
    missing = [cell for cell in cells if cell.key not in finished]
    failed = []
    for done, cell in enumerate(missing, start=len(cells) - len(missing) + 1):
        begun = time.perf_counter()
        try:
            with recording("compile" if settings.compiled else "auto"):
                rows = measurements[cell.measurement](cell.spec)
        except Exception as error:  # one cell's failure must not end the others; it is reported, and tried again
            failed.append(Failed(cell, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"))
        else:
            store.put(cell, rows, time.perf_counter() - begun)
        report(Progress(done, len(cells), cell, time.perf_counter() - begun))
    return failed


def tables(settings: Settings, store: Store) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each analysis's name and table, from the cells that are finished, in the order of the settings."""
    finished = store.keys()
    for name in settings.analyses:
        frames = [tidy(store.rows(cell)) for cell in analyses[name].cells(settings) if cell.key in finished]
        if frames:
            table = analyses[name].view(pd.concat(frames, ignore_index=True))
            yield name, table.assign(analysis=name).reset_index(drop=True)


def write_tables(folder: Path, named: dict[str, pd.DataFrame]) -> None:
    """The tables as `tables/<analysis>.csv`, floats in full."""
    for name, table in named.items():
        write_whole(folder / "tables" / f"{name}.csv", table.to_csv(index=False).encode())


def read_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables of a run folder, as they were written."""
    paths = sorted((folder / "tables").glob("*.csv"))
    return {path.stem: in_kind(pd.read_csv(path)) for path in paths}


def write_manifest(folder: Path, value: dict[str, Any]) -> None:
    """The manifest as `manifest.json`."""
    write_whole(folder / "manifest.json", json.dumps(value, indent=2).encode() + b"\n")


def _make_writable(folder: Path) -> None:
    """Create the folder and prove that it can be written; what was created is removed again where it cannot."""
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / ".probe", b"")
        (folder / ".probe").unlink()
    except OSError:
        for path in created:
            if path.is_dir():
                path.rmdir()
        raise
