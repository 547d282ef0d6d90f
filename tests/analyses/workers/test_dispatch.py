"""Who measures what: every cell ends once, only cells that kill are given up, timed cells run alone."""

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyses.analysis import Cell
from analyses.killed import MOST_DEATHS
from analyses.workers.dispatch import AHEAD, Dispatch, Task, Worker
from analyses.workers.grouping import FULL, SMALL, Pace


def cells(count: int, measurement: str = "pretend", kind: int = 0) -> list[Cell]:
    return [Cell(measurement, {"seed": seed, "kind": kind}) for seed in range(count)]


@dataclass
class World:
    """Workers that measure what they are sent, the first sent the first, and die of some cells."""

    dispatch: Dispatch
    poison: frozenset[str]
    seconds: float = 0.001
    alive: list[Worker] = field(default_factory=list)
    queues: dict[str, list[Task]] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)
    given_up: list[str] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    born: int = 0

    def spawn(self, host: str, threads: int = 1) -> None:
        self.born += 1
        worker = Worker(f"tcp://{host}:{self.born}", host, threads)
        self.alive.append(worker)
        self.queues[worker.address] = []

    def assign(self) -> None:
        for task in self.dispatch.assign(self.alive):
            assert task.cells
            self.queues[task.worker.address].append(task)
            self.hold()

    def hold(self) -> None:
        """What must be true of all queues at any moment."""
        for host in {worker.host for worker in self.alive}:
            here = [task for worker in self.alive if worker.host == host for task in self.queues[worker.address]]
            if any(cell.measurement == "cost" for task in here for cell in task.cells):
                assert len(here) == 1 and len(here[0].cells) == 1
        for worker in self.alive:
            queue = self.queues[worker.address]
            assert len(queue) <= (AHEAD if worker.threads == 1 else 1)
            if any(cell.key in self.dispatch.deaths for task in queue for cell in task.cells):
                assert len(queue) == 1 and len(queue[0].cells) == 1

    def step(self, at: int) -> None:
        """One worker finishes or dies of the task that is first in its queue."""
        busy = [worker for worker in self.alive if self.queues[worker.address]]
        if not busy:
            return
        worker = busy[at % len(busy)]
        task = self.queues[worker.address][0]
        poisoned = [cell.key for cell in task.cells if cell.key in self.poison]
        if poisoned:
            self.kills[poisoned[0]] += 1
            self.die(worker)
            return
        self.queues[worker.address].pop(0)
        if self.dispatch.answered(task.number, [self.seconds] * len(task.cells)):
            self.ended.update(cell.key for cell in task.cells)

    def die(self, worker: Worker) -> None:
        self.alive.remove(worker)
        lost, given_up = self.dispatch.died(worker.address)
        assert [task.number for task in lost] == [task.number for task in self.queues.pop(worker.address)]
        self.given_up += [cell.key for cell in given_up]
        self.spawn(worker.host, worker.threads)


@given(
    count=st.integers(0, 60), timed=st.integers(0, 5), hosts=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    poison=st.sets(st.integers(0, 64), max_size=4), order=st.lists(st.integers(0, 8), min_size=1, max_size=40),
    seconds=st.sampled_from([0.001, SMALL, 1.0]),
)  # fmt: skip
def test_every_cell_ends_once_and_only_those_that_kill_are_given_up(
    count: int, timed: int, hosts: list[int], poison: set[int], order: list[int], seconds: float
) -> None:
    work = cells(count) + cells(timed, "cost")
    deadly = frozenset(work[at].key for at in poison if at < len(work))
    world = World(Dispatch.of(work), deadly, seconds)
    for host, workers in enumerate(hosts):
        for _ in range(workers):
            world.spawn(f"host{host}")
    turns = 0
    while not world.dispatch.finished:
        world.assign()
        world.step(order[turns % len(order)])
        turns += 1
        assert turns < 50 * (len(work) + 1)
    assert sorted(world.given_up) == sorted(deadly)
    assert world.ended == Counter(cell.key for cell in work if cell.key not in deadly)
    for key in deadly:  # in a group once more, where it was one of many
        assert MOST_DEATHS <= world.kills[key] <= MOST_DEATHS + 1


@given(order=st.lists(st.tuples(st.sampled_from(["step", "die", "return", "spawn"]), st.integers(0, 9)), max_size=120))
def test_whatever_happens_no_cell_is_lost_or_ends_twice(order: list[tuple[str, int]]) -> None:
    work = cells(20) + cells(2, "cost")
    world = World(Dispatch.of(work), frozenset())
    world.spawn("a")
    world.spawn("b", threads=4)
    for what, at in order:
        world.assign()
        if what == "step":
            world.step(at)
        elif what == "die":
            world.die(world.alive[at % len(world.alive)])
        elif what == "spawn" and len(world.alive) < 6:
            world.spawn("ab"[at % 2])
        elif what == "return" and world.dispatch.flying:  # the scheduler forgets a task, though its worker lives
            number = list(world.dispatch.flying)[at % len(world.dispatch.flying)]
            world.dispatch.returned(number)
            for queue in world.queues.values():
                queue[:] = [task for task in queue if task.number != number]
    while not world.dispatch.finished:
        world.assign()
        world.step(0)
    assert world.ended + Counter(world.given_up) == Counter(cell.key for cell in work)


def test_a_death_is_the_fault_of_the_cell_that_was_at_work_and_not_of_the_one_behind() -> None:
    dispatch = Dispatch.of(cells(2))
    worker = Worker("tcp://a:1", "a")
    first, second = dispatch.assign([worker])
    lost, given_up = dispatch.died(worker.address)
    assert lost == [first, second] and given_up == []
    assert dispatch.deaths == {first.cells[0].key: 1}
    assert list(dispatch.waiting) == list(second.cells) and list(dispatch.suspects) == list(first.cells)


def test_cells_of_a_group_are_suspected_without_being_blamed() -> None:
    work = cells(40)
    dispatch = Dispatch.of(work)
    dispatch.pace.saw(work[0], 0.001)
    worker = Worker("tcp://a:1", "a")
    group = dispatch.assign([worker])[0]
    assert len(group.cells) > 1
    dispatch.died(worker.address)
    assert list(dispatch.suspects) == list(group.cells)
    assert set(dispatch.deaths.values()) == {0}


def test_nothing_is_sent_behind_a_suspect() -> None:
    dispatch, (a, b, c) = Dispatch.of(cells(3)), [Worker(f"tcp://a:{n}", "a") for n in range(3)]
    first, second, third = dispatch.assign([a, b])
    assert third.worker == a  # behind the first
    dispatch.died(a.address)
    (again,) = dispatch.assign([c])[:1]
    assert again.cells == third.cells  # the one that was behind is no suspect, and goes before the one that is
    dispatch.answered(second.number, [0.1])
    (suspect,) = dispatch.assign([b])
    assert suspect.cells == first.cells
    dispatch.returned(again.number)
    assert dispatch.assign([b]) == []
    assert [task.cells for task in dispatch.assign([b, c])] == [third.cells]


def test_an_answer_that_comes_after_its_worker_was_given_up_is_not_taken() -> None:
    dispatch = Dispatch.of(cells(1))
    worker = Worker("tcp://a:1", "a")
    (task,) = dispatch.assign([worker])
    dispatch.died(worker.address)
    assert dispatch.answered(task.number, [1.0]) is None
    assert not dispatch.finished


def test_small_cells_go_together_as_soon_as_they_are_known_to_be_small() -> None:
    work = cells(1000)
    dispatch, workers = Dispatch.of(work), [Worker("tcp://a:1", "a"), Worker("tcp://a:2", "a")]
    first = dispatch.assign(workers)
    assert [len(task.cells) for task in first] == [1, 1, 1, 1]
    for task in first:
        dispatch.answered(task.number, [0.01])
    grouped = dispatch.assign(workers)
    assert all(len(task.cells) == pytest.approx(FULL / 0.01, abs=1) for task in grouped)


@pytest.mark.parametrize(("seconds", "size"), [(SMALL, 1), (2 * SMALL, 1), (0.0, 500), (FULL / 10, 1), (FULL / 20, 20)])
def test_a_group_is_as_long_as_it_should_be(seconds: float, size: int) -> None:
    pace, (first, *waiting) = Pace(), cells(2001)
    pace.saw(first, seconds)
    queue = Dispatch.of(waiting).waiting
    assert len(pace.group(queue, workers=2)) == pytest.approx(size, abs=1)
    assert len(queue) + size == pytest.approx(2000, abs=1)


def test_a_kind_that_is_not_known_to_be_small_is_alone() -> None:
    pace, small, strange = Pace(), cells(10), cells(10, kind=1)
    pace.saw(small[0], 0.001)
    assert pace.group(Dispatch.of(small[:2] + strange).waiting, 1) == small[:2]
    assert pace.group(Dispatch.of(strange + small).waiting, 1) == strange[:1]
    assert pace.seconds(small[9]) == 0.001 and pace.seconds(strange[0]) is None


def test_a_cell_that_is_known_to_be_large_is_alone() -> None:
    pace, small, large = Pace(), cells(10), cells(10, kind=1)
    pace.saw(small[0], 0.001)
    pace.saw(large[0], SMALL)
    assert pace.group(Dispatch.of([*small[:3], *large, *small[3:]]).waiting, 1) == small[:3]


def test_the_last_cells_are_shared_out() -> None:
    pace, work = Pace(), cells(8)
    pace.saw(work[0], 0.0)
    assert len(pace.group(Dispatch.of(work).waiting, workers=2)) == 1


def test_what_waits_behind_another_is_known() -> None:
    dispatch = Dispatch.of(cells(5))
    tasks = dispatch.assign([Worker("tcp://a:1", "a"), Worker("tcp://a:2", "a", threads=2)])
    assert dispatch.behind() == [tasks[2].number]
    dispatch.forget_waiting()
    assert not dispatch.waiting and not dispatch.finished
