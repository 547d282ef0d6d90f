"""What autograd holds at once: the whole loop for `unrolled`, one step for `unrolled_adjoint`."""

import weakref
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from diagnostics.estimators.unrolled import Unrolled
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.inner import run_inner
from diagnostics.meta_gradient import Estimator
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.problem_names import build


@dataclass
class Held:
    """A saved tensor, by a handle whose death tells that autograd let it go."""

    tensor: Tensor


@dataclass
class Ledger:
    """The bytes that autograd holds now, and the most it held, the loop's stored states apart."""

    states: int
    now: int = 0
    most: int = 0
    storages: dict[int, int] = field(default_factory=dict)

    def hold(self, tensor: Tensor) -> Held:
        held, key = Held(tensor.detach()), tensor.untyped_storage().data_ptr()  # an output would hold its own graph
        if key == self.states:
            return held
        if self.storages.setdefault(key, 0) == 0:
            self.now += tensor.untyped_storage().nbytes()
            self.most = max(self.most, self.now)
        self.storages[key] += 1
        weakref.finalize(held, self.release, key, tensor.untyped_storage().nbytes())
        return held

    def release(self, key: int, size: int) -> None:
        self.storages[key] -= 1
        if self.storages[key] == 0:
            self.now -= size


def peak(estimator: Estimator, steps: int) -> int:
    problem = build("sinusoid")
    theta = problem.init(0).expand(4, -1)
    loop = run_inner(problem, GradientDescent(problem.learning_rate), theta, problem.sample(4, 0), steps)
    ledger = Ledger(loop.states.untyped_storage().data_ptr())
    with torch.autograd.graph.saved_tensors_hooks(ledger.hold, lambda held: held.tensor):
        estimator(problem, loop)
    return ledger.most


def test_the_graph_of_the_whole_loop_grows_with_its_steps() -> None:
    assert peak(Unrolled(), 40) / peak(Unrolled(), 10) == pytest.approx(4, rel=0.15)


def test_the_adjoint_sweep_holds_one_step_however_long_the_loop() -> None:
    assert peak(UnrolledAdjoint(), 40) == peak(UnrolledAdjoint(), 10)
    assert peak(UnrolledAdjoint(), 40) < peak(Unrolled(), 40) / 20
