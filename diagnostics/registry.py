"""Registries: a name for everything that a user can choose, filled by importing the package that holds it."""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Generic, TypeVar, cast

T = TypeVar("T")
Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Registry(Generic[T]):
    """Named entries of one kind, loaded from every module of `package` when first asked for.

    A module adds itself with `@registry.register("name")`, so that a new entry is one new file and no central list.
    """

    kind: str
    package: str
    entries: dict[str, T] = field(default_factory=dict)

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Enter the decorated object as `name`; a name that is taken raises `ValueError`."""

        def enter(entry: Entry) -> Entry:
            if name in self.entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice; give one of them another name")
            self.entries[name] = cast(T, entry)  # typed as itself, so that the name it is bound to keeps its type
            return entry

        return enter

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        self._load()
        return tuple(sorted(self.entries))

    def __getitem__(self, name: str) -> T:
        """The entry called `name`; an unknown name raises `ValueError` with the nearest known one."""
        self._load()
        if name not in self.entries:
            raise ValueError(unknown(self.kind, name, self.names()))
        return self.entries[name]

    def _load(self) -> None:
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__, f"{self.package}."):
            importlib.import_module(module.name)


def unknown(kind: str, name: str, known: tuple[str, ...]) -> str:
    """One line for an unknown name: what was found, the nearest known name, and all that are known."""
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {kind} {name!r}; {guess}known: {', '.join(known)}"
