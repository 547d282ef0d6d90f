"""Every operation is met, changed once where it computes, and left alone where it does not."""

import inspect
from collections.abc import Callable
from itertools import count

import pytest
import torch
from torch import Tensor

from diagnostics.arithmetic.after_each import KINDS, after_each_operation, kind_of
from diagnostics.curvature import lanczos
from diagnostics.hessian import second_order
from diagnostics.inner import optimizers, run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.linear.dense import Dense
from diagnostics.linear.gmres import GeneralisedMinimalResidual
from diagnostics.meta_gradient import estimators
from diagnostics.problem import Problem
from diagnostics.problem_names import problems
from diagnostics.rows import Data
from diagnostics.solvers import solvers
from tests.cases import refusal, small, theta_and_data

FEW = 100  # unknowns up to which dense matrices are formed here
X = torch.tensor([[1.5, -2.0], [0.25, 3.0]])


def everything(problem: Problem, theta: Tensor, data: Data, every: int) -> dict[str, Tensor]:
    """What the registered optimizers, estimators and solvers make of a problem.

    Of the pairs of an optimizer with what follows it one in `every` is taken, so that each is met with another.
    """
    found: dict[str, Tensor] = {}
    few = theta.shape[1] <= FEW
    pairs = count()
    for name in optimizers.names():
        loop = run_inner(problem, optimizers[name](problem.learning_rate), theta, data, 2)
        found |= {f"{name}, states": loop.states, f"{name}, norms": loop.gradient_norms}
        for estimator in estimators.names():
            if refusal(estimator, problem) or next(pairs) % every:
                continue  # too many components of theta for it, or another pair's turn
            needs = inspect.signature(estimators[estimator]).parameters
            iterative = GeneralisedMinimalResidual(2) if estimator == "implicit_fixed_point" else ConjugateGradients(2)
            solver = Dense() if few else iterative
            made = estimators[estimator](**({"solver": solver} if "solver" in needs else {}))
            found[f"{name}, {estimator}"] = made(problem, loop).value
        point = second_order(problem, loop.final, loop.theta, loop.data)
        for solver in solvers.names():
            if (few or solver != "dense") and not next(pairs) % every:
                needs = inspect.signature(solvers[solver]).parameters
                given = {"iterations": 3, "shift": problem.strength}
                made = solvers[solver](**{key: value for key, value in given.items() if key in needs})
                found[f"{name}, {solver}"] = made.path(point.hessian, loop.final)[-1].value
        found[f"{name}, lanczos"] = lanczos(point.hessian, loop.final, iterations=3).largest
    if problem.minimizer is not None:
        found["minimizer"] = problem.minimizer(theta, data)
    return found


IMAGES = ("generalized_few_shot", {}), ("few_shot", {}), ("few_shot", {"activation": "tanh", "pool": "average"})
OTHERS = [setting for name in problems.names() if (setting := (name, {})) not in IMAGES]
SETTINGS = [
    *((*setting, 1) for setting in OTHERS),
    *((*setting, 5) for setting in (("sinusoid", {"activation": "softplus"}), ("few_shot", {}))),
    *(pytest.param(*setting, 1, marks=pytest.mark.slow) for setting in IMAGES),  # half a minute each
]


@pytest.mark.parametrize(("name", "more", "every"), SETTINGS, ids=lambda x: str(x))
def test_the_identity_changes_no_bit_and_no_operation_is_unknown(
    name: str, more: dict[str, object], every: int
) -> None:
    problem = small(name, **more)
    theta, data = theta_and_data(problem, 2, dtype=torch.float32)
    plain = everything(problem, theta, data, every)
    met = {key.partition(", ")[2] for key in plain}
    assert {key for key in estimators.names() if not refusal(key, problem)} | {*solvers.names()} - {"dense"} <= met
    assert {key.partition(", ")[0] for key in plain} >= {*optimizers.names()}
    kinds = set()
    with after_each_operation(lambda x, kind: (kinds.add(kind), x)[1]):
        seen = everything(problem, theta, data, every)
    assert kinds == {"product", "sum", "elementary", "arithmetic"}
    for key, value in plain.items():
        assert torch.equal(value, seen[key]), key


def kinds_of(function: Callable[[], object]) -> list[str]:
    kinds: list[str] = []
    with after_each_operation(lambda x, kind: (kinds.append(kind), x)[1]):
        function()
    return kinds


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        ("product", lambda: X @ X),
        ("product", lambda: torch.linalg.inv(X)),
        ("product", lambda: torch.nn.functional.conv2d(X[None, None], X[None, None])),
        ("sum", lambda: X.sum()),
        ("sum", lambda: X.mean(-1)),
        ("sum", lambda: X.norm()),
        ("sum", lambda: X.log_softmax(-1)),
        ("sum", lambda: torch.zeros(2).index_put((torch.tensor([0, 0]),), X[0], accumulate=True)),
        ("elementary", lambda: X.exp()),
        ("elementary", lambda: torch.nn.functional.softplus(X)),
        ("elementary", lambda: X**2),
        ("arithmetic", lambda: X + 1),
        ("arithmetic", lambda: torch.addcmul(X, X, X)),
        ("arithmetic", lambda: X.clone().mul_(X)),
        ("arithmetic", lambda: torch.add(X, X, out=torch.empty(2, 2))),
    ],
)
def test_one_operation_is_changed_once(kind: str, function: Callable[[], object]) -> None:
    assert kinds_of(function) == [kind]


@pytest.mark.parametrize(
    "function",
    [
        lambda: X.T.reshape(-1).unsqueeze(0).expand(3, 4)[1:, ::2].contiguous().clone(),
        lambda: torch.cat([torch.stack([X, X]), X.unsqueeze(0)]),
        lambda: X.double().to(torch.float16),
        lambda: (X > 0) | X.isnan() | X.isfinite(),
        lambda: (X == X).sum() + X.argmax(),
        lambda: torch.equal(X, X) and X.amax().item(),
        lambda: torch.where(X > 0, -X, X.abs()).clamp(min=0.1).maximum(X).relu(),
        lambda: torch.zeros(3) is torch.eye(2, dtype=torch.float64) or torch.full((2,), 1.0),
        lambda: X.clone().copy_(X).fill_(2.0),
        lambda: X.gather(1, torch.tensor([[0], [1]])),
        lambda: X.clone().index_put_((torch.tensor([0]),), X[1]),
        lambda: torch.frexp(X),
        lambda: torch.nn.functional.max_pool2d(X[None, None], 2),
        lambda: torch.tensor([1.0, 2.0]),
    ],
)
def test_what_is_exact_is_left_alone(function: Callable[[], object]) -> None:
    assert kinds_of(function) == []


def test_results_are_changed_in_place_in_out_and_in_lists() -> None:
    x, out = X.clone(), torch.empty(2, 2)
    row = x[0]
    with after_each_operation(lambda x, kind: 2 * x):  # what `change` computes is not changed itself
        same = row.add_(1.0)
        torch.add(X, 1.0, out=out)
        solved = torch.linalg.inv_ex(X)  # one result of numbers, one of whole numbers
    assert same is row
    assert torch.equal(x, torch.stack([2 * (X[0] + 1), X[1]]))  # through the view, and nothing else
    assert torch.equal(out, 2 * (X + 1))
    assert torch.equal(solved[0], 2 * torch.linalg.inv_ex(X)[0]) and int(solved[1]) == 0


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # from inside jvp
def test_backward_double_backward_and_function_transforms_are_covered() -> None:
    """With every result rounded to bfloat16, nothing that is computed may be anything else."""

    def rounded(x: Tensor, kind: str) -> Tensor:
        return x.bfloat16().to(x.dtype)

    def loss(w: Tensor) -> Tensor:
        return (torch.tanh(w @ X.bfloat16().float()) ** 2).sum()

    w = X.bfloat16().float()
    with after_each_operation(rounded):
        at = w.clone().requires_grad_()
        (first,) = torch.autograd.grad(loss(at), at, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), at)
        mapped = torch.func.vmap(torch.func.grad(loss))(w)
        tangent = torch.func.jvp(torch.func.grad(loss), (w,), (torch.ones_like(w),))[1]
    for value in (first.detach(), second, mapped, tangent):
        assert torch.equal(value, value.bfloat16().float())
        assert not torch.equal(value, torch.zeros_like(value))
    (plain,) = torch.autograd.grad(loss(at), at)
    assert not torch.equal(first, plain)


def test_an_unknown_operation_is_named() -> None:
    with (
        pytest.raises(NotImplementedError, match=r"special_bessel_j0.*add 'special_bessel_j0' to the kind.*KINDS"),
        after_each_operation(lambda x, kind: x),
    ):
        torch.special.bessel_j0(X)


def test_complex_numbers_are_refused() -> None:
    with (
        pytest.raises(NotImplementedError, match="gives complex numbers, which are not covered"),
        after_each_operation(lambda x, kind: x),
    ):
        torch.ones(2, dtype=torch.complex64).exp()


def test_each_name_is_an_operation_of_torch_and_has_one_kind() -> None:
    names = [name for kind in KINDS.values() for name in kind]
    assert len(names) == len(set(names))
    missing = [n for n in names if not (hasattr(torch.ops.aten, n) or hasattr(torch.ops.aten, n + "_"))]
    assert missing == []


def test_the_kind_of_an_assignment_by_index_depends_on_whether_it_accumulates() -> None:
    put = torch.ops.aten.index_put_.default
    assert kind_of(put, (X, [None], X)) == kind_of(put, (X, [None], X, False)) == "movement"
    assert kind_of(put, (X, [None], X, True)) == kind_of(put, (X, [None], X), {"accumulate": True}) == "sum"


@pytest.mark.parametrize("size", [0, 1])
def test_sizes_zero_and_one(size: int) -> None:
    x = torch.ones(size)
    with after_each_operation(lambda x, kind: x + 1):
        doubled, total = x * 1.0, x.sum()
    assert torch.equal(doubled, x + 1)
    assert float(total) == size + 1
