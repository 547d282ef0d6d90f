"""The contract of extended precision: what enters it and how, what it refuses, and torch's transforms above it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics.arithmetic import operations
from diagnostics.arithmetic.extended import (
    EPS,
    LISTED_IN,
    OPERATIONS,
    Extended,
    Uncovered,
    extended,
    operation,
    rounded,
    words,
    wrap,
)  # fmt: skip
from diagnostics.inner import loss_gradient
from diagnostics.problem import Problem
from tests.cases import check_ratio
from tests.diagnostics.arithmetic.extended_cases import numbers, with_low

assert operations
# torch compiles the decompositions of forward mode by jit.script, which it warns of, once in a process.
forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def close(name: str, found: Any, expected: Any) -> None:
    """Equal to a few roundings of the largest number."""
    assert isinstance(found, Extended) and isinstance(expected, Extended) and found.shape == expected.shape
    check_ratio(name, rounded((found - expected).abs()), EPS * max(1.0, float(expected.abs().max())), name)


def same(found: Any, expected: Any) -> None:
    """Equal in both words."""
    assert isinstance(found, Extended) and isinstance(expected, Extended)
    assert torch.equal(found.high, expected.high) and torch.equal(found.low, expected.low)


UNCOVERED: dict[str, Callable[[Tensor], object]] = {
    "special_erfcx": torch.special.erfcx, "cumsum": lambda x: x.cumsum(0), "_linalg_eigh": torch.linalg.eigh,
    "sort": lambda x: x.sort(), "gelu": F.gelu, "atan2": lambda x: torch.atan2(x, x), "var": torch.var,
    "lerp": lambda x: torch.lerp(x, x, 0.3), "native_group_norm": lambda x: F.group_norm(x, 2), "mish": F.mish,
    "smooth_l1": lambda x: F.smooth_l1_loss(x, x), "add.out": lambda x: torch.add(x, x, out=torch.empty_like(x)),
}  # fmt: skip


@pytest.mark.parametrize("name", UNCOVERED)
def test_an_operation_that_is_not_covered_says_so(name: str) -> None:
    with pytest.raises(Uncovered) as error:
        UNCOVERED[name](with_low(numbers(2, 2)))
    assert name in str(error.value) and f"add a function for it under {LISTED_IN}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["cholesky", "lu_factor"])
def test_a_derivative_that_is_not_covered_says_so(name: str) -> None:
    matrix = extended(torch.eye(3).double()).requires_grad_()
    result = getattr(torch.linalg, name)(matrix)
    with pytest.raises(Uncovered, match="linalg_solve_triangular" if name == "cholesky" else "lu_unpack"):
        (result if name == "cholesky" else result[0]).sum().backward()


REFUSED: dict[str, tuple[str, Callable[[Tensor], object]]] = {
    "copy into plain": ("write into an extended tensor", lambda x: torch.zeros(2, 2).double().copy_(x)),
    "add to plain": ("write into an extended tensor", lambda x: torch.zeros(2, 2).double().add_(x)),
    "assign": ("write into an extended tensor", lambda x: torch.zeros(2, 2).double().__setitem__(0, x[0])),
    "float32": ("stay in it, found a cast to torch.float32", lambda x: x.float()),
    "float16": ("stay in it, found a cast to torch.float16", lambda x: x.to(torch.float16)),
    "complex": ("stay in it, found a cast to torch.complex128", lambda x: x.to(torch.complex128)),
    "sum": ("a sum that stays in it", lambda x: x.sum(dtype=torch.float32)),
    "accumulate": ("without accumulate", lambda x: x.index_put((torch.tensor([0]),), x[0], accumulate=True)),
    "running mean": ("track_running_stats=False", lambda x: nn.BatchNorm1d(2, affine=False).train()(x)),
    "eval": ("track_running_stats=False", lambda x: nn.BatchNorm1d(2, affine=False).eval()(x)),
    "power": ("a power that is a whole number or one and a half, found 0.3", lambda x: x.pow(0.3)),
    "norm": ("the norm of order 2, found 1", lambda x: torch.linalg.vector_norm(x, 1)),
    "upper": ("lower Cholesky factor", lambda x: torch.linalg.cholesky(x, upper=True)),
    "ceil": ("without ceil_mode", lambda x: F.max_pool2d(x.view(1, 2, 2), 2, ceil_mode=True)),
    "count": ("count_include_pad=True", lambda x: F.avg_pool2d(x.view(1, 2, 2), 2, 1, 1, count_include_pad=False)),
    "3d": ("one or two dimensions, found 3", lambda x: F.conv3d(x.view(1, 1, 1, 2, 2), x.view(1, 1, 1, 2, 2))),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_lose_digits_is_refused(name: str) -> None:
    message, do = REFUSED[name]
    with pytest.raises(TypeError, match=f"extended precision: expected .*{message}") as error:
        do(with_low(numbers(2, 2)))
    assert "\n" not in str(error.value)


def test_matrices_that_do_not_fit_are_refused() -> None:
    for rows in (0, 2):
        with pytest.raises(ValueError, match=rf"found \({rows}, 3\) times \(2, 4\); transpose a factor"):
            torch.mm(extended(numbers(rows, 3)), extended(numbers(2, 4)))
        with pytest.raises(ValueError, match=rf"as many left as right, found {rows} and 1"):
            torch.bmm(extended(numbers(rows, 3, 3)), extended(numbers(1, 3, 3)))


def test_an_operation_has_one_function() -> None:
    overload = torch.ops.aten.exp.default
    before = OPERATIONS[overload]
    with pytest.raises(ValueError, match="aten.exp.default has two functions"):
        operation(overload)(lambda x: x)
    assert OPERATIONS[overload] is before


def test_plain_tensors_and_numbers_enter_exactly() -> None:
    x, tenth = with_low(numbers(3)), torch.tensor(0.1, dtype=torch.float64)
    for plain in (0.1, tenth, tenth.expand(3), extended(tenth)):
        same(x + plain, x + extended(tenth))
        same(plain - x, extended(tenth) - x)
        close("entering", x * plain, x * extended(tenth))
        close("entering", x / plain, x / extended(tenth))
    same(torch.stack([x[0], tenth]), torch.stack([x[0], extended(tenth)]))
    third = torch.tensor(1 / 3, dtype=torch.float32)
    same(x + third, x + float(third))
    assert torch.equal(words(extended(third))[0], third.double())
    for small in (torch.tensor([1, 2, 3]), torch.tensor([1, 2, 3], dtype=torch.int8)):
        close("entering", x * small, torch.stack([x[0], x[1] * 2, x[2] * 3]))
    mask = torch.tensor([True, False, True])
    same(x * mask, torch.stack([x[0], x[1] * 0, x[2]]))
    same(torch.where(mask, x, 0.1), torch.stack([x[0], extended(tenth), x[2]]))
    same(x * True, x)
    assert torch.equal(x > torch.tensor([-9, 9, -9]), mask)


def test_a_tenth_is_the_float64_next_to_it() -> None:
    """10 times what 0.1 is: 1 + 2^-54, of which float64 sees 1."""
    found = extended(torch.ones(1).double()) * 10 * 0.1 - 1
    assert float(found) == 2.0**-54 and 10 * 0.1 == 1.0


def test_entering_and_leaving() -> None:
    x = numbers(3)
    lifted = extended(x)
    assert extended(lifted) is lifted and torch.equal(rounded(lifted), x)
    assert torch.equal(rounded(x.float()), x.float().double())
    assert lifted.dtype == torch.float64 and "Extended(high=" in repr(lifted)
    assert lifted[0].item() == x[0].item() and torch.equal(lifted.long(), x.long())
    assert isinstance(lifted.double(), Extended) and isinstance(lifted.to(torch.float64), Extended)
    # Words that lie differently are given one layout.
    pair = wrap((x.repeat_interleave(2)[::2], torch.zeros(3).double()))
    assert pair.stride() == pair.high.stride() == pair.low.stride() and torch.equal(pair.high, x)


def loss(x: Tensor) -> Tensor:
    """Something of every kind, of three numbers."""
    matrix = torch.stack([x, x * x, 1 / (2 + x * x)])
    hidden = torch.tanh(matrix @ x.unsqueeze(-1)).squeeze(-1)
    return (
        F.softplus(hidden).sum()
        - torch.log_softmax(hidden * x, 0)[1]
        + (x.exp() * x.sin()).mean()
        + (x**2).sum().sqrt()
    )


def by_autograd(x: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient and the Hessian, row by row."""
    x = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x), x, create_graph=True)
    rows = [torch.autograd.grad(g, x, retain_graph=True)[0] for g in gradient.unbind()]
    return gradient.detach(), torch.stack(rows)


@forward_mode
def test_all_ways_to_a_derivative_agree() -> None:
    x, v = with_low(numbers(3)), with_low(numbers(3, seed=1))
    gradient, hessian = by_autograd(x)
    func = torch.func
    close("func.grad", func.grad(loss)(x), gradient)
    value, pull, *_ = func.vjp(loss, x)
    same(value, loss(x))
    close("func.vjp", pull(torch.ones_like(value))[0], gradient)
    close("func.jvp", func.jvp(loss, (x,), (v,))[1], (gradient * v).sum())
    close("func.jvp of func.grad", func.jvp(func.grad(loss), (x,), (v,))[1], hessian @ v)
    close("func.vjp of func.grad", func.vjp(func.grad(loss), x)[1](v)[0], hessian @ v)
    for name in ("jacrev", "jacfwd"):
        close(f"func.{name}", getattr(func, name)(loss)(x), gradient)
        close(f"func.{name} of func.grad", getattr(func, name)(func.grad(loss))(x), hessian)
    close("func.hessian", func.hessian(loss)(x), hessian)
    close("autograd's hvp", torch.autograd.functional.hvp(loss, x, v)[1], hessian @ v)
    assert torch.equal(rounded(hessian.mT - hessian).abs() < 100 * EPS, torch.ones(3, 3).bool())


IMAGE = with_low(numbers(2, 2, 5, 4))
LAYERS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "loss": (loss, (3,)),
    "convolution": (lambda w: (F.conv2d(IMAGE, w, None, 2, 1) ** 2).sum(), (3, 2, 3, 3)),
    "max_pool2d": (lambda x: (F.max_pool2d(x, 2, 1, 1) ** 3).sum(), (2, 4, 5)),
    "avg_pool2d": (lambda x: (F.avg_pool2d(x, 3) ** 3).sum(), (2, 6, 6)),
    "batch_norm": (lambda x: (F.batch_norm(x, None, None, training=True) ** 3).mean(), (5, 3)),
    "layer_norm": (lambda x: (F.layer_norm(x, [3]) ** 3).mean(), (5, 3)),
    "cross_entropy": (lambda x: F.cross_entropy(x, torch.tensor([2, 0, 1, 1, 2])), (5, 3)),
    "bce": (lambda x: F.binary_cross_entropy_with_logits(x, torch.ones_like(x)), (5, 3)),
    "solve": (lambda a: torch.linalg.solve(a @ a.mT + 3 * torch.eye(3).to(a), a[0]).sum(), (3, 3)),
    "picked": (lambda x: x.gather(1, torch.tensor([[2], [0], [1], [1]])).exp().sum(), (4, 3)),
    "columns": (lambda x: x.index_select(1, torch.tensor([2, 0, 2])).exp().sum(), (4, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_vmap_is_a_loop_over_tasks(name: str) -> None:
    """Values, gradients and Hessian-vector products, in one go for three tasks."""
    function, shape = LAYERS[name]
    x, v = with_low(numbers(3, *shape)), with_low(numbers(3, *shape, seed=1))

    def product(x: Tensor, v: Tensor) -> Tensor:
        return torch.func.grad(lambda x: (torch.func.grad(function)(x) * v).sum())(x)

    ways: list[tuple[str, Callable[..., Tensor], tuple[Tensor, ...]]] = [
        (name, function, (x,)),
        (f"derivative of {name}", torch.func.grad(function), (x,)),
        (f"second derivative of {name}", product, (x, v)),
    ]
    for what, one, inputs in ways:
        rows = [one(*task) for task in zip(*inputs, strict=True)]
        close(f"vmap of {what}", torch.func.vmap(one)(*inputs), torch.stack(rows))
    outside = x.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(torch.func.vmap(function)(outside).sum(), outside)
    close(f"derivative of vmap of {name}", found, torch.func.vmap(torch.func.grad(function))(x))


def test_losses_of_differences_are_differentiated_outside_of_vmap() -> None:
    """As `Problem`'s losses are: a derivative inside follows torch's rule, which rounds 1 / n."""
    x, y = with_low(numbers(2, 5)).requires_grad_(), with_low(numbers(2, 5, seed=1))
    pairs: list[tuple[Callable[..., Tensor], Tensor]] = [
        (F.mse_loss, 2 * (x - y)),
        (F.huber_loss, (x - y).clamp(-1, 1)),
    ]
    for task_loss, slope in pairs:
        (found,) = torch.autograd.grad(torch.func.vmap(task_loss)(x, y).sum(), x)
        close("losses of differences", found, slope.detach() / 5)


def one_task(w: Tensor, theta: Tensor, data: Any) -> Tensor:
    return F.mse_loss(torch.tanh(data["x"] @ w), data["y"]) + (w - theta).square().sum()


def sample(tasks: int, seed: int) -> dict[str, Tensor]:
    return {"x": numbers(tasks, 5, 3, seed=seed), "y": numbers(tasks, 5, seed=seed + 1)}


def gradients_agree(problem: Problem, task_loss: Callable[..., Tensor], w: Tensor, theta: Tensor, data: Any) -> None:
    """Of a problem's inner loss, in one go, and of the loss of each task by itself."""
    w = w.detach().requires_grad_()
    found = loss_gradient(problem.inner_loss, w, theta, data)
    for i in range(len(w)):
        row = w[i].detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(task_loss(row, theta[i], {k: v[i] for k, v in data.items()}), row)
        close("gradients of tasks", found[i], gradient)


def test_losses_of_one_task_run_under_vmap() -> None:
    problem = Problem.from_task_losses("made up", one_task, one_task, lambda seed: numbers(3, seed=seed), sample)
    data = {k: extended(v) for k, v in sample(2, 0).items()}
    w, theta = with_low(numbers(2, 3)), with_low(numbers(2, 3, seed=1))
    gradients_agree(problem, one_task, w, theta, data)


def test_modules_run_under_vmap() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Tanh(), nn.Linear(4, 1))

    def model_loss(model: Any, data: Any) -> Tensor:
        return F.mse_loss(model(data["x"]).squeeze(-1), data["y"])

    problem = Problem.from_module("made up", module, model_loss, model_loss, sample)
    size = problem.init(0).numel()
    data = {k: extended(v) for k, v in sample(2, 0).items()}
    w = with_low(numbers(2, size))

    def of_one(w: Tensor, theta: Tensor, data: Any) -> Tensor:
        pieces = w.split([p.numel() for p in module.parameters()])
        a, b, scale, shift, c, d = (piece.view(p.shape) for piece, p in zip(pieces, module.parameters(), strict=True))
        h = F.batch_norm(data["x"] @ a.T + b, None, None, scale, shift, training=True)
        return F.mse_loss((h.tanh() @ c.T + d).squeeze(-1), data["y"])

    gradients_agree(problem, of_one, w, w, data)
