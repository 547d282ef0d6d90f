"""The simulation of docs/scaling.md: its limits in closed form, and sweeps on one and two workers here."""

import math
from dataclasses import replace

import pytest

from analyses.workers import dispatch, grouping
from benchmarks import scaling_model
from benchmarks.scaling_measured import cluster, fresh_store, measured, slept, sweep_here
from benchmarks.scaling_model import Costs, Sweep, durations, grouped, ideal, most_workers, simulate

FREE = Costs(*[0.0] * 9, shared=False)


def test_without_overheads_one_worker_takes_the_sum() -> None:
    sweep = Sweep(50, 2.0, 1, spread=1.0)
    assert simulate(sweep, FREE).seconds == pytest.approx(sum(durations(sweep)), rel=1e-12)
    assert simulate(sweep, FREE).workers == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("workers", [2, 7, 100])
def test_without_overheads_no_worker_is_idle_while_another_has_two_cells(workers: int) -> None:
    """Graham's bound for any order, one at a time: the ideal, and a cell more."""
    sweep = Sweep(60, 2.0, workers, spread=1.3, ahead=1)
    found = simulate(sweep, FREE)
    assert max(ideal(sweep), found.longest) <= found.seconds + 1e-9
    assert found.seconds <= ideal(sweep) + found.longest


def test_the_driver_alone_sets_the_time_of_empty_cells() -> None:
    costs = replace(FREE, send=0.002, receive=0.001, commit=0.003, commit_cell=0.0005)
    for workers, group in ((1, 1), (4, 1), (50, 10)):
        found = simulate(Sweep(1000, 0.0, workers, group), costs)
        assert found.seconds == pytest.approx(1000 / group * 0.006 + 1000 * 0.0005, rel=1e-9)
        assert found.driver == pytest.approx(1, rel=1e-9) and found.bound == "driver"


def test_the_scheduler_alone_sets_it_where_it_is_the_slowest() -> None:
    found = simulate(Sweep(1000, 0.0, 20), replace(FREE, schedule=0.004, send=0.001))
    assert found.seconds == pytest.approx(4.0, rel=0.01) and found.bound == "scheduler"


def test_a_scheduler_in_the_drivers_process_takes_its_time_from_it() -> None:
    costs = replace(FREE, schedule=0.004, send=0.001, commit=0.002)
    apart, together = (
        simulate(Sweep(1000, 0.0, 20), replace(costs, shared=shared)).seconds for shared in (False, True)
    )
    assert together == pytest.approx(7.0, rel=0.01) and apart == pytest.approx(4.0, rel=0.01)


def test_one_worker_pays_for_each_task() -> None:
    costs = replace(FREE, task=0.5)
    assert simulate(Sweep(30, 1.0, 1), costs).seconds == pytest.approx(30 * 1.5)
    assert simulate(Sweep(30, 1.0, 1, group=10), costs).seconds == pytest.approx(30 + 3 * 0.5)


def test_the_driver_feeds_as_many_workers_as_the_closed_form_says() -> None:
    costs = Costs(start=0.0, start_each=0.0)
    for group in (1, 20):
        most = most_workers(0.1, group, costs)
        few, many = (Sweep(40 * group * round(factor * most), 0.1, round(factor * most), group) for factor in (0.6, 3))
        assert ideal(few) / simulate(few, costs).seconds > 0.9
        assert ideal(many) / simulate(many, costs).seconds == pytest.approx(1 / 3, rel=0.1)


def test_sending_ahead_hides_a_long_way_and_makes_a_cell_wait_behind_a_long_one() -> None:
    far = replace(FREE, latency=0.5)
    one, two = (Sweep(100, 1.0, 4, ahead=ahead) for ahead in (1, 2))
    assert simulate(one, far).seconds > 1.9 * simulate(two, far).seconds
    mixed = [Sweep(100, 1.0, 20, ahead=ahead, spread=1.5, seed=3) for ahead in (1, 2)]
    assert simulate(mixed[0], FREE).seconds < simulate(mixed[1], FREE).seconds


def test_the_mean_of_the_cells_is_what_was_asked_for() -> None:
    found = durations(Sweep(200_000, 7.0, 1, spread=1.3))
    # The standard error of the mean of a lognormal: sqrt((e^(s^2) - 1) / n), here 0.5%; four of them.
    assert sum(found) / len(found) == pytest.approx(7.0, rel=4 * math.sqrt(math.expm1(1.3**2) / len(found)))
    longest = durations(Sweep(100, 7.0, 1, spread=1.3, longest_first=True))
    assert longest == sorted(longest, reverse=True)


def test_groups_are_those_of_the_engine() -> None:
    assert (scaling_model.SMALL, scaling_model.FULL) == (grouping.SMALL, grouping.FULL)
    assert Sweep(1, 1.0, 1).ahead == dispatch.AHEAD
    assert grouped(Sweep(10_000, 0.01, 2)) == 50 and grouped(Sweep(10_000, 1.0, 2)) == 1
    assert grouped(Sweep(100, 0.01, 10)) == 5


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "group"), [(1, 1), (2, 1), (2, 10)])
def test_the_model_has_what_is_measured_here(workers: int, group: int) -> None:
    """Within a factor of 2, on a machine that does nothing else: the overheads are those of processors."""
    costs = measured()
    with cluster(workers) as client, fresh_store() as kept:
        sweep_here(client, kept, slept(40, 0.0, "warm"), 1)
        taken = sweep_here(client, kept, slept(300, 0.01, "case"), group)
    told = simulate(Sweep(300, 0.01, workers, group), costs).seconds - costs.start
    assert 1 / 2 <= told / taken <= 2, (told, taken, costs)
