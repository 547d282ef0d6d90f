"""How closely two runs can be asked to agree: to the last bit, to tolerances, or in distribution; and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analyses.settings import TABLES, differences

LEVELS = ("bitwise", "numeric", "statistical")
NAMED = 3  # differences that are named; more are counted


@dataclass(frozen=True)
class Level:
    """The level that two runs are compared at, and why at that one."""

    name: str
    why: str

    def __post_init__(self) -> None:
        """Refuse a level that nobody knows."""
        if self.name not in LEVELS:
            raise ValueError(f"level: expected one of {', '.join(LEVELS)}, found {self.name!r}")


def level_of(first: Mapping[str, Any], second: Mapping[str, Any], forced: str | None = None) -> Level:
    """The closest level at which the runs of two manifests can be expected to agree, or the one that is `forced`.

    Statistical where they have other seeds; bitwise where code, settings, libraries, processor and everything that can
    change a digit are the same; numeric otherwise, and where a manifest does not tell.
    """
    if forced is not None:
        return Level(forced, "as asked")
    if seeds(first.get("settings", {})) != seeds(second.get("settings", {})):
        return Level("statistical", "the seeds differ")
    if not first.get("numerics") or not second.get("numerics"):
        return Level("numeric", "no manifest tells where one of them was measured")
    changes = differences(digits_depend_on(first), digits_depend_on(second))
    if not changes:
        return Level("bitwise", "same machine, numerics, libraries, settings and code")
    more = f" and {len(changes) - NAMED} more" if len(changes) > NAMED else ""
    return Level("numeric", f"not measured alike: {'; '.join(_short(change) for change in changes[:NAMED])}{more}")


def digits_depend_on(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What in a manifest can change the last digit of a table."""
    machine, packages = manifest.get("machine", {}), manifest.get("packages", {})
    return {
        "source": manifest.get("source", {}).get("sha256"),
        "numerics": manifest.get("numerics"),
        "environment": manifest.get("environment", {}),
        "machine": {name: machine.get(name) for name in ("processor", "system", "torch built with")},
        "packages": {name: packages.get(name) for name in ("torch", "numpy", "pillow", "fonttools")},
        "data": manifest.get("data", {}),
        "settings": {k: v for k, v in (manifest.get("settings") or {}).items() if k != "analyses"},
    }


def seeds(settings: Mapping[str, Any]) -> list[Any]:
    """The seeds of every table of settings."""
    return [table.get("seeds") for name, _ in TABLES.values() for table in settings.get(name, [])]


def _short(change: str) -> str:
    """A change in words, with hashes cut to what the eye compares."""
    words = (f'{word[:9]}.."' if len(word) > 60 and word.startswith('"') else word for word in change.split(" "))
    return " ".join(words)
