"""Real processes: the same table to the last bit whoever measures, whichever process is killed meanwhile."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from threading import Event, Thread
from typing import Any

import dask.config
import psutil
import pytest

from analyses.analysis import Cell
from analyses.engine import Asked, Inline, Killed, Measured, NoWorkers, Result, engine
from analyses.grid_rows import GridCell
from analyses.rounding import RoundingCell
from analyses.workers import facts as worker_facts
from analyses.workers import link
from analyses.workers.clusters import Unreachable
from analyses.workers.link import Mismatched
from tests.analyses.pretend import MODULE, cells
from tests.analyses.workers.conftest import Cluster, cluster, workers_of

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    with dask.config.set({"distributed.worker.preload": [MODULE]}):
        yield


@cache
def grid() -> tuple[Cell, ...]:
    """Real cells: coarse, usual and extended arithmetic, a network with an indefinite Hessian, a study of rounding."""
    small = [
        Cell.of("grid", GridCell("quadratic[dimension=3]", seed, 2, (0, 3), (2,), precision, reference_seconds=9.0))
        for seed, precision in ((0, "bfloat16"), (1, "float32"), (2, "extended"))
    ]
    network = Cell.of("grid", GridCell("sinusoid", 0, 3, (1, 5), (1, 3), "float32", patience=50))
    study = RoundingCell("logistic[dimension=3,examples=4]", 0, 2, (1, 3), (2,), ("float16", "float32"))
    return (*small, network, Cell.of("rounding", study))


def became(
    asked: Asked, work: Sequence[Cell], during: Callable[[int], None] = lambda count: None
) -> tuple[dict[str, Result], list[str], dict[str, Any]]:
    """What became of each cell, what the user was told, and the record; `during` is told how many have ended."""
    told: list[str] = []
    found: dict[str, Result] = {}
    with engine(asked, told.append) as measuring:
        for results in measuring.results(work, "auto"):
            assert not {result.cell.key for result in results} & set(found)
            found |= {result.cell.key: result for result in results}
            during(len(found))
        return found, told, measuring.record()


def rows(found: dict[str, Result], work: Sequence[Cell]) -> list[str]:
    """The rows as text in which floats are exact, NaN included."""
    return [
        repr(result.rows) if isinstance(result := found[cell.key], Measured) else type(result).__name__ for cell in work
    ]


def inline(work: Sequence[Cell]) -> list[str]:
    return rows({result.cell.key: result for found in Inline().results(work, "auto") for result in found}, work)


@cache
def expected() -> list[str]:
    """The rows of `grid()`, measured in this process."""
    return inline(grid())


def listening(processes: list[psutil.Process]) -> set[str]:
    """The addresses at which processes listen."""
    found = [each for process in processes for each in process.net_connections(kind="inet")]
    return {each.laddr.ip for each in found if each.status == psutil.CONN_LISTEN}


def test_processes_give_the_bits_of_this_one_though_one_is_killed(tmp_path: Path) -> None:
    deadly = Cell("pretend", {"seed": 0, "then": "kill once", "mark": str(tmp_path / "a mark")})
    easy, heard = [*cells(30), deadly], set()

    def during(count: int) -> None:
        if not heard:
            here = psutil.Process()
            heard.update(listening([here, *here.children(recursive=True)]))

    found, told, record = became(Asked(workers=2), [*grid(), *easy], during)
    assert rows(found, grid()) == expected() and rows(found, easy) == inline(easy)
    assert heard == {"127.0.0.1"}
    assert record["engine"] == "local" and record["workers lost"] == 1 and record["threads per task"] == 1
    assert any("a worker died measuring" in line for line in told)
    assert not workers_of(psutil.Process().pid)


@pytest.mark.slow
def test_a_process_killed_while_it_starts_is_started_again() -> None:
    killed = []

    def kill_one() -> None:
        while not killed and not done.wait(0.01):
            for process in workers_of(psutil.Process().pid):
                process.kill()
                killed.append(process.pid)
                break

    done = Event()
    killer = Thread(target=kill_one)
    killer.start()
    try:
        found, _, record = became(Asked(workers=2), grid())
    finally:
        done.set()
        killer.join()
    assert killed and rows(found, grid()) == expected() and sum(record["workers"].values()) >= 2
    assert not workers_of(psutil.Process().pid)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
def test_so_do_one_and_four(workers: int) -> None:
    found, _, record = became(Asked(engine="local", workers=workers), grid())
    assert rows(found, grid()) == expected()
    assert sum(record["workers"].values()) == workers


@pytest.mark.slow
def test_a_cell_that_kills_is_given_up_and_the_others_are_not() -> None:
    deadly = cells(1, then="kill")
    work = [*cells(3, seconds=0.1), *deadly, *cells(40, seconds=0.01)]
    found, told, record = became(Asked(workers=2), work)
    assert found[deadly[0].key] == Killed(deadly[0], 4)
    assert {type(found[cell.key]) for cell in work if cell not in deadly} == {Measured}
    assert 4 <= record["workers lost"] <= 6
    assert told[-1] == "a worker died measuring seed 0; it is given up"


@pytest.mark.slow
def test_cells_that_are_timed_are_measured_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analyses.workers.dispatch.TIMED", frozenset({"pretend"}))
    begun: list[float] = []
    became(Asked(workers=2), cells(6, seconds=0.5), lambda count: begun.append(time.monotonic()))
    assert begun[-1] - begun[0] > 5 * 0.5 - 0.1


@pytest.mark.slow
def test_a_cluster_gives_the_bits_of_this_process(two: Cluster) -> None:
    found, told, record = became(Asked(cluster=str(two.file)), grid())
    assert rows(found, grid()) == expected()
    assert told == [] and record["engine"] == "cluster" and sum(record["workers"].values()) == 2
    again, _, _ = became(Asked(cluster=str(two.file)), grid())  # it is left as it was found
    assert rows(again, grid()) == expected()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "nanny"])
def test_a_cluster_may_lose_a_process(victim: str, tmp_path: Path) -> None:
    work, killed = cells(20, seconds=0.2), []
    with cluster(tmp_path, 2) as two:

        def during(count: int) -> None:
            if count >= 5 and not killed:
                nanny = two.nannies[0]
                killed.append((workers_of(nanny.pid)[0] if victim == "worker" else nanny).kill())

        found, told, record = became(Asked(cluster=str(two.file)), work, during)
    assert rows(found, work) == inline(work)
    assert record["workers lost"] == 1 and len(told) <= 1


@pytest.mark.slow
def test_a_cluster_without_nannies_ends_when_its_last_worker_is_dead(tmp_path: Path) -> None:
    deadly = cells(1, then="kill")
    with cluster(tmp_path, 2, nanny=False) as two, pytest.raises(NoWorkers, match="expected a live worker within 3 s"):
        became(Asked(cluster=str(two.file), wait_for_workers=3.0), deadly)


@pytest.mark.slow
def test_a_scheduler_that_goes_away_ends_the_run(tmp_path: Path) -> None:
    done = 0

    def during(count: int) -> None:
        nonlocal done
        done = count
        if count >= 3:
            two.scheduler.kill()

    with cluster(tmp_path, 2) as two, pytest.raises(NoWorkers, match="expected a live worker"):
        became(Asked(cluster=str(two.file), wait_for_workers=3.0), cells(200, seconds=0.2), during)
    assert 3 <= done < 200


@pytest.mark.slow
def test_workers_of_another_version_are_refused_before_anything_is_sent(
    two: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = worker_facts.facts()
    monkeypatch.setattr(link, "facts_here", lambda: mine | {"torch": "9.9", "numpy": "9.9"})
    with (
        pytest.raises(Mismatched, match=r"worker tcp://.*: expected .* found torch: .*, and here 9.9; numpy: .*1 more"),
        engine(Asked(cluster=str(two.file)), print),
    ):
        pytest.fail("it was entered")


def pem(folder: Path) -> dict[str, Any]:
    """A certificate that signs itself, as authority and for all, and its key."""
    key, certificate = folder / "key.pem", folder / "a certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return {"tls_ca": certificate, "tls_cert": certificate, "tls_key": key}


@pytest.mark.slow
def test_a_cluster_with_tls_takes_its_own_and_refuses_others(tmp_path: Path) -> None:
    files = pem(tmp_path)
    names = {"tls_ca": "--tls-ca-file", "tls_cert": "--tls-cert", "tls_key": "--tls-key"}
    tls = tuple(word for name, path in files.items() for word in (names[name], str(path)))
    work = cells(5)
    with cluster(tmp_path, 1, tls=tls) as one:
        found, _, _ = became(Asked(cluster=str(one.file), **files), work)
        assert rows(found, work) == inline(work)
        with pytest.raises(Unreachable, match="without them"), engine(Asked(cluster=str(one.file)), print):
            pytest.fail("it was entered")
        (tmp_path / "other").mkdir()
        with pytest.raises(Unreachable), engine(Asked(cluster=str(one.file), **pem(tmp_path / "other")), print):
            pytest.fail("it was entered")


def driver(*arguments: str) -> subprocess.Popen[str]:
    """`gradgauge run steps` on small cells, as a user runs it."""
    small = ("--problem", "quadratic", "--steps", "0,1,3", "--iterations", "1,2", "--tasks", "2", "--precision",
             "float32", "--reference-seconds", "0")  # fmt: skip
    command = [sys.executable, str(ROOT / "cli.py"), "run", "steps", *small, *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)


MANY = ("--seed", ",".join(map(str, range(2000))), "--yes", "--workers", "2")


def until(process: subprocess.Popen[str], word: str) -> list[str]:
    """What is said on stderr up to a line with the word."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if word in line:
            return said
    raise AssertionError(f"it ended without {word}: {said}")


@pytest.mark.slow
def test_a_killed_driver_leaves_no_process_behind(tmp_path: Path) -> None:
    with driver(*MANY, "--out", str(tmp_path)) as process:
        until(process, "[3/2000]")
        left = psutil.Process(process.pid).children(recursive=True)
        assert len(workers_of(process.pid)) == 2
        process.kill()
        gone, alive = psutil.wait_procs(left, timeout=5)
        assert not alive


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_keeps_what_is_at_work(tmp_path: Path) -> None:
    """A terminal sends it to every process of the group."""
    with driver(*MANY, "--out", str(tmp_path)) as process:
        until(process, "[3/2000]")
        left = psutil.Process(process.pid).children(recursive=True)
        for member in [psutil.Process(process.pid), *left]:
            member.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = process.stderr.read().splitlines()
        assert process.wait(timeout=30) == 130
        assert not psutil.wait_procs(left, timeout=5)[1]
    assert any(line.startswith("stopping: up to 10 s for what is at work") for line in said)
    assert said[-1] == "interrupted; the same command goes on from here"
    assert not any("Traceback" in line or "died" in line for line in said), said
