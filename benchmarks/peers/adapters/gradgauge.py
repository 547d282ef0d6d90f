"""gradgauge, by its public functions, as the analyses call them: tasks in chunks of the size of `tasks_that_fit`.

`recording("now")` records the step at its first call; a long run does so by itself once it pays.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from benchmarks.peers.setting import Setting
from diagnostics.chunks import in_chunks, tasks_that_fit
from diagnostics.estimators.implicit import Implicit
from diagnostics.estimators.unrolled import Unrolled
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.inner import Trajectory, run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.recording import recording
from diagnostics.rows import take_rows

T = TypeVar("T")


def unrolled(setting: Setting, mode: str = "now") -> Tensor:
    """`Unrolled` on the loop already run: it runs the whole loop again from theta itself, as the peers do."""
    loops = _loops(setting, mode)
    with recording(mode):
        return torch.cat([Unrolled()(setting.problem, loop).value for loop in loops])


def unrolled_by_autograd(setting: Setting) -> Tensor:
    """The same without recorded programs."""
    return unrolled(setting, "off")


def unrolled_compiled(setting: Setting) -> Tensor:
    """The same with recorded programs compiled."""
    return unrolled(setting, "compile")


def run_and_adjoint(setting: Setting) -> Tensor:
    """The loop, and then the reverse sweep over its stored states."""

    def compute(rows: slice) -> Tensor:
        return UnrolledAdjoint()(setting.problem, _loop(setting, rows, range(setting.steps + 1))).value

    return torch.cat(_in_chunks(setting, "now", compute))


def implicit(setting: Setting, mode: str = "now") -> Tensor:
    """The loop, and then the implicit gradient with CG that goes on past negative curvature, as all peers' does."""
    estimator = Implicit(ConjugateGradients(setting.cg_iterations, past_negative_curvature=True))

    def compute(rows: slice) -> Tensor:
        return estimator(setting.problem, _loop(setting, rows, (setting.steps,))).value

    return torch.cat(_in_chunks(setting, mode, compute))


def implicit_by_autograd(setting: Setting) -> Tensor:
    """The same without recorded programs."""
    return implicit(setting, "off")


def implicit_compiled(setting: Setting) -> Tensor:
    """The same with recorded programs compiled."""
    return implicit(setting, "compile")


# What is found out once a setting, and not in each call that is timed. The setting is kept, so that its id stays its.
_known: dict[tuple[object, ...], tuple[Setting, Any]] = {}


def _once(setting: Setting, what: str, find: Callable[[], Any]) -> Any:
    if (id(setting), what) not in _known:
        _known[id(setting), what] = setting, find()
    return _known[id(setting), what][1]


def _loop(setting: Setting, rows: slice, keep: range | tuple[int, ...]) -> Trajectory:
    optimizer = GradientDescent(setting.learning_rate)
    return run_inner(
        setting.problem, optimizer, setting.theta[rows], take_rows(setting.data, rows), setting.steps, keep
    )


def _loops(setting: Setting, mode: str) -> list[Trajectory]:
    """The loops of the chunks, run beforehand in the same mode: compiled code meets other states in their last bits."""
    every = range(setting.steps + 1)
    return _once(setting, mode, lambda: _in_chunks(setting, mode, lambda rows: _loop(setting, rows, every)))


def _in_chunks(setting: Setting, mode: str, compute: Callable[[slice], T]) -> list[T]:
    size = _once(
        setting, "size", lambda: tasks_that_fit(setting.problem, setting.theta, setting.data, copies=setting.steps)
    )
    with recording(mode):
        return in_chunks(compute, len(setting.theta), size)
