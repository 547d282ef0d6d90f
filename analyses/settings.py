"""Settings: what a run is asked to do, checked, and merged from a preset, a file and the command line in that order."""

import json
import re
import tomllib
from dataclasses import asdict
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from diagnostics.registry import unknown

LARGEST_FILE = 1 << 20  # bytes of a settings file; a real one has a few hundred

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Strength = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10**7)]
CountOrNone = Annotated[int, Field(ge=0, le=10**7)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Several = Field(min_length=1)
Each = Annotated[tuple[str, ...], Several, AfterValidator(lambda names: tuple(dict.fromkeys(names)))]
OneOrMore = Annotated[
    tuple[str, ...],
    Several,
    BeforeValidator(lambda x: (x,) if isinstance(x, str) else tuple(x) if isinstance(x, list) else x),
    AfterValidator(lambda names: tuple(dict.fromkeys(names))),
]
Some = Annotated[tuple[str, ...], AfterValidator(lambda names: tuple(dict.fromkeys(names)))]
Seeds = Annotated[tuple[Seed, ...], Several, AfterValidator(lambda seeds: tuple(dict.fromkeys(seeds)))]
Steps = Annotated[tuple[CountOrNone, ...], Several, AfterValidator(lambda counts: tuple(sorted(set(counts))))]
Iterations = Annotated[tuple[Count, ...], Several, AfterValidator(lambda counts: tuple(sorted(set(counts))))]


def _device(name: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", name):
        raise PydanticCustomError("device", "expected cpu, cuda, or one of several GPUs as cuda:1")
    return name


Device = Annotated[str, AfterValidator(_device)]  # whether it is there is not asked here

STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, config=STRICT)
class Grid:
    """One grid of measurements: every problem with every seed in every arithmetic, over inner steps and solver
    iterations.

    0 steps are allowed (the identity). `inner_lr` and `strength` replace the problem's own. `exact_iterations` bounds
    the solve to rounding, `patience` the further inner steps in search of the minimiser; `chunk` is tasks at a time,
    0 for as many as fit. `device` is `cpu`, `cuda` or `cuda:N`, here as in the other tables: all is computed there from
    numbers drawn on the CPU.
    """

    problems: Each
    steps: Steps
    iterations: Iterations
    tasks: Count
    seeds: Seeds
    precisions: Each = ("float64",)
    inner_optimizer: str = "gd"
    inner_lr: Positive | None = None
    strength: Strength | None = None
    exact_iterations: Count = 500
    patience: CountOrNone = 5000
    lanczos_iterations: Count = 60
    dense_below: CountOrNone = 256
    chunk: CountOrNone = 0
    reference_seconds: Strength = 5.0
    device: Device = "cpu"


@dataclass(frozen=True, config=STRICT)
class Rounding:
    """One study of rounding: every problem with every seed under every rescaling, in all the arithmetics at once.

    Each gradient is compared with the same one in extended precision, from the same numbers: those that the coarsest of
    the arithmetics can hold. `reference_seconds` is what a reference in extended precision may take, by estimate;
    beyond it is float64's. `traced` names arithmetics coarser than float64 in which each inner step's own error is
    looked for too.
    """

    problems: Each
    steps: Steps
    iterations: Iterations
    tasks: Count
    seeds: Seeds
    precisions: Each = ("bfloat16", "float16", "float32", "float64")
    scalings: Each = ("none",)
    inner_optimizer: str = "gd"
    inner_lr: Positive | None = None
    strength: Strength | None = None
    patience: CountOrNone = 5000
    reference_seconds: Strength = 120.0
    traced: Some = ()
    device: Device = "cpu"


@dataclass(frozen=True, config=STRICT)
class Cost:
    """One comparison of costs: every problem with every seed, arithmetic and inner optimizer.

    The gradients are those of `estimators`, `implicit` once for each number of CG `iterations`; each is timed `repeats`
    times. `processes` asks for the memory of a fresh process too, which takes some seconds a gradient. A gradient that
    is estimated to take more than `longest_seconds`, or more than `largest_bytes` (0: most of what is free), is not
    tried. `patience` is the further inner steps in search of the minimiser.
    """

    problems: Each
    steps: Steps
    iterations: Iterations
    tasks: Count
    seeds: Seeds
    precisions: Each = ("float32",)
    inner_optimizer: OneOrMore = ("gd",)
    estimators: Each = ("unrolled", "unrolled_adjoint", "checkpointed", "first_order", "implicit")
    repeats: Count = 3
    inner_lr: Positive | None = None
    strength: Strength | None = None
    patience: CountOrNone = 2000
    lanczos_iterations: Count = 30
    reference_seconds: Strength = 0.0
    processes: bool = False
    longest_seconds: Positive = 600.0
    largest_bytes: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: Device = "cpu"


@dataclass(frozen=True, config=STRICT)
class Budget:
    """One split of errors: every problem with every seed, in all the arithmetics at once, from the same numbers.

    The parts are told by extended precision where that is estimated to take at most `reference_seconds`, and by float64
    beyond. `iterations` are those of CG; `exact_iterations` bounds the solve to rounding, and `patience` the further
    inner steps in search of the minimiser.
    """

    problems: Each
    steps: Steps
    iterations: Iterations
    tasks: Count
    seeds: Seeds
    precisions: Each = ("bfloat16", "float32")
    inner_optimizer: str = "gd"
    inner_lr: Positive | None = None
    strength: Strength | None = None
    exact_iterations: Count = 1000
    patience: CountOrNone = 5000
    reference_seconds: Strength = 5.0
    device: Device = "cpu"


@dataclass(frozen=True, config=STRICT)
class Training:
    """Training runs: every problem by every method with every number of inner steps, arithmetic, rescaling and seed.

    The entries are those of `diagnostics.training.recipe.Recipe`, one or several of each: `steps` are inner steps in
    training, `iterations` those of CG, which with `solvers` multiply the methods that use it; `tasks` make a batch.
    """

    problems: Each
    methods: Each
    steps: Steps
    tasks: Count
    seeds: Seeds
    meta_iterations: Count
    iterations: Iterations = (5,)
    solvers: Each = ("cg_unchecked",)
    precisions: Each = ("float32",)
    scalings: Each = ("none",)
    inner_optimizer: str = "gd"
    inner_lr: Positive | None = None
    strength: Strength | None = None
    outer_optimizer: str = "adam"
    meta_lr: Positive = 1e-3
    schedule: str = "constant"
    clip_norm: Strength = 0.0
    clip_value: Strength = 0.0
    validate_every: Count = 100
    validation_tasks: Count = 100
    probe_every: CountOrNone = 0
    probe_tasks: Count = 4
    patience: CountOrNone = 0
    reference_seconds: Strength = 0.0
    test_steps: Steps = (1, 3, 5, 10, 20)
    test_tasks: Count = 600
    chunk: CountOrNone = 0
    device: Device = "cpu"


@dataclass(frozen=True, config=STRICT)
class Settings:
    """Everything that decides what a run measures: its analyses, tables of each kind, and whether it compiles."""

    analyses: Each
    grids: Annotated[tuple[Grid, ...], Several]
    roundings: Annotated[tuple[Rounding, ...], Several]
    costs: Annotated[tuple[Cost, ...], Several]
    budgets: Annotated[tuple[Budget, ...], Several]
    trainings: tuple[Training, ...] = ()  # training takes hours, so that no preset asks for any
    generalized: tuple[Training, ...] = ()
    compiled: bool = False

    def tables(self) -> "tuple[Grid | Rounding | Cost | Budget | Training, ...]":
        """The tables of every kind."""
        return (*self.grids, *self.roundings, *self.costs, *self.budgets, *self.trainings, *self.generalized)


TABLES: dict[str, tuple[str, type]] = {
    "grid": ("grids", Grid),
    "rounding": ("roundings", Rounding),
    "cost": ("costs", Cost),
    "budget": ("budgets", Budget),
    "training": ("trainings", Training),
    "generalized": ("generalized", Training),
}


class Unreadable(ValueError):
    """A settings file that cannot be read at all, as against one that says something wrong."""


def presets() -> tuple[str, ...]:
    """The names of the presets."""
    folder = resources.files("analyses") / "presets"
    return tuple(sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".toml")))


def preset_tables(name: str) -> dict[str, Any]:
    """A preset as a settings file spells it; `ValueError` for an unknown name."""
    if name not in presets():
        raise ValueError(unknown("preset", name, presets()))
    text = (resources.files("analyses") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


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

    A file's `[[grid]]` tables replace the preset's, and likewise those of each other kind; its other entries, and
    flags that are not None, go into every table that has them. Chosen `problems` take the table that names them, or
    else the first. Raises `ValueError` naming every entry that is wrong.
    """
    entries = dict(file)
    preset_has = preset_tables(preset)
    tables = {kind: entries.pop(kind, preset_has.get(kind)) for kind in TABLES}
    entries |= {key: value for key, value in flags.items() if value is not None}
    wanted: dict[str, Any] = {"analyses": list(analyses), "compiled": entries.pop("compiled", False)}
    fields = {kind: tuple(of.__dataclass_fields__) for kind, (_, of) in TABLES.items()}
    for kind, (name, _) in TABLES.items():
        found = tables[kind]
        if found is None and Settings.__dataclass_fields__[name].default == ():
            continue
        if not (isinstance(found, list) and found and all(isinstance(table, dict) for table in found)):
            raise ValueError(f"settings: expected `{kind}` to be one or more [[{kind}]] tables")
        # An entry that only another kind of table has is not for this one; one that none has is complained of.
        others = {key for other, names in fields.items() if other != kind for key in names} - set(fields[kind])
        merged = [table | {key: value for key, value in entries.items() if key not in others} for table in found]
        if problems:
            merged = [_table_of(problem, merged) | {"problems": [problem]} for problem in problems]
        wanted[name] = merged
    try:
        text = json.dumps(wanted, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:  # an argument that the shell gave in bytes of another encoding
        near = str(error.object)[max(0, error.start - 20) : error.end + 20]
        raise ValueError(f"settings: expected text in UTF-8, found {near!r}") from None
    try:
        return TypeAdapter(Settings).validate_json(text)
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
    return [] if old == new else [f"{name}: {_shown(old)} -> {_shown(new)}"]


def _shown(value: Any) -> str:
    """The value, or how many entries it has where it would fill lines, as tables of a sweep do."""
    text = json.dumps(value)
    if len(text) <= 80 or not isinstance(value, list | dict):
        return text
    return "1 entry" if len(value) == 1 else f"{len(value)} entries"


def _table_of(problem: str, tables: list[dict[str, Any]]) -> dict[str, Any]:
    name = problem.partition("[")[0]
    for wanted in (problem, name):
        for table in tables:
            if any(wanted in (known, known.partition("[")[0]) for known in table.get("problems", ())):
                return table
    return tables[0]


def _in_words(detail: Any) -> str:
    tables = {name: of for name, of in TABLES.values()}
    path = [part for part in detail["loc"] if part not in tables and not isinstance(part, int)]
    where = ".".join(map(str, path)) or "settings"
    if detail["type"] == "unexpected_keyword_argument":
        table = tables.get(detail["loc"][0], Grid)
        known = tuple(table.__dataclass_fields__)
        return unknown("entry", where, known)
    return f"{where}: {detail['msg'][0].lower()}{detail['msg'][1:]}, found {detail['input']!r:.80}"
