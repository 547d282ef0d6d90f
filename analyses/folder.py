"""What a run folder holds on disk beside the store: the tables and the manifest.

A CSV file may be opened by a spreadsheet, which takes text that starts with `=`, `+`, `-`, `@`, a tab or a line break
for a formula, and runs it. Such text is written behind an apostrophe, as text that starts with one is and as empty text
is (an empty cell is no text at all), and loses it again on reading: tables come back as they were.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.analysis import Cell, Rows, analyses
from analyses.killed import epitaph
from analyses.settings import Settings
from analyses.store import Opened, Store
from analyses.table import TEXT, in_kind, tidy
from diagnostics.files import write_whole

FRAME = 20_000  # rows
QUOTED = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


def tables(settings: Settings, store: Store) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each analysis's name and table, from the cells that are finished, in the order of the settings."""
    with store.reading() as kept:
        finished = kept.keys()
        for name in settings.analyses:
            asked = analyses[name].cells(settings)
            cells = [cell for cell in asked if cell.key in finished]
            given_up = [epitaph(cell) for cell in asked if cell.key not in finished]
            given_up = [cell for cell in given_up if cell.key in finished]
            if cells or given_up:
                table = analyses[name].view(pd.concat(_frames(kept, cells), ignore_index=True))
                if given_up:  # beside the view, which chooses among numbers, and such a row has none
                    table = pd.concat([table, *_frames(kept, given_up)], ignore_index=True)
                yield name, table.assign(analysis=name).reset_index(drop=True)


def _frames(kept: Opened, cells: Sequence[Cell]) -> list[pd.DataFrame]:
    """The cells' rows in frames that are neither many (making one takes milliseconds) nor large as dictionaries."""
    frames, rows = [], Rows()
    for cell in cells:
        rows += kept.rows(cell)
        if len(rows) >= FRAME:
            frames.append(tidy(rows))
            rows = Rows()
    return [*frames, tidy(rows)] if rows or not frames else frames


def require_parquet() -> None:
    """`ValueError` where Parquet files cannot be written, to be called before anything is measured."""
    try:
        # Only whether it is there: pandas uses it, and the extra may not be installed.
        import pyarrow.parquet  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(
            "--parquet: expected the package pyarrow, found none; install gradgauge[parquet], or leave the option out"
        ) from None


def write_tables(folder: Path, named: Mapping[str, pd.DataFrame], *, parquet: bool = False) -> None:
    """The tables as `tables/<analysis>.csv`, floats in full, and as `.parquet` beside it where asked."""
    for name, table in named.items():
        write_whole(folder / "tables" / f"{name}.csv", as_csv(table))
        if parquet:
            content = BytesIO()
            table.to_parquet(content, engine="pyarrow", index=False)
            write_whole(folder / "tables" / f"{name}.parquet", content.getvalue())


def read_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables of a run folder, as they were written."""
    return {path.stem: from_csv(path) for path in sorted((folder / "tables").glob("*.csv"))}


def as_csv(table: pd.DataFrame) -> bytes:
    """A table as CSV that no spreadsheet takes for a formula; `from_csv` gives the same table."""
    texts = {name: table[name] for name in table.columns if name in TEXT}
    risky = {name: text.str.startswith(QUOTED, na=False) | (text == "").fillna(False) for name, text in texts.items()}
    safe = table.assign(**{name: text.mask(risky[name], "'" + text) for name, text in texts.items()})
    returns = any(text.str.contains("\r", regex=False, na=False).any() for text in texts.values())
    quoting = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL  # the latter leaves a carriage return bare
    return safe.to_csv(index=False, lineterminator="\n", quoting=quoting).encode()


def from_csv(path: Path) -> pd.DataFrame:
    """The table that `as_csv` was given, from its file."""
    # Numbers are read as text first: the reader's own floats may be off by one in the last bit.
    table = in_kind(pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""]))
    return table.assign(**{name: _bare(table[name]) for name in TEXT})


def _bare(text: pd.Series) -> pd.Series:
    quoted = text.str.startswith("'", na=False)
    return text.mask(quoted, text.str[1:]) if quoted.any() else text


def write_manifest(folder: Path, value: dict[str, Any]) -> None:
    """The manifest as `manifest.json`."""
    write_whole(folder / "manifest.json", json.dumps(value, indent=2).encode() + b"\n")


def make_writable(folder: Path) -> None:
    """Create the folder and prove that it can be written; what was created is removed again where it cannot."""
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / ".probe", b"")
        (folder / ".probe").unlink(missing_ok=True)
    except OSError:
        for path in created:
            if path.is_dir():
                path.rmdir()
        raise
