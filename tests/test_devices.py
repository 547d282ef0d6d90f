"""Every registered estimator, solver and optimizer, and the analyses, on a device that is not the CPU.

On a stand-in for one (`tests.second_device`): nothing may mix devices, no loop may wait for a number or send one over,
and the gradients must be those of the CPU. What it does not show is a GPU's own kernels, roundings and memory.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import cli
from analyses import budget, cost, grid, rounding
from analyses.analysis import Rows
from analyses.budget import BudgetCell
from analyses.cost import CostCell
from analyses.device import described, require_device
from analyses.grid_rows import GridCell
from analyses.rounding import RoundingCell
from diagnostics import solvers as solvers_module
from diagnostics.arithmetic.precision import PRECISIONS, Precision, enter_rows
from diagnostics.curvature import lanczos
from diagnostics.estimators.implicit import Implicit
from diagnostics.estimators.released_imaml import ReleasedIMAML
from diagnostics.growth import growth
from diagnostics.inner import Optimizer, Trajectory, optimizers, run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.linear.minres import MinimalResidual
from diagnostics.meta_gradient import Estimator, MetaGradient, estimators, meta_gradient
from diagnostics.one_step import end_adjoint, take_step
from diagnostics.outcome import Outcome, decode
from diagnostics.problem import Problem
from diagnostics.reference import stationary_reference
from diagnostics.rows import row_norms
from diagnostics.solvers import solvers
from tests.cases import (
    check_ratio,
    gd,
    make_estimator,
    make_optimizer,
    make_solver,
    small,
    symmetric,
    theta_and_data,
    times,
    vectors,
)
from tests.second_device import CUDA, Away, Log, back, second_device

TASKS = 2
# Who may wait, once, before a loop: for whether all numbers are finite, and whether the loop starts at theta.
BEFORE = {"inner._check_inputs", "reptile.require_start_at_theta"}
every_estimator = pytest.mark.parametrize("name", estimators.names())
every_solver = pytest.mark.parametrize("name", solvers.names())
every_optimizer = pytest.mark.parametrize("name", optimizers.names())
PLAIN = [p for p in PRECISIONS.values() if p.name != "extended"]


def moved(theta: Tensor, data: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    return theta.to(CUDA), {key: value.to(CUDA) for key, value in data.items()}


def loops(problem: Problem, steps: int, optimizer: Optimizer | None = None) -> tuple[Trajectory, Trajectory]:
    """The same loop on the CPU and on the stand-in."""
    theta, data = theta_and_data(problem, TASKS)
    optimizer = optimizer or gd(problem)
    here = run_inner(problem, optimizer, theta, data, steps)
    return here, run_inner(problem, optimizer, *moved(theta, data), steps)


def waited(log: Log, call: Callable[[], object]) -> tuple[list[str], list[str]]:
    """Who waited for a number, and who sent one over, during a call."""
    reads, sends = len(log.reads), len(log.sends)
    call()
    return log.reads[reads:], log.sends[sends:]


def check_same(family: str, away: Tensor, here: Tensor, eps: float = 2.0**-52, where: object = "") -> None:
    """A result of the stand-in, row by row: kernels may sum in another order, by how their memory is aligned."""
    assert isinstance(away, Away) and away.device == CUDA and away.dtype == here.dtype
    returned, here = back(away).flatten(1).double(), here.flatten(1).double()
    assert torch.equal(returned.isfinite(), here.isfinite())
    returned, here = returned.nan_to_num(), here.nan_to_num()
    check_ratio(family, row_norms(returned - here), eps * here.shape[1] ** 0.5 * row_norms(here).clamp(min=1e-3), where)


def check_estimator(estimator: Estimator, problem: Problem, steps: tuple[int, int] = (2, 4)) -> None:
    """On the stand-in: the CPU's gradient, and as many waits for more steps as for fewer, all of them beforehand."""
    with second_device() as log:
        counted = [waited(log, partial(estimator, problem, loops(problem, count)[1])) for count in steps]
        expected, found = (estimator(problem, loop) for loop in loops(problem, steps[-1]))
    reads, sends = counted[0]
    assert set(reads) <= BEFORE and len(reads) <= 2, reads
    assert counted[1] == (reads, sends), counted
    for field in ("outcome", "gradient_count", "hvp_count"):
        assert torch.equal(back(getattr(found, field)), getattr(expected, field)), field
    check_same("estimators on a device", found.value, expected.value, where=problem.name)


@every_estimator
def test_an_estimator_waits_for_no_number_inside_its_loops(name: str) -> None:
    check_estimator(make_estimator(name), small("quadratic"))


OTHERS = [("logistic", "checkpointed"), ("sinusoid", "implicit"), ("sinusoid", "unrolled_adjoint")]
OF_IMAGES = [
    pytest.param("few_shot", name, marks=pytest.mark.slow) for name in ("implicit", "unrolled", "checkpointed")
]


@pytest.mark.parametrize(("problem_name", "name"), [*OTHERS, *OF_IMAGES])
def test_so_with_the_losses_of_other_problems(problem_name: str, name: str) -> None:
    few = Implicit(ConjugateGradients(3)) if name == "implicit" else make_estimator(name)
    more: dict[str, object] = {"width": 2, "ways": 2, "queries": 1} if problem_name == "few_shot" else {}
    check_estimator(few, small(problem_name, **more), steps=(1, 2))


@every_optimizer
@pytest.mark.parametrize("estimator", ["unrolled", "unrolled_adjoint"])
def test_an_optimizer_waits_for_no_number(name: str, estimator: str) -> None:
    """Line searches included; and its derivative does not either."""
    problem = small("logistic")
    with second_device() as log:
        theta, data = theta_and_data(problem, TASKS)
        there = moved(theta, data)
        found: list[Trajectory] = []
        for steps in (1, 3):
            run = waited(log, lambda steps=steps: found.append(run_inner(problem, make_optimizer(name), *there, steps)))
            assert run == (["inner._check_inputs"], [])
            assert waited(log, lambda: make_estimator(estimator)(problem, found[-1])) == ([], [])
        here = run_inner(problem, make_optimizer(name), theta, data, 3)
        expected, gradient = (make_estimator(estimator)(problem, loop) for loop in (here, found[-1]))
    # Second-order steps amplify a rounding by the condition number, which is that of the data.
    check_same("optimizers on a device", found[-1].final, here.final, 2.0**-52 * 100, name)
    check_same("optimizers on a device", gradient.value, expected.value, 2.0**-52 * 1e4, name)


SYSTEMS = {
    "definite": ([1.0, 2, 3, 4, 5], [0.5, 0.5, 1, 1, 2], [1.0, 1, 1, 1, 1]),
    "indefinite": ([-1.0, 2, 3, 4, 5], [-2.0, -1, 1, 1, 2], [1.0, 1, 1, 1, -1]),
    "singular": ([0.0, 2, 3, 4, 5], [0.0, 0.0, 1, 1, 2], [1.0, 1, 1, 1, 0]),
}


@every_solver
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_solver_waits_for_no_number_and_goes_on_where_all_rows_have_ended(name: str, system: str) -> None:
    """As many products as are allowed are made there, and a row that has ended stays as it is, to the last bit."""
    matrix, b = symmetric(torch.tensor(SYSTEMS[system], dtype=torch.float64)), vectors(3, 5)
    b[2] = 0.0 if system == "definite" else b[2]
    with second_device() as log:
        away, right = matrix.to(CUDA), b.to(CUDA)
        counted = []
        for iterations in (4, 12):
            solver = make_solver(name)
            if hasattr(solver, "iterations"):
                solver = replace(solver, iterations=iterations, keep=(3,))  # type: ignore[type-var]
            counted.append(waited(log, lambda solver=solver: solver.path(times(away), right)))
        assert counted[0] == counted[1]
        assert counted[0][0] == []
        here, there = solver.path(times(matrix), b), solver.path(times(away), right)
    for found, expected in zip(there, here, strict=True):
        assert decode(back(found.outcome)) == decode(expected.outcome)
        assert torch.equal(back(found.products), expected.products)
        if system != "singular":  # where x is anything plus a vector of the null space
            check_same(f"solvers on a device, {system}", found.value, expected.value, 2.0**-52 * 5, name)


def test_minres_starts_again_without_asking() -> None:
    """Where the CPU starts again, so does the stand-in: the condition number of 1e7 takes several starts."""
    matrix, b = symmetric(torch.logspace(-7, 0, 12, dtype=torch.float64).repeat(2, 1)), vectors(2, 12)
    with second_device() as log:
        away, right = matrix.to(CUDA), b.to(CUDA)
        here = MinimalResidual(80).path(times(matrix), b)[-1]
        reads, _ = waited(log, lambda: MinimalResidual(30).path(times(away), right))
        there = MinimalResidual(80).path(times(away), right)[-1]
    assert reads == []
    assert bool((here.products > 24).all())  # or no row has started again
    assert torch.equal(back(there.products), here.products)
    check_same("MINRES on a device", there.value, here.value, 2.0**-52 * 1e7)


@pytest.mark.parametrize("arithmetic", PLAIN, ids=[p.name for p in PLAIN])
def test_no_arithmetic_of_the_machine_waits(arithmetic: Precision) -> None:
    problem = small("logistic")
    theta, data = theta_and_data(problem, TASKS)
    with second_device() as log, arithmetic.running():
        entered = arithmetic.enter(theta), enter_rows(arithmetic, data)
        there = moved(*entered)
        found: list[Any] = []
        for estimator in (make_estimator("unrolled_adjoint"), Implicit(ConjugateGradients(4))):
            for inputs in (entered, there):
                loop = run_inner(problem, gd(problem), inputs[0], inputs[1], 4)
                reads, _ = waited(log, lambda loop=loop, estimator=estimator: found.append(estimator(problem, loop)))
                assert reads == []
            here, away = found[-2:]
            check_same("arithmetics on a device", away.value, here.value, arithmetic.eps * 10, arithmetic.name)


def test_double_words_are_the_same_to_the_bit_and_wait_only_where_they_say() -> None:
    problem, extended = small("quadratic"), PRECISIONS["extended"]
    theta, data = theta_and_data(problem, 2)
    with second_device() as log:
        loop = [
            run_inner(problem, gd(problem), extended.enter(x), enter_rows(extended, y), 2)
            for x, y in ((theta, data), moved(theta, data))
        ]
        here, away = (make_estimator("unrolled_adjoint")(problem, one).value for one in loop)
    assert torch.equal(back(away.high), here.high) and torch.equal(back(away.low), here.low)  # type: ignore[attr-defined]
    assert {name.partition(".")[0] for name in log.reads} <= {"inner", "blocks", "ozaki"}


def test_growth_waits_for_nothing_and_ends_where_it_does_on_the_cpu() -> None:
    with second_device() as log:
        here, away = loops(small("logistic"), 6)
        found = []
        reads, _ = waited(log, lambda: found.append(growth(small("logistic"), away, iterations=6)))
        expected = growth(small("logistic"), here, iterations=6)
    assert reads == []
    check_same("growth on a device", found[0].rate.unsqueeze(-1), expected.rate.unsqueeze(-1), 2.0**-52 * 10)
    check_same("growth on a device", found[0].along.mT, expected.along.mT, 2.0**-52 * 10)


def test_lanczos_sends_its_random_vectors_at_once_and_waits_for_nothing() -> None:
    matrix = symmetric(torch.arange(1.0, 41).double().repeat(2, 1))
    with second_device() as log:
        away, like = matrix.to(CUDA), vectors(2, 40).to(CUDA)
        for iterations in (3, 20):
            assert waited(log, lambda iterations=iterations: lanczos(times(away), like, iterations)) == (
                [],
                ["curvature.lanczos"],
            )
        found, expected = lanczos(times(away), like, 20), lanczos(times(matrix), vectors(2, 40), 20)
    check_same("Lanczos on a device", found.largest.unsqueeze(-1), expected.largest.unsqueeze(-1), 2.0**-52 * 40)


def test_the_search_for_the_minimiser_asks_once_in_twenty_steps_and_at_each_step_of_newtons_method() -> None:
    problem = small("logistic")
    with second_device() as log:
        here, away = loops(problem, 4)
        found = []
        reads, _ = waited(log, lambda: found.append(stationary_reference(problem, away)))
        expected = stationary_reference(problem, here)
    assert decode(expected.outcome) == [Outcome.OK] * TASKS == decode(back(found[0].outcome))
    check_same("references on a device", found[0].value, expected.value, 2.0**-52 * 100)
    assert set(reads) == {"reference._continued", "reference._newton", "reference.at_minimiser"}
    assert len(reads) < 40


def test_released_imaml_solves_for_the_rows_that_need_no_iteration_without_asking() -> None:
    matrix, b = symmetric(torch.tensor([[1.0, 2, 3], [1, 2, 3]]).double()), vectors(2, 3)
    b[1] = 1e-9 * b[1]
    with second_device() as log:
        away, right = matrix.to(CUDA), b.to(CUDA)
        reads, _ = waited(log, lambda: ReleasedIMAML().solve(times(away), right))
        found, expected = ReleasedIMAML().solve(times(away), right), ReleasedIMAML().solve(times(matrix), b)
    assert reads == [] and expected.products.tolist()[1] == 1
    assert torch.equal(back(found.value), expected.value) and torch.equal(back(found.products), expected.products)


# ---- that these tests can fail


@dataclass(frozen=True)
class Asking:
    """The adjoint sweep with one thing wrong: it looks at a number, or brings one of its own, at each step."""

    wrong: Callable[[Tensor], Tensor]

    def __call__(self, problem: Problem, trajectory: Trajectory) -> MetaGradient:
        adjoint, by_theta = end_adjoint(problem, trajectory)
        for step in reversed(range(trajectory.steps)):
            adjoint, more = take_step(problem, trajectory, trajectory.states[step]).pull(adjoint)
            by_theta = by_theta + self.wrong(more)
        return meta_gradient(by_theta, trajectory)


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "item": lambda x: x * (1.0 if x.sum().item() == x.sum().item() else 0.0),
    "bool": lambda x: x if bool(x.isfinite().all()) else x,
    "tolist": lambda x: x if x.tolist() else x,
    "mask": lambda x: x + 0 * x[x > 0].sum(),
    "copy": lambda x: x + 0 * x.abs().amax().cpu(),
    "equal": lambda x: x if torch.equal(x, x) else x,
    "sent": lambda x: x * torch.ones(x.shape[1], dtype=x.dtype).to(x.device),
    "list": lambda x: x * torch.tensor([1.0] * x.shape[1], dtype=x.dtype, device=x.device),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_estimator_that_waits_in_its_loop_is_caught(name: str) -> None:
    with pytest.raises(AssertionError):
        check_estimator(Asking(WRONG[name]), small("quadratic"))


def test_one_that_does_not_is_not_and_one_with_a_constant_of_the_cpu_is() -> None:
    check_estimator(Asking(lambda x: x), small("quadratic"))
    with pytest.raises(RuntimeError, match="expected all tensors on one device, found cuda:0 and cpu"):
        check_estimator(Asking(lambda x: x * torch.ones(x.shape[1], dtype=x.dtype)), small("quadratic"))


def test_a_solver_that_asks_whether_all_rows_have_ended_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solvers_module, "known_none", lambda rows: not bool(rows.any()))
    with pytest.raises(AssertionError):
        test_a_solver_waits_for_no_number_and_goes_on_where_all_rows_have_ended("gmres", "definite")


def test_a_loop_on_two_devices_is_refused() -> None:
    problem = small("quadratic")
    theta, data = theta_and_data(problem, 2)
    with (
        second_device(),
        pytest.raises(ValueError, match="expected one device, found theta on cuda:0 and data.* on cpu"),
    ):
        run_inner(problem, gd(problem), theta.to(CUDA), data, 1)


@pytest.mark.parametrize("name", ["quadratic", "few_shot"])
def test_the_numbers_that_are_drawn_do_not_depend_on_the_device(name: str) -> None:
    problem = small(name)
    here, data = problem.draw(2, 3)
    with second_device():
        away, there = problem.draw(2, 3, CUDA)
    assert isinstance(away, Away) and torch.equal(back(away), here) and there.keys() == data.keys()
    for key, value in there.items():
        assert isinstance(value, Away) and torch.equal(value.here, data[key])


# ---- the analyses

MEASURED: dict[str, tuple[Callable[[Any], Rows], Any]] = {
    "grid": (
        grid.measure,
        GridCell(
            problem="quadratic[dimension=4]", seed=0, tasks=2, steps=(0, 3), iterations=(1, 2), precision="float32",
        ),
    ),
    "rounding": (
        rounding.measure,
        RoundingCell(
            problem="quadratic[dimension=3]", seed=0, tasks=2, steps=(1, 3), iterations=(1,), traced=("float32",),
            precisions=("float32", "bfloat16"), reference_seconds=0.0,
        ),
    ),
    "rounding, extended and rescaled": (
        rounding.measure,
        RoundingCell(
            problem="linear_regression[dimension=3]", seed=0, tasks=2, steps=(1,), iterations=(1,),
            precisions=("float32",), scaling="power_of_two", reference_seconds=1000.0,
        ),
    ),
    "budget": (
        budget.measure,
        BudgetCell(
            problem="quadratic[dimension=3]", seed=0, tasks=2, steps=(1, 3), iterations=(1,), precisions=("float32",),
            reference_seconds=0.0,
        ),
    ),
    "cost": (
        cost.measure,
        CostCell(
            problem="quadratic[dimension=3]", seed=0, tasks=2, steps=(1, 3), iterations=(1,), repeats=1,
            estimators=("unrolled", "checkpointed", "implicit"), processes=True,
        ),
    ),
}  # fmt: skip
OF_THE_DEVICE = ("seconds", "seconds_low", "seconds_high", "peak_bytes", "process_bytes")


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What a GPU's allocator says; and the devices that were waited for."""
    waits: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: waits.append(torch.device(device or "cuda")))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device=None: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device=None: 1000)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device=None: 5000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: 1512)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (10**9, 10**10))
    return waits


SLOWER = [pytest.param(name, marks=pytest.mark.slow) if "extended" in name else name for name in MEASURED]


@pytest.mark.parametrize("name", SLOWER)
def test_an_analysis_computes_on_its_device_what_it_computes_on_the_cpu(name: str, allocator: list[object]) -> None:
    """Every row, from the drawing of the tasks to what is read back; a tensor left behind on the CPU is refused."""
    measure, cell = MEASURED[name]
    here = measure(replace(cell, processes=False) if name == "cost" else cell)
    with second_device() as log:
        there = measure(replace(cell, device=str(CUDA)))
    assert len(there) == len(here) and "problem.draw" in log.sends
    for found, expected in zip(there, here, strict=True):
        assert found.keys() == expected.keys()
        for column, value in expected.items():
            if column in OF_THE_DEVICE:
                continue
            if not isinstance(value, float) or isinstance(found[column], str):
                assert found[column] == value, (column, expected)
            elif column not in ("solver_residual", "stationarity", "relative_error", "cosine_distance"):
                assert found[column] == pytest.approx(value, rel=1e-9, abs=1e-9, nan_ok=True), (column, expected)
            else:  # of the size of roundings
                assert found[column] == pytest.approx(value, rel=1e-3, abs=1e-12, nan_ok=True), (column, expected)


def test_the_costs_on_a_device_are_the_devices(allocator: list[object]) -> None:
    measure, cell = MEASURED["cost"]
    with second_device():
        rows = measure(replace(cell, device=str(CUDA)))
    priced = [row for row in rows if row["outcome"] != "too large"]
    assert {row["peak_bytes"] for row in priced} == {512} and {row["process_bytes"] for row in priced} == {None}
    assert set(allocator) == {CUDA} and len(allocator) > 4 * len(
        {(row["estimator"], row["inner_steps"]) for row in rows}
    )


def test_a_gradient_that_a_device_has_no_room_for_is_not_tried(allocator: list[object], monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (0, 10**10))  # 4000 bytes in the allocator
    measure, cell = MEASURED["cost"]
    with second_device():
        rows = measure(replace(cell, device=str(CUDA), tasks=64, steps=(40,), estimators=("unrolled",)))
    assert {row["outcome"] for row in rows if row["estimator"] == "unrolled"} == {"too large"}


# ---- which device there is


def test_the_cpu_is_there_and_called_by_its_name() -> None:
    require_device("cpu")
    assert described("cpu") == "cpu"


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"^device: expected cuda to be there, found torch .*; use --device cpu$"):
        require_device("cuda")
    assert described("cuda") == "cuda"


def test_of_several_gpus_one_that_is_not_there_is_refused() -> None:
    with second_device():
        require_device("cuda")
        require_device("cuda:0")
        with pytest.raises(ValueError, match="^device: expected cuda:1 to be there, found cuda:0; use one of these$"):
            require_device("cuda:1")
        assert described("cuda:0") == "cuda:0 (a stand-in)" and described("cuda:1") == "cuda:1"


# ---- from the command line

TINY = ("--problem", "quadratic", "--steps", "0,2", "--iterations", "1", "--tasks", "2", "--seed", "0",
        "--precision", "float32", "--reference-seconds", "0", "--preset", "smoke")  # fmt: skip


def test_a_run_on_a_device_that_is_not_there_ends_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(cli.main, ["run", "steps", *TINY, "--device", "cuda", "--out", str(tmp_path / "run")])
    assert done.exit_code == 2 and done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("Error: device: expected cuda to be there, found torch ") and "--device cpu" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cpu:0", "CUDA", "cuda:0\n", ""])
def test_a_name_that_is_no_device_is_refused(name: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.main, ["run", "steps", *TINY, "--device", name, "--out", str(tmp_path / "run")])
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr.startswith("Error: device: expected cpu, cuda, or one of several GPUs as cuda:1, found ")
    assert len(done.stderr.strip().splitlines()) == 1 and not (tmp_path / "run").exists()


def test_the_manifest_tells_the_device_and_each_cell_is_measured_there(tmp_path: Path) -> None:
    with second_device() as log:
        done = CliRunner().invoke(
            cli.main, ["run", "steps", *TINY, "--device", "cuda:0", "--out", str(tmp_path / "run")]
        )
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["numerics"]["device"] == "cuda:0 (a stand-in)"
    assert {table["device"] for table in manifest["settings"]["grids"]} == {"cuda:0"}
    assert "problem.draw" in log.sends
    assert (tmp_path / "run" / "tables" / "steps.csv").stat().st_size > 0
