"""A run folder as it was left, read without writing anything into it: its manifest, settings, cells and tables."""

import csv
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from analyses.folder import read_tables, tables
from analyses.run import cells_of
from analyses.settings import Settings, Unreadable, as_json
from analyses.store import VERSION, Store, Unusable
from analyses.table import COLUMNS

STORE = "run.sqlite"


@dataclass(frozen=True)
class Finished:
    """A run. Where it was interrupted before it wrote them, the tables come from the store, and the manifest knows no
    more than the store does: the settings and the code.

    `absent` are the columns that a table's file does not have, by analysis.
    """

    folder: Path
    manifest: Mapping[str, Any]
    settings: Settings
    tables: Mapping[str, pd.DataFrame]
    absent: Mapping[str, set[str]]


def read_run(folder: Path) -> Finished:
    """The run in a folder. Raises `Unreadable` or `Unusable`, in one line, where that is none, or is damaged.

    Every row of the store is held against its hash. The store is read in a copy: SQLite writes even where it only
    reads, and a run that is looked at must stay as it is.
    """
    stored = _stored(folder)
    path = folder / "manifest.json"
    if not path.exists() and stored is not None:
        settings, source, found = stored
        known = {"settings": as_json(settings), "source": {"sha256": source}}
        return Finished(folder, known, settings, found, {})
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict):
            raise ValueError(f"{type(manifest).__name__} in manifest.json")
        settings = settings_of(manifest.get("settings"))
        found = read_tables(folder)
        absent = {name: _absent(folder / "tables" / f"{name}.csv") for name in found}
    except (OSError, ValueError) as error:
        raise Unreadable(f"{folder}: expected a run (manifest.json, tables/*.csv), found {_first(error)}") from None
    strange = sorted(set(found) - set(settings.analyses))
    if strange or not found:
        has = f"tables of {', '.join(strange)}" if strange else "no tables"
        raise Unreadable(f"{folder}: expected the tables of {', '.join(settings.analyses)}, found {has}")
    return Finished(folder, manifest, settings, found, {name: lost for name, lost in absent.items() if lost})


def settings_of(value: Any) -> Settings:
    """Settings as a manifest spells them; `ValueError` for what this code cannot mean."""
    try:
        return TypeAdapter(Settings).validate_json(json.dumps(value))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "settings"
        raise ValueError(f"settings that this version does not know ({where}: {first['msg'].lower()})") from None


def _stored(folder: Path) -> tuple[Settings, str | None, dict[str, pd.DataFrame]] | None:
    """The settings, the code's hash and the tables of the store, all of it verified; None where there is no store."""
    if not (folder / STORE).is_file():
        return None
    with _copied(folder) as copy:
        if (folder / "manifest.json").exists() and 0 < _version(copy) < VERSION:
            return None  # an older gradgauge's, which the tables can do without
        try:
            store = Store(copy)
            identity = store.identity()
            if identity is None:
                return None
            settings = settings_of(identity.get("settings"))
            finished = store.keys()
            for cell in cells_of(settings):
                if cell.key in finished:
                    store.rows(cell)
            return settings, identity.get("source"), dict(tables(settings, store))
        except Unusable as error:
            raise Unusable(str(error).replace(str(copy), str(folder / STORE))) from None
        except OSError as error:
            raise Unreadable(f"{folder / STORE}: expected a store, found {error.strerror or error}") from None
        except ValueError as error:
            raise Unreadable(f"{folder / STORE}: expected a run of this version, found {_first(error)}") from None


def _version(path: Path) -> int:
    """The schema version in the header of an SQLite file; 0 for any other."""
    header = path.read_bytes()[:64]
    return int.from_bytes(header[60:64], "big") if header.startswith(b"SQLite format 3") else 0


@contextmanager
def _copied(folder: Path) -> Iterator[Path]:
    """The store and what belongs to it, elsewhere."""
    with TemporaryDirectory(prefix="gradgauge-") as elsewhere:
        for suffix in ("", "-wal", "-journal"):
            path = folder / f"{STORE}{suffix}"
            if path.is_file():
                try:
                    shutil.copyfile(path, Path(elsewhere) / path.name)
                except OSError as error:
                    said = error.strerror or error
                    raise Unreadable(f"{path}: expected a file that can be read, found {said}") from None
        yield Path(elsewhere) / STORE


def _absent(path: Path) -> set[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return set(COLUMNS) - set(next(csv.reader(file), []))


def _first(error: Exception) -> str:
    said = str(error).splitlines()
    return said[0] if said else type(error).__name__
