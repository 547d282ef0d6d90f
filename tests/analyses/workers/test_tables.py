"""One sweep of every analysis, measured by whomever: the tables that the command writes are the same bytes."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster

from analyses import engine as engines
from analyses.analysis import Cell
from analyses.engine import Inline, Result
from analyses.tolerances import CLOCKS
from analyses.workers import facts, link
from tests.analyses.workers.conftest import Cluster
from tests.test_cli import TINY, contents, refused, run

SWEEP = ("--problem", "quadratic[dimension=3]", "--problem", "logistic[dimension=3,examples=4]", "--steps", "0,1,3",
         "--iterations", "1,2", "--tasks", "2", "--seed", "0", "--precision", "bfloat16,float32", "--scaling",
         "none,power_of_two", "--traced", "float32", "--reference-seconds", "9")  # fmt: skip
pytestmark = pytest.mark.usefixtures("one_kind")


def tables(folder: Path) -> dict[str, list[list[str]]]:
    """The text of every table, but for the columns in which a clock was read."""
    found = {}
    for path in sorted((folder / "tables").iterdir()):
        with path.open(newline="") as file:
            names, *rows = csv.reader(file)
        kept = [at for at, name in enumerate(names) if name not in CLOCKS]
        found[path.name] = [[row[at] for at in kept] for row in (names, *rows)]
    return found


@pytest.fixture(scope="module")
def threads() -> Iterator[str]:
    """The address of a scheduler whose two workers are threads of this process: a cluster that starts at once."""
    made: Any = LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp", host="127.0.0.1",
        dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False},
    )  # fmt: skip
    with made as started:
        yield started.scheduler_address


def test_a_scheduler_and_its_workers_give_the_bytes_of_this_process(threads: str, tmp_path: Path) -> None:
    """What travels, and in which order it comes back, is in no table; real processes are below."""
    several = ("run", "steps", *TINY, "--seed", "0,1,2,3,4", "--precision", "bfloat16,float64")
    for name, who in (("here", ()), ("there", ("--cluster", threads))):
        done = run(*several, *who, "--out", tmp_path / name)
        assert done.exit_code == 0 and "[10/10]" in done.stderr, done.output
    here, there = contents(tmp_path / "here"), contents(tmp_path / "there")
    assert here["tables/steps.csv"] == there["tables/steps.csv"] and len(here["tables/steps.csv"]) > 10_000


@pytest.mark.parametrize(("what", "told"), [("torch", "torch: "), ("gradgauge's source", "gradgauge's source: ")])
def test_workers_of_another_version_are_refused_and_leave_nothing(
    what: str, told: str, threads: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = facts.facts()
    monkeypatch.setattr(link, "facts_here", lambda: mine | {what: "9.9"})
    refused(
        run("run", "steps", *TINY, "--cluster", threads, "--out", tmp_path / "run"), 2,
        "expected this gradgauge and its libraries there", f"{told}{mine[what]}, and here 9.9", "install the same",
    )  # fmt: skip
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[str]]]:
    """The tables of an inline run."""
    folder = tmp_path_factory.mktemp("inline")
    done = run("report", *SWEEP, "--out", folder)
    assert done.exit_code == 0, done.output
    found = tables(folder)
    assert len(found) >= 8 and all(len(rows) > 10 for rows in found.values())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2", "4"])
def test_so_do_one_and_two_and_four_processes(workers: str, here: dict[str, list[list[str]]], tmp_path: Path) -> None:
    folder = tmp_path / "a run"
    done = run("report", *SWEEP, "--engine", "local", "--workers", workers, "--out", folder)
    assert done.exit_code == 0, done.output
    assert tables(folder) == here


@pytest.mark.slow
def test_so_does_a_cluster(two: Cluster, here: dict[str, list[list[str]]], tmp_path: Path) -> None:
    done = run("report", *SWEEP, "--cluster", two.file, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert tables(tmp_path) == here


@pytest.mark.slow
def test_a_run_may_be_begun_here_and_completed_by_a_cluster(
    two: Cluster, here: dict[str, list[list[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is no part of the settings: the rest of an interrupted run is measured by others."""

    class Stops:
        def results(self, cells: Sequence[Cell], mode: str) -> Iterator[list[Result]]:
            yield from Inline().results(cells[: len(cells) // 2], mode)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engines, "engine", lambda asked, tell: nullcontext(Stops()))
        assert run("report", *SWEEP, "--out", tmp_path).exit_code == 130
    assert not (tmp_path / "tables").exists()
    done = run("report", *SWEEP, "--cluster", two.file, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "[1/" not in done.stderr and tables(tmp_path) == here
