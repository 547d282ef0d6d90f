"""The driver's side, over a link that is made up: failures, deaths, patience, Ctrl-C."""

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Queue

import pytest

from analyses.analysis import Cell
from analyses.engine import Failed, Killed, Measured, NoWorkers, Result
from analyses.interrupt import held_back, interrupts
from analyses.task import answers, as_text
from analyses.workers import driver
from analyses.workers.dispatch import Task, Worker
from analyses.workers.driver import Answered, Broken, ByWorkers, Seen
from tests.analyses.pretend import cells

A, B = Worker("tcp://a:1", "a"), Worker("tcp://a:2", "a")


@dataclass
class MadeUp:
    """A link whose workers do what `act` says of each task."""

    act: Callable[["MadeUp", Task, str], None]
    alive: tuple[Worker, ...] = (A, B)
    events: "Queue[Answered | Broken | Seen]" = field(default_factory=Queue)
    machines: Counter[str] = field(default_factory=lambda: Counter({"made up": 2}))
    sent: list[Task] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)

    def send(self, task: Task, text: str, mode: str) -> None:
        self.sent.append(task)
        self.act(self, task, text)

    def forget(self, number: int) -> None:
        self.forgotten.append(number)

    def answer(self, task: Task, text: str) -> None:
        self.events.put(Answered(task.number, answers(text, "auto")))

    def die(self, worker: Worker) -> None:
        self.alive = tuple(other for other in self.alive if other != worker)
        self.events.put(Seen(self.alive, (worker.address,)))


def by(link: MadeUp, wait: float = 1.0) -> tuple[ByWorkers, list[str]]:
    @contextmanager
    def connect() -> Iterator[MadeUp]:
        link.events.put(Seen(link.alive, ()))
        yield link

    told: list[str] = []
    return ByWorkers("local", connect, wait, told.append), told


def became(engine: ByWorkers, work: list[Cell]) -> dict[str, Result]:
    results = [result for found in engine.results(work, "auto") for result in found]
    assert len({result.cell.key for result in results}) == len(results)
    return {result.cell.key: result for result in results}


def test_every_cell_is_answered_from_json_alone() -> None:
    def act(link: MadeUp, task: Task, text: str) -> None:
        assert json.loads(text)["cells"] == [[cell.measurement, dict(cell.spec)] for cell in task.cells]
        link.answer(task, text)

    work = cells(300)
    engine, told = by(MadeUp(act))
    found = became(engine, work)
    assert [found[cell.key] for cell in work] == [
        Measured(cell, [{"problem": "pretend", "task": 0, "seed": n, "relative_error": n / 7, "outcome": "ok"}],
                 found[cell.key].seconds)
        for n, cell in enumerate(work)
    ]  # fmt: skip
    assert told == []
    assert engine.record() == {
        "engine": "local", "threads per task": 1, "workers": {"made up": 2}, "workers lost": 0,
    }  # fmt: skip


def test_a_cell_that_raises_fails_and_those_beside_it_do_not() -> None:
    work = [*cells(3), *cells(1, then="raise"), *cells(1, then="exit")]
    found = became(by(MadeUp(MadeUp.answer))[0], work)
    failed = {cell.spec["then"]: found[cell.key] for cell in work[3:]}
    assert isinstance(failed["raise"], Failed) and failed["raise"].reason == "RuntimeError: out of order"
    assert isinstance(failed["exit"], Failed) and failed["exit"].reason == "SystemExit: 3"
    assert all(isinstance(found[cell.key], Measured) for cell in work[:3])


def test_a_task_that_cannot_be_run_at_all_fails() -> None:
    def act(link: MadeUp, task: Task, text: str) -> None:
        link.events.put(Broken(task.number, "ModuleNotFoundError: No module named 'analyses'"))

    found = became(by(MadeUp(act))[0], cells(3))
    assert {type(result) for result in found.values()} == {Failed}
    assert "No module named" in next(iter(found.values())).reason  # pyright: ignore[reportAttributeAccessIssue]


def test_a_task_that_the_scheduler_forgot_is_sent_again() -> None:
    def act(link: MadeUp, task: Task, text: str) -> None:
        if task.number % 2:
            link.events.put(Broken(task.number, None))
        else:
            link.answer(task, text)

    link = MadeUp(act)
    assert {type(result) for result in became(by(link)[0], cells(5)).values()} == {Measured}
    assert len(link.sent) > 5


def test_a_cell_that_kills_is_given_up_after_four_workers() -> None:
    born = iter(range(10, 100))

    def act(link: MadeUp, task: Task, text: str) -> None:
        if any(cell.spec.get("then") == "kill" for cell in task.cells):
            link.alive += (Worker(f"tcp://a:{next(born)}", "a"),)
            link.die(task.worker)
        else:
            link.answer(task, text)

    engine, told = by(MadeUp(act))
    (deadly,) = work = cells(1, then="kill")
    assert became(engine, work + cells(6))[deadly.key] == Killed(deadly, 4)
    assert engine.record()["workers lost"] == 4
    assert told == ["a worker died measuring seed 0; its task goes to another"] * 3 + [
        "a worker died measuring seed 0; it is given up"
    ]


def test_a_run_without_a_live_worker_ends_and_keeps_what_is_done() -> None:
    def act(link: MadeUp, task: Task, text: str) -> None:
        link.answer(task, text) if task.number == 1 else link.die(task.worker)

    engine, _ = by(MadeUp(act, alive=(A,)), wait=0.3)
    results = []
    with pytest.raises(NoWorkers, match=r"expected a live worker within 0.3 s, found none.*--wait-for-workers"):
        for found in engine.results(cells(5), "auto"):
            results += found
    assert len(results) == 1


def test_a_scheduler_that_is_away_for_a_while_costs_nothing() -> None:
    def act(link: MadeUp, task: Task, text: str) -> None:
        if task.number == 1:
            link.events.put(Seen((), ()))
            threading.Timer(0.3, lambda: (link.answer(task, text), link.events.put(Seen(link.alive, ())))).start()
        else:
            link.answer(task, text)

    engine, told = by(MadeUp(act), wait=5)
    assert len(became(engine, cells(5))) == 5
    assert told == [] and engine.record()["workers lost"] == 0


def interrupted(link: MadeUp, work: list[Cell]) -> tuple[list[Result], list[str]]:
    engine, told = by(link)
    results = []
    with pytest.raises(KeyboardInterrupt):
        for found in engine.results(work, "auto"):
            results += found
    return results, told


def test_the_first_ctrl_c_waits_for_what_is_at_work_and_sends_no_more() -> None:
    def act(link: MadeUp, task: Task, text: str) -> None:
        if task.number == 4:
            os.kill(os.getpid(), signal.SIGINT)
            for first in link.sent[:2]:  # at work when it came; the two others wait behind them
                threading.Timer(0.3, link.answer, (first, as_text(first.cells))).start()

    link = MadeUp(act)
    results, told = interrupted(link, cells(50))
    assert sorted(result.cell.spec["seed"] for result in results) == [0, 1]
    assert len(link.sent) == 4 and set(link.forgotten) == {1, 2, 3, 4}
    assert told == ["stopping: up to 10 s for what is at work (seed 0; seed 1); Ctrl-C again ends now"]


def test_it_waits_no_longer_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "GRACE", 0.3)

    def act(link: MadeUp, task: Task, text: str) -> None:
        if task.number == 1:
            os.kill(os.getpid(), signal.SIGINT)

    results, told = interrupted(MadeUp(act, alive=(A,)), cells(5))
    assert results == [] and len(told) == 1


def test_the_second_ctrl_c_is_now() -> None:
    def act(link: MadeUp, task: Task, text: str) -> None:
        if task.number == 1:
            os.kill(os.getpid(), signal.SIGINT)
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()

    before = signal.getsignal(signal.SIGINT)
    results, _ = interrupted(MadeUp(act, alive=(A,)), cells(5))
    assert results == []
    assert signal.getsignal(signal.SIGINT) is before


def test_what_is_started_while_it_is_held_back_does_not_see_ctrl_c() -> None:
    masks: list[set[int]] = []
    with held_back():
        thread = threading.Thread(target=lambda: masks.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))))
        thread.start()
        thread.join()
    assert signal.SIGINT in masks[0]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_one_that_is_welcome_is_raised_at_once_and_one_that_is_not_is_kept() -> None:
    with interrupts() as taken:
        with pytest.raises(KeyboardInterrupt), taken.welcome():
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert taken.wished
        with pytest.raises(KeyboardInterrupt), taken.welcome():
            pytest.fail("it was let in")
