"""The plan before a run: counts against the calls that are made, bytes against those that are alive, and what asks."""

import math
import time
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import cli
from analyses import estimate as estimating
from analyses import limits, prices, work
from analyses.analysis import Cell, analyses, measurements
from analyses.estimate import bytes_of, estimate, size_of
from analyses.limits import CELLS, refusals, too_long
from analyses.plan import kept, lines, plan
from analyses.prices import Where
from analyses.settings import Settings, as_json, presets, resolve
from analyses.store import Store
from analyses.work import WORKS, Operation, Work
from diagnostics.cost.live_bytes import live_bytes
from diagnostics.inner import make_optimizer, run_inner
from diagnostics.recording import recording

SMALL = {"tasks": 3, "seeds": (0,), "steps": (0, 2, 7), "iterations": (1, 4), "reference_seconds": 0.0}
NETWORK = "sinusoid[strength=50,width=6]"


@lru_cache
def settings(analysis: str, problem: str, **more: Any) -> Settings:
    return resolve((analysis,), "smoke", {}, SMALL | more, (problem,))


def cell(analysis: str, problem: str, **more: Any) -> Cell:
    return analyses[analysis].cells(settings(analysis, problem, **more))[0]


def expected(one: Cell) -> Work:
    size = size_of(one)
    return Counter({key: size.facts.chunks * n for key, n in WORKS[one.measurement](one.spec, size.facts).items()})


# ---- counts


def calls_of(one: Cell, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often anything is differentiated while the cell is measured: once for each operation that is counted."""
    made, grad = 0, torch.autograd.grad

    def counting(*arguments: Any, **options: Any) -> Any:
        nonlocal made
        made += 1
        return grad(*arguments, **options)

    with monkeypatch.context() as patched, recording("off"):
        patched.setattr(torch.autograd, "grad", counting)
        measurements[one.measurement](one.spec)
    return made


@pytest.mark.parametrize(
    ("analysis", "problem", "more"),
    [
        ("steps", "quadratic", {}),
        ("steps", "linear_regression", {"steps": (1, 30)}),
        ("precision", "linear_regression", {"steps": (1, 30)}),
        ("precision", "linear_regression", {"steps": (1, 12), "reference_seconds": 60.0, "tasks": 2}),
        ("digits", "linear_regression", {"traced": ("float32",), "steps": (5, 20)}),
        ("budget", "linear_regression", {"steps": (1, 30)}),
        ("cost", "linear_regression", {"steps": (3, 20)}),
    ],
)
def test_the_operations_of_a_cell_are_counted(
    analysis: str, problem: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the minimiser is known and the Hessian written out nothing depends on numbers that are not yet known."""
    one = cell(analysis, problem, **more)
    made = calls_of(one, monkeypatch)
    monkeypatch.setattr(work, "COUNTING", 3)  # calls, and not what they take
    # The outer gradients at the ends, the residuals and the checks, which are not counted, are a part of a small cell.
    assert 0.75 <= sum(expected(one).values()) / made <= 1.25, (expected(one), made)


@pytest.mark.parametrize(("analysis", "arithmetics"), [("steps", 2), ("precision", 4), ("budget", 4)])
def test_more_iterations_are_as_many_products_more(
    analysis: str, arithmetics: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight in each arithmetic and setting of a reference; a grid has two kinds of CG in one arithmetic."""
    problem = "quadratic[condition=1e4]"  # on which CG does not end before its iterations do
    few, many = (cell(analysis, problem, iterations=(1, most)) for most in (4, 12))
    told = sum(expected(many).values()) - sum(expected(few).values())
    made = calls_of(many, monkeypatch) - calls_of(few, monkeypatch)
    assert told == made == 8 * arithmetics


def test_a_loop_that_is_longer_takes_more_steps_and_as_many_products() -> None:
    short, long = (expected(cell("steps", "quadratic", steps=(10, count))) for count in (20, 40))

    def total(found: Work, kind: str) -> int:
        return sum(count for operation, count in found.items() if operation.kind == kind)

    assert total(long, "step") == pytest.approx(2 * total(short, "step"), rel=0.1)
    assert total(long, "product") == total(short, "product")
    more = expected(cell("steps", "quadratic", steps=(10, 20), iterations=(1, 14)))
    assert total(more, "product") - total(short, "product") == 2 * 10  # two kinds of CG, ten iterations more


@pytest.mark.parametrize(("problem", "rate"), [("logistic", 1.0), ("logistic", 0.1), ("sinusoid[strength=50]", 0.01)])
def test_the_search_for_the_minimiser_is_foretold(problem: str, rate: float) -> None:
    """A loop falls at a rate that its first steps show, unless it is far from where it is going."""
    one = cell("steps", problem, inner_lr=rate, patience=5000)
    foretold = size_of(one).facts.search
    built = Where.of(one.spec).build()
    theta, data = built.draw(2, 0)
    norms = run_inner(built, make_optimizer("gd", built), theta, data, 1000).gradient_norms
    small = (norms <= estimating.NEAR * norms[0]).all(-1)
    needed = int(small.int().argmax())
    assert bool(small.any())
    assert needed / 2 <= foretold <= 2 * needed
    assert size_of(one).facts.reached


def test_a_minimiser_that_is_too_far_is_not_said_to_be_reached() -> None:
    facts = size_of(cell("steps", "sinusoid", patience=50)).facts
    assert facts.search == 50 and not facts.reached
    assert size_of(cell("steps", "quadratic")).facts.reached


# ---- seconds


def test_what_is_recorded_takes_no_longer_and_never_less_than_the_part_before() -> None:
    times = [prices._faster(0.001, count) for count in range(0, 5000, 10)]
    assert times == sorted(times)
    assert all(time <= 0.001 * count + 1e-12 for time, count in zip(times, range(0, 5000, 10), strict=True))
    assert times[-1] < 0.7 * 0.001 * 4990
    assert prices._faster(0.1, 100) > prices._faster(0.001, 10000)  # large operations gain little


def test_seconds_are_counts_times_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    where = Where("quadratic", None, None, "gd")
    of = {"step": 0.001, "product": 0.01}
    monkeypatch.setattr(prices, "price", lambda _, operation: of[operation.kind])
    done: Work = Counter({Operation("step", "bfloat16", 3): 2000, Operation("product", "float32", 9): 50})
    assert prices.seconds(where, done) == pytest.approx(2.0 + 0.5)


def test_an_operation_in_extended_precision_costs_more_and_goes_by_its_rows() -> None:
    where = Where("sinusoid", None, None, "gd")
    plain, fine = (prices.price(where, Operation("step", name, 4)) for name in ("float64", "extended"))
    assert fine > 3 * plain > 0
    few, many = (prices.price(where, Operation("step", "extended", rows)) for rows in (32, 320))
    assert many == pytest.approx(10 * few, rel=5)  # of the few rows' own time; that of another call
    assert prices.setting("extended, cut short").eps > prices.setting("extended").eps


# ---- bytes


@pytest.mark.parametrize(
    ("analysis", "problem", "more"),
    [
        ("steps", "quadratic", {"steps": (5, 60)}),
        ("steps", "sinusoid", {"steps": (20,), "patience": 5, "exact_iterations": 10, "iterations": (3,)}),
        ("budget", "sinusoid", {"steps": (10,), "patience": 5, "exact_iterations": 10, "iterations": (3,)}),
        ("precision", "linear_regression", {"steps": (5, 20)}),
    ],
)
def test_about_as_many_bytes_are_alive_as_expected(analysis: str, problem: str, more: dict[str, Any]) -> None:
    one = cell(analysis, problem, **more)
    rows = estimating.rows_of(one)
    peak = live_bytes(lambda: measurements[one.measurement](one.spec)).peak
    tensors = bytes_of(one) - estimating.BASE_BYTES - estimating.ROW_BYTES * rows
    assert 0.8 <= tensors / peak <= 4, (tensors, peak)


@pytest.mark.parametrize("analysis", ["steps", "precision", "budget", "cost"])
def test_rows_are_foretold(analysis: str) -> None:
    one = cell(analysis, "linear_regression")
    made = len(measurements[one.measurement](one.spec))
    assert 0.5 <= estimating.rows_of(one) / made <= 2, made


def test_millions_of_tasks_are_not_drawn_to_be_refused() -> None:
    one = cell("steps", "sinusoid", tasks=10**7, steps=(1, 100))
    assert bytes_of(one) > 10**7 * 1761 * 8
    (line,) = refusals([one], free=2**34).values()
    for word in ("too large", "80%", str(2**34), str(bytes_of(one))):
        assert word in line


# ---- what is refused, and what asks


def test_only_the_cell_that_does_not_fit_is_refused() -> None:
    small, large = cell("steps", "quadratic"), cell("steps", "sinusoid", steps=(1, 10**6), tasks=100)
    assert bytes_of(small) < 2**27 < 2**31 < bytes_of(large)
    assert set(refusals([small, large], free=2**31)) == {large.key}
    assert refusals([small, large], free=2**50) == {}
    assert set(refusals([small, large], free=0)) == {small.key, large.key}


def test_where_the_system_does_not_say_what_is_free_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "free_bytes", lambda: None)
    assert refusals([cell("steps", "sinusoid", tasks=10**7)]) == {}


def test_a_measurement_that_is_not_known_is_not_estimated() -> None:
    strange = Cell("something else", {"seed": 0})
    assert estimate(strange) is None
    assert refusals([strange], free=0) == {}
    assert too_long([strange]) is None


@pytest.mark.parametrize("preset", presets())
def test_no_preset_asks(preset: str) -> None:
    asked = resolve(cli.ANALYSES, preset, {}, {})
    assert too_long([one for name in asked.analyses for one in analyses[name].cells(asked)]) is None


def test_many_cells_ask_and_so_do_long_ones() -> None:
    one = cell("steps", "quadratic")
    assert too_long([one] * CELLS) is None
    line = too_long([one] * (CELLS + 1))
    assert line is not None and str(CELLS + 1) in line and str(CELLS) in line and "--yes" in line
    long = too_long([cell("steps", "quadratic", steps=(10**7,))] * 200)
    assert long is not None and "24 hours" in long and "--yes" in long


# ---- the plan


def test_each_cell_is_counted_once_and_what_is_done_is_not_left() -> None:
    asked = settings("steps", "quadratic", seeds=(0, 1, 2))
    asked = replace(asked, analyses=("steps", "cg", "surface"))
    cells = analyses["steps"].cells(asked)
    whole, rest = plan(asked), plan(asked, {cells[0].key, "of another run"})
    assert (whole.cells, whole.left, whole.asked) == (3, 3, 9)
    assert (rest.cells, rest.left) == (3, 2)
    (group,) = whole.groups
    assert group.analyses == ("steps", "cg", "surface") and group.arithmetic == "float32"
    assert rest.seconds() < whole.seconds() and whole.seconds(2) < whole.seconds()
    assert plan(asked, {one.key for one in cells}).seconds() == 0
    text = "\n".join(lines(rest))
    assert "3 cells, 1 done, 2 left" in text and "9 are asked for, 3 measured" in text


def test_a_refused_cell_stands_in_the_plan() -> None:
    told = plan(settings("steps", "quadratic"))
    assert not told.refused
    assert any("refused: too large" in line for line in lines(replace(told, refused={"key": "too large: as it is"})))


def test_what_a_folder_has_is_kept_and_another_run_is_refused(tmp_path: Path) -> None:
    identity = {"settings": as_json(settings("steps", "quadratic"))}
    assert kept(tmp_path, identity) == set()
    store, one = Store(tmp_path / "run.sqlite"), cell("steps", "quadratic")
    store.begin(identity)
    store.put(one, [{"x": 1.0}], 0.1)
    assert kept(tmp_path, identity) == {one.key}
    with pytest.raises(ValueError, match=r"tasks: 3 -> 4.*--out"):
        kept(tmp_path, {"settings": as_json(settings("steps", "quadratic", tasks=4))})


# ---- the commands

TINY = ("run", "steps", "--problem", "quadratic", "--steps", "1,3", "--iterations", "1", "--tasks", "2",
        "--precision", "float32", "--reference-seconds", "0")  # fmt: skip


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = CliRunner().invoke(cli.main, [*TINY, "--seed", "0,1", "--dry-run", "--out", str(folder)])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("2 cells\n") and "quadratic" in done.stdout and "within a factor" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_tells_what_is_done_and_leaves_it_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [*TINY, "--seed", "0,1", "--out", str(folder)]
    assert CliRunner().invoke(cli.main, command).exit_code == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = CliRunner().invoke(cli.main, [*command, "--dry-run"])
    assert done.stdout.startswith("2 cells, 2 done, 0 left\n"), done.output
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_large_grid_asks_for_yes(tmp_path: Path) -> None:
    seeds = ",".join(map(str, range(CELLS + 1)))
    done = CliRunner().invoke(cli.main, [*TINY, "--seed", seeds, "--out", str(tmp_path / "run")])
    assert done.exit_code == 2
    assert f"at most {CELLS} cells, found {CELLS + 1}" in done.stderr and "--yes" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_help_says_what_asks() -> None:
    text = " ".join(CliRunner().invoke(cli.main, ["report", "--help"]).output.split())
    assert f"more than {CELLS} cells" in text and f"more than {limits.HOURS:g} hours" in text


# ---- how far off an estimate is


@pytest.mark.slow
@pytest.mark.parametrize("measurement", sorted(WORKS))
def test_a_cell_takes_about_as_long_as_estimated(measurement: str) -> None:
    """The cells of `smoke`, each once to warm up, in the processor's time, as prices are taken.

    A busy machine takes longer even so, since caches are shared; so the limits are wide.
    """
    asked = resolve(cli.ANALYSES, "smoke", {}, {})
    cells = {one.key: one for name in asked.analyses for one in analyses[name].cells(asked)}.values()
    for one in (one for one in cells if one.measurement == measurement):
        measurements[one.measurement](one.spec)
        begun = time.process_time()
        measurements[one.measurement](one.spec)
        taken, told = time.process_time() - begun, estimate(one)
        assert told is not None
        assert abs(math.log(told.seconds / taken)) < math.log(6), (one.spec["problem"], told.seconds, taken)
