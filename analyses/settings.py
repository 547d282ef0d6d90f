"""Settings: what a run is asked to do, checked, and merged from a preset, a file and the command line in that order."""

import json
import tomllib
from dataclasses import asdict
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, field_validator
from pydantic.dataclasses import dataclass

from diagnostics.registry import unknown

LARGEST_FILE = 1 << 20  # bytes of a settings file; a real one has a few hundred

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Strength = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10**7)]
CountOrNone = Annotated[int, Field(ge=0, le=10**7)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Several = Field(min_length=1)

STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, config=STRICT)
class Grid:
    """One grid of measurements: every problem with every seed in every arithmetic, over inner steps and solver
    iterations.

    0 steps are allowed (the identity). `inner_lr` and `strength` replace the problem's own. `exact_iterations` bounds
    the solve to rounding, `patience` the further inner steps in search of the minimiser; `chunk` is tasks at a time,
    0 for as many as fit.
    """

    problems: Annotated[tuple[str, ...], Several]
    steps: Annotated[tuple[CountOrNone, ...], Several]
    iterations: Annotated[tuple[Count, ...], Several]
    tasks: Count
    seeds: Annotated[tuple[Seed, ...], Several]
    precisions: Annotated[tuple[str, ...], Several] = ("float64",)
    inner_optimizer: str = "gd"
    inner_lr: Positive | None = None
    strength: Strength | None = None
    exact_iterations: Count = 500
    patience: CountOrNone = 5000
    lanczos_iterations: Count = 60
    dense_below: CountOrNone = 256
    chunk: CountOrNone = 0

    @field_validator("steps", "iterations")
    @classmethod
    def _ascending(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(values)))

    @field_validator("problems", "seeds", "precisions")
    @classmethod
    def _once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(values))


@dataclass(frozen=True, config=STRICT)
class Settings:
    """Everything that decides what a run measures: its analyses and their grids."""

    analyses: Annotated[tuple[str, ...], Several]
    grids: Annotated[tuple[Grid, ...], Several]


class Unreadable(ValueError):
    """A settings file that cannot be read at all, as against one that says something wrong."""


def presets() -> tuple[str, ...]:
    """The names of the presets."""
    folder = resources.files("analyses") / "presets"
    return tuple(sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".toml")))


def preset_grids(name: str) -> list[dict[str, Any]]:
    """The grids of a preset, as a settings file spells them; `ValueError` for an unknown name."""
    if name not in presets():
        raise ValueError(unknown("preset", name, presets()))
    text = (resources.files("analyses") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["grid"]


def read_file(path: Path) -> dict[str, Any]:
    """A settings file (TOML) as a dictionary; `Unreadable` in one line for whatever cannot be one."""
    try:
        if not path.is_file():
            raise Unreadable(
                f"{path}: expected a settings file, found {'a folder' if path.is_dir() else 'nothing there'}"
            )
        if path.stat().st_size > LARGEST_FILE:
            raise Unreadable(f"{path}: expected at most {LARGEST_FILE} bytes of settings, found {path.stat().st_size}")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except Unreadable:
        raise
    except (
        OSError,
        ValueError,
        RecursionError,
    ) as error:  # not TOML, not UTF-8, numbers of absurd length, deep nesting
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Unreadable(f"{path}: expected TOML settings, found {reason}") from None


def resolve(
    analyses: tuple[str, ...], preset: str, file: dict[str, Any], flags: dict[str, Any], problems: tuple[str, ...] = ()
) -> Settings:
    """The settings that a preset, a file's entries and the command line's flags give, the later the stronger.

    A file's `[[grid]]` tables replace the preset's; its other entries, and flags that are not None, go into every
    grid. Chosen `problems` take the grid that names them, or else the first. Raises `ValueError` naming every entry
    that is wrong.
    """
    entries = dict(file)
    grids = entries.pop("grid", None)
    grids = preset_grids(preset) if grids is None else grids
    if not (isinstance(grids, list) and grids and all(isinstance(grid, dict) for grid in grids)):
        raise ValueError("settings: expected `grid` to be one or more [[grid]] tables")
    entries |= {key: value for key, value in flags.items() if value is not None}
    merged = [grid | entries for grid in grids]
    if problems:
        merged = [_grid_of(problem, merged) | {"problems": [problem]} for problem in problems]
    try:
        adapter = TypeAdapter(Settings)
        return adapter.validate_json(
            json.dumps({"analyses": list(analyses), "grids": merged}, allow_nan=True, default=str)
        )
    except ValidationError as error:
        # A list whose entries are wrong is also called too short, and every grid complains alike: once is enough.
        wrong = [detail for detail in error.errors() if detail["type"] != "too_short" or not detail["input"]]
        raise ValueError("; ".join(dict.fromkeys(_in_words(detail) for detail in wrong))) from None


def as_json(settings: Settings) -> dict[str, Any]:
    """The settings as JSON values."""
    return json.loads(json.dumps(asdict(settings)))


def fingerprint(value: object) -> str:
    """A hash of JSON values that does not depend on the order of keys."""
    return sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Where two JSON values differ, one line each, as `name: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [line for key in keys for line in differences(old.get(key), new.get(key), f"{name}.{key}".strip("."))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for at, (a, b) in pairs for line in differences(a, b, f"{name}[{at}]")]
    return [] if old == new else [f"{name}: {json.dumps(old)} -> {json.dumps(new)}"]


def _grid_of(problem: str, grids: list[dict[str, Any]]) -> dict[str, Any]:
    name = problem.partition("[")[0]
    for wanted in (problem, name):
        for grid in grids:
            if any(wanted in (known, known.partition("[")[0]) for known in grid.get("problems", ())):
                return grid
    return grids[0]


def _in_words(detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"] if part != "grids" and not isinstance(part, int)) or "settings"
    if detail["type"] == "unexpected_keyword_argument":
        known = tuple(Grid.__dataclass_fields__)
        return unknown("entry", where, known)
    return f"{where}: {detail['msg'][0].lower()}{detail['msg'][1:]}, found {detail['input']!r:.80}"
