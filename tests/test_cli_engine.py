"""Who measures, as a user asks for it: refusals, cells that are given up, and terminals that read nothing."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from analyses import engine as engines
from analyses.engine import Inline, Killed, NoWorkers
from analyses.lock import locked
from tests.test_cli import ROOT, TINY, contents, refused, run

DOCS = ROOT / "docs" / "engine.md"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--engine", "lokal"], "expected inline or local"), (["--workers", "0"], "--workers: expected 1 to 1024"),
     (["--engine", "inline", "--workers", "2"], "take --engine local"), (["--cluster", "nowhere"], "no such file"),
     (["--cluster", "a:1", "--workers", "2"], "expected no --engine or --workers"),
     (["--wait-for-workers", "nan"], "expected seconds > 0"), (["--tls-key", "key.pem"], "expected all three")],
)  # fmt: skip
def test_what_cannot_be_is_refused_and_leaves_nothing(arguments: list[str], words: str, tmp_path: Path) -> None:
    refused(run("run", "steps", *TINY, *arguments, "--out", tmp_path / "run"), 2, words)
    assert not list(tmp_path.iterdir())


def test_a_scheduler_that_is_not_there_is_told_of_in_seconds_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    begun = time.monotonic()
    refused(run("run", "steps", *TINY, "--cluster", address, "--out", tmp_path / "run"), 2, address, "dask scheduler")
    assert time.monotonic() - begun < 30
    assert not list(tmp_path.iterdir())


def test_a_second_driver_is_refused(tmp_path: Path) -> None:
    tmp_path.joinpath("run").mkdir()
    with locked(tmp_path / "run"):
        refused(run("run", "steps", *TINY, "--out", tmp_path / "run"), 2, "nobody is measuring", f"{os.getpid()}")
    assert run("run", "steps", *TINY, "--out", tmp_path / "run").exit_code == 0


class Kills:
    """An engine in whose hands seed 1 ends badly."""

    def results(self, cells, mode):  # noqa: ANN001, ANN201
        for cell in cells:
            yield [Killed(cell, 4)] if cell.spec["seed"] == 1 else next(iter(Inline().results([cell], mode)))

    def record(self):  # noqa: ANN201
        return {"engine": "made up"}


def with_engine(monkeypatch: pytest.MonkeyPatch, made_up: object) -> None:
    from contextlib import nullcontext

    monkeypatch.setattr(engines, "engine", lambda asked, tell: nullcontext(made_up))


def test_a_cell_that_was_given_up_is_a_row_and_ends_with_4_until_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("run", "steps", *TINY, "--seed", "0,1", "--out", tmp_path / "run")
    with monkeypatch.context() as patch:
        with_engine(patch, Kills())
        first = run(*asked)
    assert first.exit_code == 4, first.output
    table = pd.read_csv(tmp_path / "run" / "tables" / "steps.csv")
    assert table.loc[table["outcome"] == "killed", "seed"].tolist() == [1]
    again = run(*asked)
    assert again.exit_code == 4 and "[2/2]" not in again.stderr
    assert again.stderr.strip().splitlines()[-1].startswith("killed: quadratic, float32, seed 1: its workers died")
    assert run(*asked, "--retry-killed").exit_code == 0
    assert run("run", "steps", *TINY, "--seed", "0,1", "--out", tmp_path / "whole").exit_code == 0
    assert contents(tmp_path / "run")["tables/steps.csv"] == contents(tmp_path / "whole")["tables/steps.csv"]


def test_a_run_that_no_worker_is_left_for_ends_with_4_and_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Alone(Kills):
        def results(self, cells, mode):  # noqa: ANN001, ANN201
            yield from Inline().results(cells[:1], mode)
            raise NoWorkers("local: expected a live worker within 60 s, found none; look after the workers")

    asked = ("run", "steps", *TINY, "--seed", "0,1", "--out", tmp_path)
    with monkeypatch.context() as patch:
        with_engine(patch, Alone())
        refused(run(*asked), 4, "expected a live worker")
    assert "[1/2]" not in run(*asked).stderr


def command(folder: Path) -> list[str]:
    return [sys.executable, str(ROOT / "cli.py"), "run", "steps", *TINY, "--seed", "0,1,2", "--out", str(folder)]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("whole")
    subprocess.run(command(folder), check=True, capture_output=True)
    return contents(folder)["tables/steps.csv"]


def closed_pipe() -> int:
    """The end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize(("output", "why"), [(closed_pipe, "Broken pipe"), (full_disk, "No space left")])
def test_a_stdout_that_takes_nothing_costs_nothing(
    output: Callable[[], int], why: str, table: bytes, tmp_path: Path
) -> None:
    out = output()
    done = subprocess.run(command(tmp_path), stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    os.close(out)
    assert done.returncode == 0, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last == f"stdout: expected it to take the answers, found {why}" + last.partition(why)[2]
    assert str(tmp_path / "summary.md") in last
    assert contents(tmp_path)["tables/steps.csv"] == table and "index.html" in contents(tmp_path)


@pytest.mark.parametrize("output", [closed_pipe, full_disk])
def test_a_stderr_that_takes_nothing_costs_nothing(output: Callable[[], int], table: bytes, tmp_path: Path) -> None:
    out = output()
    done = subprocess.run(command(tmp_path), stdout=subprocess.PIPE, stderr=out, text=True, check=False)
    os.close(out)
    assert done.returncode == 0
    assert done.stdout.strip().splitlines()[-1] == str(tmp_path / "index.html")
    assert contents(tmp_path)["tables/steps.csv"] == table


def test_standard_streams_that_are_not_there(table: bytes, tmp_path: Path) -> None:
    done = subprocess.run(["sh", "-c", '"$@" >&- 2>&-', "sh", *command(tmp_path)], check=False)
    assert done.returncode == 0
    assert contents(tmp_path)["tables/steps.csv"] == table


def test_a_locale_without_the_letters(table: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "a run, caf\u00e9"
    environment = os.environ | {
        "LC_ALL": "C",
        "PYTHONIOENCODING": "ascii",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    }
    done = subprocess.run(command(folder), env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and done.stderr.isascii()
    assert contents(folder)["tables/steps.csv"] == table


def blocks(language: str) -> Iterator[str]:
    for part in DOCS.read_text(encoding="utf-8").split(f"```{language}\n")[1:]:
        yield part.partition("```")[0]


def test_the_scripts_in_the_docs_are_of_the_language_that_they_say() -> None:
    python, shell = list(blocks("python")), list(blocks("sh"))
    assert len(python) == 2 and len(shell) == 3
    for block in python:
        compile(block, str(DOCS), "exec")
    for block in shell:
        subprocess.run(["sh", "-n"], input=block, text=True, check=True)


def test_the_options_in_the_docs_are_those_of_the_command() -> None:
    said = run("run", "--help").stdout
    for option in ("--engine", "--workers", "--cluster", "--wait-for-workers", "--retry-killed", "--tls-ca", "--chunk"):
        assert option in said and option in DOCS.read_text(encoding="utf-8")
