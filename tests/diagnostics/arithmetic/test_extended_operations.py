"""Every operation that extended precision has: against float64, and its derivatives against central differences.

The table has a case for every overload. A case's numbers have random low words. Its derivatives come from torch's
formulas, whose every operation is itself done in double words; differences of values in extended precision judge
them to about 2^-80, so that a formula that passes through float64 (2^-53) fails.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from diagnostics.arithmetic import extended as module
from diagnostics.arithmetic import operations
from diagnostics.arithmetic.extended import EPS, OPERATIONS, Extended, rounded
from tests.cases import check_ratio
from tests.diagnostics.arithmetic.extended_cases import CASES, Case, call, numbers, tree_map, with_low

assert operations
EPS64 = torch.finfo(torch.float64).eps
every_case = pytest.mark.parametrize("one", CASES, ids=[f"{i}-{c.name}" for i, c in enumerate(CASES)])


def test_every_operation_has_a_case() -> None:
    covered = {one.overload for one in CASES}
    assert [str(o) for o in OPERATIONS if o not in covered] == [], "add a case to the table for each of these"


@every_case
def test_values_are_those_of_float64(one: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Recorded(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            asked.append(key)
            return super().get(key, default)

    monkeypatch.setattr(module, "OPERATIONS", Recorded(OPERATIONS))
    plain = call(one, one.args)
    lifted = tree_map(with_low, one.args)
    with torch._C._AutoDispatchBelowAutograd():  # where an overload that torch makes of others arrives itself
        found = call(one, lifted)
    assert one.overload in asked and len(found) == len(plain)
    for mine, theirs in list(zip(found, plain, strict=True))[: one.outputs]:
        if not isinstance(theirs, Tensor) or theirs.dtype != torch.float64:
            assert not isinstance(mine, Extended) and type(mine) is type(theirs)
            same = torch.equal(mine, theirs) if isinstance(theirs, Tensor) else mine == theirs
            assert same, f"{mine} and {theirs}"
            continue
        assert isinstance(mine, Extended) and mine.shape == theirs.shape
        assert mine.stride() == mine.high.stride() == mine.low.stride()
        assert mine.is_contiguous() or not theirs.is_contiguous(), "a view of it that float64 allows would fail"
        assert torch.equal(mine.high + mine.low, mine.high)
        unit = EPS64 * max(1.0, float(theirs.abs().max()) if theirs.numel() else 0.0)
        check_ratio("operations against float64", (mine.high - theirs).abs(), unit, one.name)


H = 2.0**-20


def contracted(results: Sequence[Any], seed: int) -> Tensor:
    """The sum of the results that have a derivative, times fixed numbers."""
    terms = [
        (y * with_low(numbers(*y.shape, seed=seed + i))).sum()
        for i, y in enumerate(results)
        if isinstance(y, Tensor) and y.requires_grad
    ]
    return torch.stack(terms).sum()


def slope(
    function: Callable[[Sequence[Tensor]], Tensor], at: Sequence[Tensor], along: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """The derivative of a function along a direction, and its uncertainty.

    Central differences at h, h/2 and h/4 give two of fourth order, whose difference is 15 times the error of the
    better one; and one of sixth order, which is better still, so that the rest is the rounding of the values over h/4.
    """
    slopes, size = [], 0.0
    for h in (H, H / 2, H / 4):
        ahead, behind = (function([x + sign * h * u for x, u in zip(at, along, strict=True)]) for sign in (1, -1))
        slopes.append((ahead - behind) / (2 * h))
        size = max(float(ahead.abs()), float(behind.abs()), 1.0)
    fourth = [(4 * fine - coarse) / 3 for coarse, fine in zip(slopes[:2], slopes[1:], strict=True)]
    return fourth[1] + (fourth[1] - fourth[0]) / 15, (fourth[1] - fourth[0]).abs() / 15 + EPS * size / (H / 4)


def leaves(args: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map(found.append, args)
    return found


def graph(one: Case, values: Sequence[Tensor]) -> tuple[Tensor, list[Tensor], Tensor | None]:
    """A number made of the outputs, its gradient, and a number made of that where it has a derivative itself."""
    values = [x.detach().clone() for x in values]
    inputs = [values[i].requires_grad_() for i in (range(len(values)) if one.by is None else one.by)]
    each = iter(values)
    first = contracted(call(one, tree_map(lambda _: next(each), one.args))[: one.outputs], 7)
    grads = torch.autograd.grad(first, inputs, create_graph=True, materialize_grads=True)
    return first, inputs, contracted(grads, 8) if any(g.requires_grad for g in grads) else None


@every_case
def test_derivatives_are_those_of_differences(one: Case) -> None:
    point = [with_low(x) for x in leaves(one.args)]
    chosen = range(len(point)) if one.by is None else one.by
    plain = iter([rounded(x).requires_grad_(i in chosen) for i, x in enumerate(point)])
    outputs = call(one, tree_map(lambda _: next(plain), one.args))[: one.outputs]
    if not any(isinstance(y, Tensor) and y.requires_grad for y in outputs):
        return
    along = [
        with_low(numbers(*x.shape, seed=9 + i)) if i in chosen else torch.zeros_like(x) for i, x in enumerate(point)
    ]
    first, inputs, second = graph(one, point)
    for order, value in enumerate((first, second)):
        if value is None:
            continue
        grads = torch.autograd.grad(value, inputs, retain_graph=True, materialize_grads=True)
        assert all(isinstance(g, Extended) or not g.any() for g in grads)  # a plain zero is exact
        found = torch.stack([(g * along[i]).sum() for g, i in zip(grads, chosen, strict=True)]).sum()

        def at(values: Sequence[Tensor], order: int = order) -> Tensor:
            value = graph(one, values)[2 * order]
            assert isinstance(value, Tensor)
            return value.detach()

        expected, unit = slope(at, point, along)
        assert rounded(unit) < 2.0**-65 * (1 + rounded(expected).abs()), "differences too blunt to tell"
        family = f"derivatives of order {order + 1} against differences"
        check_ratio(family, rounded((found - expected).abs()), rounded(unit), one.name)
