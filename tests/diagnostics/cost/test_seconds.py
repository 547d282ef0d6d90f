"""Wall times: taken in turns, by a clock that the tests wind."""

import gc
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from diagnostics.cost import seconds
from diagnostics.cost.seconds import Seconds, in_turns, seconds_of


class Clock:
    """Time passes only where someone says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def passes(self, taken: float) -> None:
        self.now += taken


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(seconds.time, "perf_counter", lambda: found.now)
    return found


def taking(clock: Clock, times: list[float]) -> Callable[[], None]:
    left = iter(times)
    return lambda: clock.passes(next(left))


def test_the_median_and_the_times_that_enclose_half(clock: Clock) -> None:
    found = in_turns({"one": taking(clock, [100.0, 5.0, 1.0, 3.0, 2.0, 4.0])}, repeats=5)
    assert found == {"one": Seconds(3.0, 2.0, 4.0)}  # the first round, of 100 s, is to warm up


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([2.0], Seconds(2.0, 2.0, 2.0)),
        ([3.0, 1.0], Seconds(2.0, 1.0, 3.0)),
        ([3.0, 1.0, 2.0], Seconds(2.0, 1.0, 3.0)),
        ([4.0, 3.0, 1.0, 2.0], Seconds(2.5, 1.0, 4.0)),
        ([float(n) for n in range(9)], Seconds(4.0, 2.0, 6.0)),
    ],
)
def test_the_order_statistics(times: list[float], expected: Seconds) -> None:
    assert Seconds.of(times) == expected


def test_calls_take_turns_and_each_round_begins_with_another() -> None:
    made: list[str] = []
    calls: dict[str, Callable[[], object]] = {name: (lambda name=name: made.append(name)) for name in "abc"}
    in_turns(calls, repeats=3, warm_up=1)
    rounds = ["".join(made[at : at + 3]) for at in range(0, 12, 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert {turn[0] for turn in rounds[1:]} == {"a", "b", "c"}


def test_with_many_calls_the_rounds_begin_far_apart() -> None:
    made: list[int] = []
    in_turns({n: (lambda n=n: made.append(n)) for n in range(12)}, repeats=3, warm_up=0)
    assert made[::12] == [0, 4, 8]


def test_no_calls_take_no_time() -> None:
    assert in_turns({}, repeats=2) == {}


def test_a_result_is_dropped_after_the_clock_has_stopped(clock: Clock) -> None:
    class Heavy:
        def __del__(self) -> None:
            clock.passes(50.0)

    def call() -> Heavy:
        clock.passes(1.0)
        return Heavy()

    assert seconds_of(call) == 1.0
    assert clock.now == 51.0


@pytest.fixture
def collector() -> Iterator[None]:
    yield
    gc.enable()


def test_the_garbage_collector_waits_and_is_then_as_it_was(collector: None) -> None:
    seen: list[bool] = []
    seconds_of(lambda: seen.append(gc.isenabled()))
    assert seen == [False] and gc.isenabled()
    gc.disable()
    seconds_of(lambda: None)
    assert not gc.isenabled()


def test_the_garbage_collector_is_back_after_a_failure(collector: None) -> None:
    with pytest.raises(ZeroDivisionError):
        seconds_of(lambda: 1 / 0)
    assert gc.isenabled()


def test_it_is_the_time_of_the_wall() -> None:
    assert 0.02 <= seconds_of(lambda: time.sleep(0.02)) < 10.0  # a sleep may be late, on a busy machine very late


@pytest.fixture
def gpu(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A GPU that needs 5 s after each call, if it is waited for; which ones were."""
    waited: list[object] = []

    def wait(device: object = None) -> None:
        waited.append(device)
        clock.passes(5.0)

    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    return waited


def test_the_device_is_waited_for_before_and_after_each_call(clock: Clock, gpu: list[object]) -> None:
    found = in_turns({"one": lambda: clock.passes(1.0)}, repeats=2, warm_up=0, device="cuda:1")
    assert found["one"].median == 6.0  # the wait after it is the call's, the one before is not
    assert gpu == ["cuda:1"] * 4


def test_nothing_is_waited_for_on_the_cpu_or_where_no_gpu_is_in_use(
    clock: Clock, gpu: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert seconds_of(lambda: clock.passes(1.0), "cpu") == 1.0 and gpu == []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert seconds_of(lambda: clock.passes(1.0)) == 1.0 and gpu == []


def test_the_current_gpu_is_waited_for_where_it_is_in_use(
    clock: Clock, gpu: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert seconds_of(lambda: clock.passes(1.0)) == 6.0 and gpu == [None, None]


@pytest.mark.parametrize(("repeats", "warm_up"), [(0, 1), (-1, 1), (True, 1), (1.5, 1), (1, -1)])
def test_counts_of_rounds_are_checked(repeats: int, warm_up: int) -> None:
    with pytest.raises(ValueError, match="expected a whole number"):
        in_turns({}, repeats, warm_up)
