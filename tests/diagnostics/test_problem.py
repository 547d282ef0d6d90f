"""Problems made from a module, from losses of one task, or by hand."""

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diagnostics.estimators.implicit import Implicit
from diagnostics.estimators.unrolled import Unrolled
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.hessian import second_order
from diagnostics.inner import run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.linear.dense import Dense, written_out
from diagnostics.models import mlp
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.outcome import Outcome
from diagnostics.problem import Model, Problem, from_theta, proximal
from diagnostics.problem_names import build
from diagnostics.rows import Data, row_norms
from tests.cases import check_by_differences, check_ratio, only, small, theta_and_data, vectors


def square(prefix: str) -> Callable[[Model, Data], Tensor]:
    """Mean squared error of one task."""
    return lambda model, data: ((model(data[f"{prefix}_x"]) - data[f"{prefix}_y"]) ** 2).mean()


def regression(tasks: int, seed: int) -> dict[str, Tensor]:
    """Five examples with three inputs and two outputs, on each side."""
    return {
        f"{prefix}_{part}": vectors(tasks, 5 * width, seed + 10 * shift + width).view(tasks, 5, width)
        for shift, prefix in enumerate(("support", "query"))
        for part, width in (("x", 3), ("y", 2))
    }


def from_module(module: nn.Module, strength: float | None = 0.5) -> Problem:
    return Problem.from_module("mine", module, square("support"), square("query"), regression, strength=strength)


class MyMLP(nn.Module):
    """The same network as `models.mlp((3, 4, 2))`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))


def flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


# ---- from_module


@pytest.mark.parametrize("width", ["linear", "mlp"])
def test_a_module_is_the_same_problem_as_the_native_network(width: str) -> None:
    """Losses, gradients, unrolled and implicit: two ways to write one problem."""
    torch.manual_seed(0)
    module = (nn.Linear(3, 2) if width == "linear" else MyMLP()).double()
    network = mlp((3, 2) if width == "linear" else (3, 4, 2))
    assert network.size == len(flat(module))

    def loss(prefix: str):
        return lambda w, theta, data: ((network.apply(w, data[f"{prefix}_x"]) - data[f"{prefix}_y"]) ** 2).mean(
            (-2, -1)
        )

    native = Problem(
        "native", proximal(loss("support"), 0.5), loss("query"), lambda seed: flat(module), regression, strength=0.5
    )
    mine = from_module(module)
    assert mine.strength == 0.5
    assert torch.equal(mine.init(0), flat(module)) and torch.equal(mine.init(1), mine.init(0))

    theta, data = theta_and_data(mine, 3)
    theta = theta + 0.1 * vectors(3, theta.shape[1])
    loops = [run_inner(p, GradientDescent(0.1), theta, data, 4) for p in (mine, native)]
    # A solve is as good as its Hessian's condition; the loop's rounding is that of four steps.
    end = loops[1]
    matrix = written_out(second_order(native, end.final, theta, data).hessian, end.final)
    sizes = torch.linalg.eigvalsh(matrix).abs()
    kappa = sizes.amax(-1) / sizes.amin(-1)
    for name, one, two, condition in (
        ("states", loops[0].states[-1], end.states[-1], 1.0),
        ("unrolled", Unrolled()(mine, loops[0]).value, Unrolled()(native, end).value, 1.0),
        ("adjoint", UnrolledAdjoint()(mine, loops[0]).value, UnrolledAdjoint()(native, end).value, 1.0),
        ("implicit", Implicit(Dense())(mine, loops[0]).value, Implicit(Dense())(native, end).value, kappa),
    ):
        check_ratio("module against native", row_norms(one - two), 2.0**-52 * 5 * condition * row_norms(two), name)


def test_a_module_is_differentiated_rightly() -> None:
    torch.manual_seed(0)
    problem = from_module(MyMLP())
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, GradientDescent(0.1), theta, data, 3)
    gradient = Unrolled()(problem, loop)
    assert only(gradient.outcome) is Outcome.OK
    check_by_differences("central differences, module", problem, loop.optimizer, theta, data, 3, gradient.value)


def test_a_float32_module_runs_in_the_arithmetic_of_the_weights_it_is_given() -> None:
    torch.manual_seed(0)
    module = MyMLP()
    assert next(module.parameters()).dtype == torch.float32
    single, double = from_module(module), from_module(copy.deepcopy(module).double())
    assert single.init(0).dtype == torch.float64
    assert torch.equal(single.init(0), double.init(0))
    theta, data = theta_and_data(single, 2)
    for dtype in (torch.float64, torch.float32):
        rows, batch = theta.to(dtype), {key: value.to(dtype) for key, value in data.items()}
        loops = [run_inner(p, GradientDescent(0.1), rows, batch, 2) for p in (single, double)]
        assert loops[0].states.dtype == dtype
        assert torch.equal(loops[0].states, loops[1].states)


def test_the_module_itself_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    module = MyMLP()
    before = flat(module)
    problem = from_module(module)
    theta, data = theta_and_data(problem, 2)
    Unrolled()(problem, run_inner(problem, GradientDescent(0.1), theta, data, 3))
    assert torch.equal(flat(module), before)
    assert all(p.grad is None for p in module.parameters())


def test_a_parameter_used_twice_is_one_parameter() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 3)
            self.two = nn.Linear(3, 3)
            self.two.weight = self.one.weight
            self.out = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.tanh(self.two(torch.tanh(self.one(x)))))

    torch.manual_seed(0)
    problem = from_module(Tied())
    assert len(problem.init(0)) == 9 + 3 + 3 + 6 + 2
    theta, data = theta_and_data(problem, 2)
    loop = run_inner(problem, GradientDescent(0.1), theta, data, 2)
    gradient = Unrolled()(problem, loop).value
    check_by_differences("central differences, tied", problem, loop.optimizer, theta, data, 2, gradient)


def test_running_statistics_are_refused_by_name() -> None:
    norm = nn.BatchNorm1d(4)
    module = nn.Sequential(nn.Linear(3, 4), norm, nn.Linear(4, 2))
    with pytest.raises(ValueError, match="problem 'mine': the loss changes the module's buffers") as caught:
        from_module(module)
    for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked", "track_running_stats=False"):
        assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    # The module is not changed by having been looked at.
    assert torch.equal(norm.get_buffer("running_mean"), torch.zeros(4))


def test_batch_statistics_and_constant_buffers_are_allowed() -> None:
    torch.manual_seed(0)
    batch = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2))
    frozen = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    for module in (batch, frozen):
        problem = from_module(module)
        theta, data = theta_and_data(problem, 2)
        loop = run_inner(problem, GradientDescent(0.05), theta, data, 2)
        gradient = Unrolled()(problem, loop)
        assert only(gradient.outcome) is Outcome.OK
        check_by_differences("central differences, norm", problem, loop.optimizer, theta, data, 2, gradient.value)


def test_dropout_is_refused() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 40), nn.Dropout(0.5), nn.Linear(40, 2))
    with pytest.raises(ValueError, match="problem 'mine': the loss is not the same twice .* remove dropout"):
        from_module(module)
    from_module(module.eval())  # switched off, it is no randomness


def test_an_outer_loss_that_changes_a_buffer_is_refused_too() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    def inner(model: Model, data: Data) -> Tensor:
        return sum((p**2).sum() for p in [data["support_x"]]) * 1.0 + 0.0 * data["support_y"].sum()

    with pytest.raises(ValueError, match="changes the module's buffers 1.running_mean"):
        Problem.from_module("mine", module, inner, square("query"), regression)


# ---- from_task_losses


def test_losses_of_one_task_lifted_equal_the_native_quadratic() -> None:
    native = small("quadratic")

    def inner(w: Tensor, theta: Tensor, data: Data) -> Tensor:
        return w @ (0.5 * data["A"] @ w - data["b"])

    def outer(w: Tensor, theta: Tensor, data: Data) -> Tensor:
        return 0.5 * (w - data["c"]) @ data["C"] @ (w - data["c"])

    lifted = Problem.from_task_losses("mine", inner, outer, native.init, native.sample, strength=native.strength)
    assert (lifted.name, lifted.strength) == ("mine", native.strength)
    check_same(native, lifted, 0.5)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_losses_of_one_task_lifted_equal_the_native_sinusoid(activation: str) -> None:
    native = build(f"sinusoid[activation={activation},shots=4,queries=3]")
    act = {"tanh": torch.tanh, "relu": torch.relu}[activation]

    def network(w: Tensor, x: Tensor) -> Tensor:
        pieces = w.split([40, 40, 1600, 40, 40, 1])
        x = act(x @ pieces[0].view(40, 1).T + pieces[1])
        x = act(x @ pieces[2].view(40, 40).T + pieces[3])
        return x @ pieces[4].view(1, 40).T + pieces[5]

    def loss(prefix: str):
        return lambda w, theta, data: ((network(w, data[f"{prefix}_x"]) - data[f"{prefix}_y"]) ** 2).mean()

    lifted = Problem.from_task_losses("mine", loss("support"), loss("query"), native.init, native.sample, strength=2.0)
    check_same(native, lifted, 0.01)


def check_same(native: Problem, lifted: Problem, step: float) -> None:
    theta, data = theta_and_data(native, 3)
    loops = [run_inner(p, GradientDescent(step), theta, data, 4) for p in (native, lifted)]
    values = [(loop.states[-1], Unrolled()(p, loop).value) for p, loop in zip((native, lifted), loops, strict=True)]
    for (here, gradient), (there, other) in zip(values[:1], values[1:], strict=True):
        check_ratio("lifted against native, states", row_norms(here - there), 2.0**-52 * 5 * row_norms(there))
        # Products of up to 41 terms, five times over.
        check_ratio(
            "lifted against native, gradients", row_norms(gradient - other), 2.0**-52 * 5 * 41**0.5 * row_norms(other)
        )


def test_no_strength_adds_no_term() -> None:
    problem = Problem.from_task_losses(
        "plain",
        lambda w, theta, data: (w**2).sum(),
        lambda w, theta, data: w.sum(),
        lambda seed: torch.ones(2).double(),
        lambda tasks, seed: {"x": torch.zeros(tasks, 1).double()},
    )
    theta, data = theta_and_data(problem, 2)
    assert problem.strength is None
    assert torch.equal(problem.inner_loss(theta + 1, theta, data), torch.tensor([8.0, 8.0]).double())


# ---- the pieces


def test_the_proximal_term() -> None:
    loss = proximal(lambda w, theta, data: w.sum(-1), 3.0)
    w, theta = vectors(2, 4), vectors(2, 4, 1)
    truth = w.sum(-1) + 1.5 * ((w - theta) ** 2).sum(-1)
    check_ratio("proximal", (loss(w, theta, {}) - truth).abs(), 2.0**-52 * truth.abs())


def test_the_start_at_theta_is_a_copy() -> None:
    theta = vectors(2, 3)
    start = from_theta(theta, {})
    assert torch.equal(start, theta) and start.data_ptr() != theta.data_ptr()


@pytest.mark.parametrize("strength", [0.0, -0.5])
def test_a_module_with_no_positive_strength_can_be_unrolled_and_not_solved(strength: float) -> None:
    torch.manual_seed(0)
    problem = from_module(MyMLP(), strength)
    theta, data = theta_and_data(problem, 2)
    loop = run_inner(problem, GradientDescent(0.1), theta, data, 2)
    assert only(Unrolled()(problem, loop).outcome) is Outcome.OK
    with pytest.raises(ValueError, match=f"expected a proximal strength > 0, found {strength}"):
        Implicit(ConjugateGradients(2))(problem, loop)


@pytest.mark.parametrize(("tasks", "seed"), [(0, 0), (-1, 0), (True, 0), (2.0, 0), (1, -1)])
def test_draw_refuses_what_is_no_count(tasks: int, seed: int) -> None:
    with pytest.raises(ValueError, match="expected a whole number"):
        build("quadratic").draw(tasks, seed)


def test_draw_gives_every_task_the_same_start() -> None:
    theta, data = build("quadratic").draw(3, 1)
    assert theta.shape == (3, 20) and torch.equal(theta[0], theta[2])
    assert all(len(x) == 3 for x in data.values())


def test_data_of_another_number_of_tasks_is_refused() -> None:
    problem = build("quadratic")
    with pytest.raises(ValueError, match=r"expected 3 tasks as in theta, found 1 in data\['A'\]"):
        run_inner(problem, GradientDescent(0.1), problem.init(0).expand(3, -1), problem.sample(1, 0), 2)


def test_a_loop_that_starts_at_its_minimiser_is_stationary() -> None:
    problem = build("quadratic")
    theta, data = problem.draw(2, 0)
    still = dataclasses.replace(problem, inner_loss=lambda w, theta, data: 0.0 * w.sum(-1))
    assert torch.equal(run_inner(still, GradientDescent(0.1), theta, data, 2).stationarity, torch.zeros(3, 2).double())
