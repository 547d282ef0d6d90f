"""The sinusoid: its distribution, and the facts about it that the instrument exists to show.

With few inner steps the loop is far from a minimiser and the inner Hessian is indefinite, so that more iterations
of conjugate gradients make the implicit gradient *worse*; with many steps both cure themselves. The thresholds are
those of the design; the values seen (one CPU, float64) stand beside them.
"""

import pytest
import torch
from torch import Tensor

from diagnostics.curvature import lanczos
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.hessian import second_order
from diagnostics.inner import Trajectory, run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.linear.dense import written_out
from diagnostics.metrics import distance
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem
from diagnostics.problem_names import build
from diagnostics.sweep import along_the_path, implicit_at_ends


def one_start(problem: Problem, tasks: int, seed: int, steps: int) -> Trajectory:
    """All tasks of a seed start at the same meta-parameters, as in meta-learning."""
    theta = problem.init(seed).expand(tasks, -1)
    return run_inner(problem, GradientDescent(0.01), theta, problem.sample(tasks, seed), steps)


@pytest.mark.parametrize(("phase", "sign"), [("maml", -1.0), ("imaml", 1.0)])
def test_tasks_are_sines(phase: str, sign: float) -> None:
    """Every y lies on A sin(x + sign phi) = (A cos phi) sin x + sign (A sin phi) cos x, fitted from all points."""
    problem = build("sinusoid", phase=phase, shots=6, queries=4)
    data = problem.sample(200, 0)
    x = torch.cat([data["support_x"], data["query_x"]], dim=1)
    y = torch.cat([data["support_y"], data["query_y"]], dim=1)
    assert float(x.abs().max()) <= 5 and x.shape == (200, 10, 1)
    basis = torch.cat([x.sin(), x.cos()], dim=-1)
    fit = torch.linalg.lstsq(basis, y).solution
    assert float((basis @ fit - y).abs().max()) < 1e-12
    amplitude, offset = fit.norm(dim=1).squeeze(), torch.atan2(sign * fit[:, 1, 0], fit[:, 0, 0])
    assert 0.1 <= float(amplitude.min()) < 0.4 and 4.7 < float(amplitude.max()) <= 5.0
    assert -1e-12 <= float(offset.min()) < 0.1 and 3.0 < float(offset.max()) <= torch.pi + 1e-12


def test_losses_are_mean_squared_errors() -> None:
    problem = build("sinusoid", strength=2.0)
    data = problem.sample(2, 0)
    zero = torch.zeros(2, 1761).double()
    theta = zero + 0.1
    support = (data["support_y"] ** 2).mean((1, 2))  # weights of zero predict zero
    assert torch.allclose(problem.inner_loss(zero, theta, data), support + 1761 * 0.01, rtol=1e-14)
    assert torch.allclose(problem.outer_loss(zero, theta, data), (data["query_y"] ** 2).mean((1, 2)), rtol=1e-14)


def test_more_iterations_make_an_unconverged_implicit_gradient_worse() -> None:
    problem = build("sinusoid[activation=tanh,shots=10,queries=10,strength=2,initialisation=fan_in]")
    counts = (2, 5, 10, 20)
    solver = ConjugateGradients(20, keep=counts, past_negative_curvature=True)
    cosines: dict[tuple[int, int], list[Tensor]] = {}
    negative: dict[int, list[Tensor]] = {}
    for seed in (0, 1, 2):
        loop = one_start(problem, 16, seed, 200)
        unrolled = along_the_path(UnrolledAdjoint(), problem, loop, (20, 200)).value
        for iterations, sweep in zip(counts, implicit_at_ends(solver, problem, loop, (20, 200)), strict=True):
            for index, steps in enumerate((20, 200)):
                found = distance(sweep.value[index], unrolled[index])
                cosines.setdefault((steps, iterations), []).append(found.cosine)
                if iterations == 20:
                    negative.setdefault(steps, []).append(sweep.outcome[index] == Outcome.NEGATIVE_CURVATURE.code)
    median = {key: float(torch.cat(values).median()) for key, values in cosines.items()}
    met = {steps: int(torch.cat(rows).sum()) for steps, rows in negative.items()}
    seen = f"medians of the cosine by (steps, iterations): {median}; CG met negative curvature in {met} of 48 tasks"
    print(seen)
    at_20 = [median[20, iterations] for iterations in counts]
    assert at_20 == sorted(at_20, reverse=True), seen
    assert median[20, 2] > 0.9 and median[20, 20] < 0.8, seen
    assert median[200, 10] > 0.99, seen
    assert met[20] > met[200], seen


@pytest.mark.slow
def test_the_inner_hessian_is_indefinite_for_most_tasks_at_few_steps() -> None:
    """Written out (1761 x 1761) and by 60 products of Lanczos: the same tasks."""
    found: dict[tuple[float, int], tuple[int, int]] = {}
    for strength, ends in ((2.0, (5, 100)), (50.0, (20,))):
        problem = build("sinusoid[activation=tanh,shots=10,queries=10,initialisation=torch]", strength=strength)
        loop = one_start(problem, 25, 0, max(ends))
        for steps in ends:
            at = loop.prefix(steps)
            for rows in (slice(0, 9), slice(9, 18), slice(18, 25)):  # nine matrices of 25 MB at a time
                part = at.rows(rows)
                hessian = second_order(problem, part.final, part.theta, part.data).hessian
                dense = torch.linalg.eigvalsh(written_out(hessian, part.final))
                by_products = lanczos(hessian, part.final, 60)
                assert torch.equal(dense[:, 0] < 0, by_products.smallest < 0), (strength, steps)
                scale = dense.abs().amax(-1)
                assert bool((by_products.smallest >= dense[:, 0] - 1e-13 * scale).all())
                assert bool(((by_products.largest - dense[:, -1]).abs() <= 1e-10 * scale).all())
                before = found.get((strength, steps), (0, 0))
                counts = int((dense[:, 0] < 0).sum()), int((by_products.smallest < 0).sum())
                found[strength, steps] = before[0] + counts[0], before[1] + counts[1]
    print(f"indefinite of 25 tasks, (dense, Lanczos) by (strength, steps): {found}")
    assert found[2.0, 5][0] >= 15, found
    assert 3 <= found[2.0, 100][0] <= 12, found
    assert found[50.0, 20][0] == 0, found
