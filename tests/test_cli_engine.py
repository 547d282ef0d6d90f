"""Who measures, as a user asks for it: refusals, cells that are given up, and terminals that read nothing."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from analyses import engine as engines
from analyses.engine import Inline, Killed, NoWorkers
from analyses.lock import locked
from tests.test_cli import ROOT, TINY, contents, refused, run

DOCS = ROOT / "docs" / "engine.md"
NOBODY = {"closed pipe": "Broken pipe", "full disk": "No space left"}  # streams that take nothing, and why
pytestmark = pytest.mark.usefixtures("one_kind")


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
    return [sys.executable, str(ROOT / "cli.py"), "run", "steps", *TINY, "--seed", "0,1", "--out", str(folder)]


# A run, and others like it: children that end as the command does, but know the libraries already, which is most of
# what a run takes, and knows nothing of streams.
STREAMS = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import cli
whole, *others = json.loads(sys.argv[2])
try:
    cli.main([*sys.argv[3:], "--out", whole[0]])
except SystemExit as ended:
    codes = [ended.code or 0]
sys.stdout.flush()

def opened(name, path):
    if name == "closed pipe":
        reading, writing = os.pipe()
        os.close(reading)
        return writing
    return os.open("/dev/full" if name == "full disk" else path, os.O_WRONLY | os.O_CREAT)

for folder, stdout, stderr in others:
    child = os.fork()
    if not child:
        os.dup2(opened(stdout, f"{folder}.stdout"), 1)
        os.dup2(opened(stderr, f"{folder}.stderr"), 2)
        cli.main([*sys.argv[3:], "--out", folder])
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""


@dataclass(frozen=True)
class Ended:
    """What a run came to; the text of a stream that took some."""

    folder: Path
    code: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Ended]:
    """The same run by what its stdout and its stderr are."""
    cases = [("file", "file"), *((name, "file") for name in NOBODY), *(("file", name) for name in NOBODY)]
    folder = tmp_path_factory.mktemp("streams")
    places = [folder / f"run {number}" for number in range(len(cases))]
    asked = json.dumps([[str(place), *case] for place, case in zip(places, cases, strict=True)])
    arguments = [str(ROOT), asked, *command(folder)[2:-2]]
    done = subprocess.run([sys.executable, "-c", STREAMS, *arguments], capture_output=True, text=True, check=True)
    said, _, codes = done.stdout.strip().rpartition("\n")
    (folder / "run 0.stdout").write_text(said)
    (folder / "run 0.stderr").write_text(done.stderr)

    def text(place: Path, stream: str) -> str:
        path = place.with_name(f"{place.name}.{stream}")
        return path.read_text() if path.exists() else ""

    return {
        case: Ended(place, code, text(place, "stdout"), text(place, "stderr"))
        for case, place, code in zip(cases, places, json.loads(codes), strict=True)
    }


@pytest.fixture(scope="module")
def table(runs: dict[tuple[str, str], Ended]) -> bytes:
    whole = runs["file", "file"]
    assert whole.code == 0, whole.stderr
    assert whole.stdout.strip().splitlines()[-1] == str(whole.folder / "index.html") and "[2/2]" in whole.stderr
    return contents(whole.folder)["tables/steps.csv"]


@pytest.mark.parametrize(("name", "why"), NOBODY.items())
def test_a_stdout_that_takes_nothing_costs_nothing(
    name: str, why: str, runs: dict[tuple[str, str], Ended], table: bytes
) -> None:
    found = runs[name, "file"]
    assert found.code == 0, found.stderr
    last = found.stderr.strip().splitlines()[-1]
    assert last == f"stdout: expected it to take the answers, found {why}" + last.partition(why)[2]
    assert str(found.folder / "summary.md") in last
    assert contents(found.folder)["tables/steps.csv"] == table and "index.html" in contents(found.folder)


@pytest.mark.parametrize("name", NOBODY)
def test_a_stderr_that_takes_nothing_costs_nothing(name: str, runs: dict[tuple[str, str], Ended], table: bytes) -> None:
    found = runs["file", name]
    assert found.code == 0
    assert found.stdout.strip().splitlines()[-1] == str(found.folder / "index.html")
    assert contents(found.folder)["tables/steps.csv"] == table


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
