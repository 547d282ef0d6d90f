"""gradgauge, by its public functions, as the analyses call them: tasks in chunks of the size of `tasks_that_fit`.

`recording("now")` records the step at its first call; a long run does so by itself once it pays.
"""

from collections.abc import Callable

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


def unrolled(setting: Setting, mode: str = "now") -> Tensor:
    """`Unrolled` on the loop already recorded: it reruns the whole loop from theta itself, as the peers do."""
    loop = setting.recorded
    if loop is None:
        raise ValueError("gradgauge: expected a setting whose loop is recorded, found none; call `record`")
    return _in_chunks(setting, mode, lambda rows: Unrolled()(setting.problem, loop.rows(rows)).value)


def unrolled_by_autograd(setting: Setting) -> Tensor:
    """The same without recorded programs."""
    return unrolled(setting, "off")


def unrolled_compiled(setting: Setting) -> Tensor:
    """The same with recorded programs compiled; a loop that was run without meets its states to rounding only."""
    return unrolled(setting, "compile")


def run_and_adjoint(setting: Setting) -> Tensor:
    """The loop, and then the reverse sweep over its stored states."""
    return _in_chunks(
        setting,
        "now",
        lambda rows: UnrolledAdjoint()(setting.problem, _loop(setting, rows, range(setting.steps + 1))).value,
    )


def implicit(setting: Setting, mode: str = "now") -> Tensor:
    """The loop, and then the implicit gradient with CG that goes on past negative curvature, as all peers' does."""
    estimator = Implicit(ConjugateGradients(setting.cg_iterations, past_negative_curvature=True))
    return _in_chunks(
        setting, mode, lambda rows: estimator(setting.problem, _loop(setting, rows, (setting.steps,))).value
    )


def implicit_by_autograd(setting: Setting) -> Tensor:
    """The same without recorded programs."""
    return implicit(setting, "off")


def implicit_compiled(setting: Setting) -> Tensor:
    """The same with recorded programs compiled."""
    return implicit(setting, "compile")


def _loop(setting: Setting, rows: slice, keep: range | tuple[int, ...]) -> Trajectory:
    optimizer = GradientDescent(setting.learning_rate)
    return run_inner(
        setting.problem, optimizer, setting.theta[rows], take_rows(setting.data, rows), setting.steps, keep
    )


def _in_chunks(setting: Setting, mode: str, compute: Callable[[slice], Tensor]) -> Tensor:
    size = tasks_that_fit(setting.problem, setting.theta, setting.data, copies=setting.steps)
    with recording(mode):
        return torch.cat(in_chunks(compute, len(setting.theta), size))
