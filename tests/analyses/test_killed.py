"""A cell that was given up is a row, in every analysis's table and on the page; the other rows stay as they are."""

from pathlib import Path

import pandas as pd
import pytest

import cli
from analyses import folder, killed, run
from analyses.analysis import Cell, analyses
from analyses.engine import Inline, Killed, Result
from analyses.settings import Settings, resolve
from analyses.store import Store
from diagnostics.outcome import Outcome
from figures.report import answers, write_report

NAMES = cli.ANALYSES  # those of the presets, which have a figure
FLAGS = {
    "steps": (0, 1, 3), "iterations": (1, 2), "tasks": 2, "seeds": (0, 1), "reference_seconds": 0.0,
    "scalings": ("none", "standardize"), "traced": ("float32",), "repeats": 1, "estimators": ("unrolled", "implicit"),
}  # fmt: skip


class FirstSeedKills:
    """An engine in whose hands the cells of seed 0 end badly."""

    def results(self, cells, mode):  # noqa: ANN001, ANN201
        for cell in cells:
            found: list[Result] = [Killed(cell, 4)] if cell.spec["seed"] == 0 else []
            yield found or next(iter(Inline().results([cell], mode)))

    def record(self):  # noqa: ANN201
        return {}


def settings(name: str) -> Settings:
    return resolve((name,), "smoke", {}, FLAGS, ("quadratic[dimension=3]",))


def tables(name: str, path: Path, engine=None, **options) -> dict[str, pd.DataFrame]:  # noqa: ANN001, ANN003
    path.mkdir(exist_ok=True)
    store = Store(path / "run.sqlite")
    store.begin({})
    assert run.measure_all(settings(name), store, lambda _: None, engine, **options) == []
    return dict(folder.tables(settings(name), store))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_row_beside_the_others(name: str, tmp_path: Path) -> None:
    asked = settings(name)
    found = tables(name, tmp_path / "run", FirstSeedKills())[name]
    lost = found[found["outcome"] == "killed"]
    assert len(lost) == sum(cell.spec["seed"] == 0 for cell in analyses[name].cells(asked)) > 0
    assert set(lost["seed"]) == {0} and set(lost["problem"]) == {"quadratic[dimension=3]"} and set(lost["task"]) == {-1}
    assert lost[["relative_error", "seconds", "inner_steps", "estimator"]].isna().all().all()
    assert set(found.loc[found["outcome"] != "killed", "seed"]) == {1}

    folder.write_tables(tmp_path, {name: found})
    again = folder.read_tables(tmp_path)[name]
    pd.testing.assert_frame_equal(again, found)
    page = write_report(tmp_path, {name: again}, {}).read_text()
    assert "killed" in page and "--retry-killed" in page
    assert answers({name: again})


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_table_of_nothing_else_makes_a_page(name: str, tmp_path: Path) -> None:
    asked = settings(name)
    store = Store(tmp_path / "run.sqlite")
    store.begin({})
    with store.opened() as kept:
        kept.put_many([run.to_keep(Killed(cell, 4)) for cell in analyses[name].cells(asked)])
    found = dict(folder.tables(asked, store))
    assert set(found[name]["outcome"]) == {"killed"}
    assert "killed" in write_report(tmp_path, found, {}).read_text()


def test_it_is_not_measured_again_unless_asked(tmp_path: Path) -> None:
    first = tables("steps", tmp_path, FirstSeedKills())["steps"]
    assert tables("steps", tmp_path)["steps"].equals(first)
    assert {cell.spec["seed"] for cell in run.given_up(settings("steps"), Store(tmp_path / "run.sqlite").keys())} == {0}
    retried = tables("steps", tmp_path, retry_killed=True)["steps"]
    assert set(retried["outcome"]) == {"ok"} | set(first["outcome"]) - {"killed"}
    assert set(retried["seed"]) == {0, 1}
    assert not run.given_up(settings("steps"), Store(tmp_path / "run.sqlite").keys())
    undisturbed = tables("steps", tmp_path / "whole")["steps"]
    pd.testing.assert_frame_equal(retried, undisturbed, check_exact=True)


def test_the_row_holds_what_was_asked_and_no_number() -> None:
    cell = Cell("grid", {"problem": "p", "seed": 3, "inner_lr": None, "strength": 2.0, "chunk": 0, "steps": (1, 2)})
    assert killed.rows(cell) == [
        {"problem": "p", "seed": 3, "strength": 2.0, "task": -1, "outcome": Outcome.KILLED.label}
    ]
    assert killed.epitaph(cell).key != cell.key
