"""Any settings come back equal: as JSON, from a manifest, from the identity of a store, and from a TOML file."""

import json
import math
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as trials
from hypothesis import strategies as st

from analyses import settings
from analyses.finished import read_run, settings_of
from analyses.folder import write_manifest
from analyses.settings import TABLES, Settings, as_json, differences, fingerprint, read_file, resolve
from analyses.store import Store

# What JSON and TOML spell in their own ways: quotes, backslashes, control letters, lines that end, other planes.
NAMES = st.one_of(
    st.sampled_from(
        ["sinusoid[activation=relu]", "<script>", '"', "\\", "\x00", "\x7f", "\r\n", "\u2028", "\U0001f600"]
    ),
    st.text(max_size=4),
)
SIZES = st.one_of(st.sampled_from([5e-324, 0.1, 1e16, 1e22, 1.7976931348623157e308, 1.0]), st.floats(5e-324, 1e300))
COUNTS = st.one_of(st.sampled_from([1, 10**7]), st.integers(1, 10**7))
SEEDS = st.one_of(st.sampled_from([0, 2**53 + 1, 2**63 - 1]), st.integers(0, 2**63 - 1))


def some(of: st.SearchStrategy[Any], least: int = 1) -> st.SearchStrategy[list[Any]]:
    return st.lists(of, min_size=least, max_size=3)


KINDS: list[tuple[Any, st.SearchStrategy[Any]]] = [  # pairs, since kinds of one limit each have no hash
    (settings.Each, some(NAMES)), (settings.OneOrMore, some(NAMES)), (settings.Some, some(NAMES, 0)),
    (settings.Seeds, some(SEEDS)), (settings.Steps, some(st.one_of(st.just(0), COUNTS))),
    (settings.Iterations, some(COUNTS)), (settings.Count, COUNTS),
    (settings.CountOrNone, st.one_of(st.just(0), COUNTS)), (settings.Seed, SEEDS), (settings.Positive, SIZES),
    (settings.Strength, st.one_of(st.sampled_from([0.0, -0.0]), SIZES)),
    (get_type_hints(settings.Cost, include_extras=True)["largest_bytes"], SEEDS),
    (settings.Device, st.sampled_from(["cpu", "cuda", "cuda:7"])), (str, NAMES), (bool, st.booleans()),
]  # fmt: skip


def values(kind: Any) -> st.SearchStrategy[Any]:
    """What an entry of this kind may be; None, where it may be that, stands for an entry that is left out."""
    if NoneType in get_args(kind):
        return st.one_of(st.none(), *(values(one) for one in get_args(kind) if one is not NoneType))
    found = [strategy for known, strategy in KINDS if known == kind]
    assert found, f"no values are known for an entry of the kind {kind}"
    return found[0]


def table(of: type) -> st.SearchStrategy[dict[str, Any]]:
    """A table of a settings file, its entries out of order, and those with a default sometimes left out."""
    kinds = get_type_hints(of, include_extras=True)
    drawn = {name: values(kinds[name]) for name in of.__dataclass_fields__}
    needed = {field.name for field in fields(of) if repr(field.default).startswith("<dataclasses")}  # pyright: ignore[reportArgumentType]
    optional = {name: strategy for name, strategy in drawn.items() if name not in needed}
    return st.fixed_dictionaries({name: drawn[name] for name in drawn if name in needed}, optional=optional)


FILES = st.fixed_dictionaries(
    {
        kind: st.lists(table(of), min_size=Settings.__dataclass_fields__[name].default != (), max_size=2)
        for kind, (name, of) in TABLES.items()
    }
    | {"analyses": some(NAMES), "compiled": st.booleans()}
).map(lambda file: {name: value for name, value in file.items() if value != []})  # no table is not an empty list


def resolved(file: dict[str, Any]) -> Settings:
    entries = dict(file)
    return resolve(tuple(entries.pop("analyses")), "smoke", entries, {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings")


def same(one: Settings, other: Settings) -> None:
    """Equal, and in every bit: -0.0 is not 0.0, and 1 not 1.0."""
    assert one == other and repr(one) == repr(other)


@given(file=FILES)
@trials(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_settings_come_back_equal_from_a_manifest_and_from_a_store(file: dict[str, Any], folder: Path) -> None:
    chosen = resolved(file)
    write_manifest(folder, {"settings": as_json(chosen)})
    told = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["settings"]
    same(settings_of(told), chosen)
    store = Store(folder / "run.sqlite")
    store.path.unlink(missing_ok=True)
    store.begin({"settings": as_json(chosen)})
    kept = store.identity()
    assert kept is not None
    same(settings_of(kept["settings"]), chosen)
    for again in (told, kept["settings"]):
        assert differences(as_json(chosen), again) == [] and fingerprint(again) == fingerprint(as_json(chosen))


def toml(value: Any) -> str:
    """A value as TOML spells it."""
    if isinstance(value, dict):
        return "\n".join(f"{name} = {toml(entry)}" for name, entry in value.items() if entry is not None)
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    # A string of JSON is one of TOML where all that is not ASCII stands for itself, but for this one letter.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


@given(file=FILES)
@trials(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_a_file_gives_the_settings_that_its_entries_give(file: dict[str, Any], folder: Path) -> None:
    """Written as a user would, one table after the other, each entry in the words of TOML."""
    lines = [toml({"compiled": file["compiled"]})]
    for kind in TABLES:
        lines += [f"[[{kind}]]\n{toml(entries)}" for entries in file.get(kind, [])]
    path = folder / "settings.toml"
    path.write_bytes("\n\n".join(lines).encode())
    found = read_file(path)
    same(resolve(tuple(file["analyses"]), "smoke", found, {}), resolved(file))


@given(file=FILES, data=st.data())
@trials(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_settings_that_differ_in_one_entry_are_told_apart(file: dict[str, Any], data: st.DataObject) -> None:
    chosen = resolved(file)
    kind, (name, of) = data.draw(st.sampled_from([(kind, found) for kind, found in TABLES.items() if file.get(kind)]))
    at = data.draw(st.integers(0, len(file[kind]) - 1))
    entry = data.draw(st.sampled_from(sorted(of.__dataclass_fields__)))
    old = getattr(getattr(chosen, name)[at], entry)
    new = data.draw(values(get_type_hints(of, include_extras=True)[entry]))
    tables = [*file[kind][:at], file[kind][at] | {entry: new}, *file[kind][at + 1 :]]
    other = resolved(file | {kind: tables})
    changed = getattr(getattr(other, name)[at], entry)
    if changed == old:
        assert differences(as_json(chosen), as_json(other)) == []
        return
    lines = differences(as_json(chosen), as_json(other))
    assert lines and all(line.startswith(f"{name}[{at}].{entry}") for line in lines)
    assert fingerprint(as_json(chosen)) != fingerprint(as_json(other))


def test_a_run_tells_its_settings_by_its_store_alone(folder: Path) -> None:
    """As one that was interrupted before it wrote anything else does."""
    chosen = resolve(("steps",), "smoke", {}, {"inner_lr": 5e-324, "seeds": (2**63 - 1,)}, ("quadratic",))
    run = folder / "run"
    run.mkdir()
    Store(run / "run.sqlite").begin({"settings": as_json(chosen), "source": "0" * 64})
    same(read_run(run).settings, chosen)
    assert math.ulp(0.0) == chosen.grids[0].inner_lr
