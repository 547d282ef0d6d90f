"""A run that is stopped anywhere and gone on with ends in the table of an undisturbed one, in any order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from analyses import folder, run
from analyses.analysis import Cell
from analyses.engine import Failed, Inline, Measured, Result
from analyses.lock import Locked, locked
from analyses.settings import Settings, resolve
from analyses.store import Store

ASKED = {"steps": (0, 1, 3), "iterations": (1, 2), "tasks": 2, "seeds": (0, 1, 2), "precisions": ("float32", "float64")}


@pytest.fixture(scope="module")
def settings() -> Settings:
    return resolve(("steps", "cg"), "smoke", {}, {**ASKED, "reference_seconds": 0.0}, ("quadratic[dimension=3]",))


@pytest.fixture(scope="module")
def known(settings: Settings) -> dict[str, Measured]:
    """What each cell's rows are."""
    results = [result for found in Inline().results(run.cells_of(settings), "auto") for result in found]
    return {result.cell.key: result for result in results if isinstance(result, Measured)}


@dataclass(frozen=True)
class Replayed:
    """An engine that knows the results, gives them in an order and in groups, and is stopped after some groups."""

    known: dict[str, Measured]
    order: Sequence[float]
    group: int
    stop: int | None = None

    def results(self, cells: Sequence[Cell], mode: str) -> Iterator[list[Result]]:
        shuffled = sorted(range(len(cells)), key=lambda at: self.order[at % len(self.order)])
        for at, first in enumerate(range(0, len(shuffled), self.group)):
            if at == self.stop:
                raise KeyboardInterrupt
            yield [self.known[cells[n].key] for n in shuffled[first : first + self.group]]

    def record(self) -> dict[str, Any]:
        return {}


def begun(path: Path) -> Store:
    path.mkdir(exist_ok=True)
    store = Store(path / "run.sqlite")
    store.begin({})
    return store


def as_text(settings: Settings, store: Store) -> dict[str, str]:
    return {name: table.to_csv() for name, table in folder.tables(settings, store)}


@pytest.fixture(scope="module")
def undisturbed(
    settings: Settings, known: dict[str, Measured], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    store = begun(tmp_path_factory.mktemp("whole"))
    run.measure_all(settings, store, lambda _: None, Replayed(known, [0.0], 1))
    return as_text(settings, store)


@trials(max_examples=12)
@given(
    orders=st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=6), min_size=1, max_size=4),
    group=st.integers(1, 4), stops=st.lists(st.integers(0, 3), max_size=3),
)  # fmt: skip
def test_it_is_resumed_from_any_prefix_in_any_order(
    orders: list[list[float]], group: int, stops: list[int], settings: Settings, known: dict[str, Measured],
    undisturbed: dict[str, str], tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    store = begun(tmp_path_factory.mktemp("run"))
    reported: list[str] = []

    def report(progress: run.Progress) -> None:
        assert progress.cell.key in store.keys()  # what is told is kept
        assert progress.done == len(reported) + 1 and progress.total == len(known)
        reported.append(progress.cell.key)

    for turn, stop in enumerate(stops):
        engine = Replayed(known, orders[turn % len(orders)], group, stop)
        done = len(reported)
        if done + stop * group < len(known):
            with pytest.raises(KeyboardInterrupt):
                run.measure_all(settings, store, report, engine)
            assert len(reported) == done + stop * group
    assert run.measure_all(settings, store, report, Replayed(known, orders[-1], group)) == []
    assert sorted(reported) == sorted(known)
    assert as_text(settings, store) == undisturbed


def test_a_failure_is_told_and_tried_again(settings: Settings, known: dict[str, Measured], tmp_path: Path) -> None:
    class OneFails(Replayed):
        def results(self, cells: Sequence[Cell], mode: str) -> Iterator[list[Result]]:
            yield [Failed(cells[0], "no"), *(self.known[cell.key] for cell in cells[1:])]

    store, told = begun(tmp_path), []
    (failed,) = run.measure_all(settings, store, told.append, OneFails(known, [0.0], 1))
    assert failed.reason == "no" and len(told) == len(known)
    assert run.missing(settings, store.keys()) == [failed.cell]
    assert run.measure_all(settings, store, told.append, Replayed(known, [0.0], 1)) == []
    assert told[-1].cell == failed.cell and (told[-1].done, told[-1].total) == (len(known), len(known))


def test_one_driver_at_a_time(settings: Settings, known: dict[str, Measured], tmp_path: Path) -> None:
    store = begun(tmp_path)
    with locked(tmp_path), pytest.raises(Locked, match="expected a run that nobody is measuring, found process"):
        run.measure_all(settings, store, lambda _: None, Replayed(known, [0.0], 1))
    assert store.keys() == set()
    assert run.measure_all(settings, store, lambda _: None, Replayed(known, [0.0], 1)) == []
