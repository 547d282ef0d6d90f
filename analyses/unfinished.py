"""Where a cell that takes hours keeps what it has done so far: in the run folder, beside the store.

A cell is a pure function of its arguments, and the folder is none of them: it changes when a cell ends, and not what it
ends in. So it goes beside: whoever measures a run names its folder (`keeping`), a task's text carries the name to the
process that does the work, and a measurement that can be resumed asks for its place (`place_of`). Where there is no
folder, or a worker on another machine does not see it, a cell begins at its beginning.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from analyses.analysis import Cell

_folder: ContextVar[Path | None] = ContextVar("unfinished", default=None)


@contextmanager
def keeping(folder: Path | str | None) -> Iterator[None]:
    """Let cells that are measured inside keep their unfinished work under `folder`, if it is there."""
    there = Path(folder).absolute() if folder is not None and Path(folder).is_dir() else None
    token = _folder.set(there)
    try:
        yield
    finally:
        _folder.reset(token)


def folder() -> str | None:
    """The folder that was named, as a task's text has it."""
    found = _folder.get()
    return None if found is None else str(found)


def place_of(measurement: str, spec: Mapping[str, Any]) -> Path | None:
    """The folder of one cell's own, which it may create; None where nothing is to be kept."""
    found = _folder.get()
    return None if found is None else found / "unfinished" / Cell(measurement, spec).key[:16]
