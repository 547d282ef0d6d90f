"""Saved bytes: by hand."""

from collections.abc import Callable

import torch
from torch import Tensor

from diagnostics.arithmetic.extended import extended
from diagnostics.cost.saved_bytes import saved_bytes

N = 1000
FLOATS = 4 * N


def weights() -> Tensor:
    return torch.ones(N, requires_grad=True)


def test_each_operation_saves_what_its_derivative_needs() -> None:
    w = weights()
    assert saved_bytes(lambda: w + 1) == 0
    assert saved_bytes(lambda: w.exp()) == FLOATS  # its result
    assert saved_bytes(lambda: w.sin()) == FLOATS  # its argument
    assert saved_bytes(lambda: w.sin(), [w]) == 0  # which was there


def test_without_a_graph_nothing_is_saved() -> None:
    assert saved_bytes(lambda: torch.ones(N).exp()) == 0
    with torch.no_grad():
        assert saved_bytes(lambda: weights().exp()) == 0


def chain(w: Tensor, times: int) -> Tensor:
    for _ in range(times):
        w = w.exp()
    return w


def test_a_chain_holds_all_and_two_chains_in_turn_hold_one() -> None:
    w = weights()
    assert saved_bytes(lambda: chain(w, 7)) == 7 * FLOATS

    def in_turn() -> None:
        for _ in range(3):
            torch.autograd.grad(chain(w, 7).sum(), w)

    assert saved_bytes(in_turn) == 7 * FLOATS


def test_a_storage_that_is_saved_twice_counts_once() -> None:
    w = weights()

    def call() -> Tensor:
        y = w.exp()
        return (y * y[: N // 2].repeat(2)).sum() + y.square().sum()

    # The exponential, saved three times, and the repeated half.
    assert saved_bytes(call) == 2 * FLOATS


def test_a_second_derivative_holds_the_first_ones_graph_too() -> None:
    w = weights()

    def call(graph: bool) -> Callable[[], Tensor]:
        return lambda: torch.autograd.grad(chain(w, 5).sum(), w, create_graph=graph)[0]

    assert saved_bytes(call(False)) == 5 * FLOATS < saved_bytes(call(True))


def test_the_derivative_under_the_hooks_is_the_same() -> None:
    w = torch.linspace(0.0, 1.0, N, requires_grad=True)
    plain = torch.autograd.grad(w.sin().exp().sum(), w)[0]
    hooked: list[Tensor] = []
    saved_bytes(lambda: hooked.append(torch.autograd.grad(w.sin().exp().sum(), w)[0]))
    assert torch.equal(hooked[0], plain)


def test_an_extended_number_is_two() -> None:
    w = extended(torch.ones(N, dtype=torch.float64)).requires_grad_()
    assert saved_bytes(lambda: w.exp()) == 16 * N
    assert saved_bytes(lambda: w * w, [w]) == 0
