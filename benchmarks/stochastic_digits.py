"""The digits that random rounding finds beside the true ones: `python benchmarks/stochastic_digits.py`.

The tables of docs/arithmetic.md. Gradients in float32, 30 samples, against extended precision from the same numbers;
then one matrix product whose inner dimension grows, where the errors inside the kernel stay unseen.
"""

import torch
from torch import Tensor

from diagnostics.arithmetic.precision import enter_rows, precision
from diagnostics.arithmetic.stochastic import random_rounding, significant_digits, stochastic_digits
from diagnostics.estimators.implicit import Implicit
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.inner import run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.meta_gradient import Estimator
from diagnostics.metrics import distance
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.problem import Problem
from diagnostics.problem_names import build
from diagnostics.reference import in_arithmetic

SAMPLES = 30
UNROLLED, CG5 = UnrolledAdjoint(), Implicit(ConjugateGradients(5))
FLOAT32, EXTENDED = precision("float32"), precision("extended")


def compared(problem: Problem, estimator: Estimator, tasks: int, steps: int) -> tuple[Tensor, Tensor]:
    """The true digits `(B,)` of the float32 gradient, and what random rounding takes them for."""
    optimizer = GradientDescent(problem.learning_rate)
    theta, data = problem.draw(tasks, 1)
    theta, data = FLOAT32.enter(theta), enter_rows(FLOAT32, data)
    loop = run_inner(problem, optimizer, theta, data, steps)
    truth = estimator(problem, in_arithmetic(problem, loop, EXTENDED)).value
    found = stochastic_digits(estimator, problem, optimizer, theta, data, steps, samples=SAMPLES)
    return distance(estimator(problem, loop).value, truth).digits, found.value


def tell(name: str, pairs: list[tuple[Tensor, Tensor]]) -> None:
    """One line of the table."""
    true, found = (torch.cat(column) for column in zip(*pairs, strict=True))
    away = found - true
    print(f"{name:62} {true.min():5.1f} to {true.max():3.1f}   {away.min():+.2f} to {away.max():+.2f}", flush=True)


def products(terms: int) -> tuple[float, float]:
    """True and found digits of the product of two positive random vectors of so many terms."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(terms, generator=generator) for _ in range(2))
    exact = (a.double() @ b.double()).item()
    once = torch.bmm(a.view(1, 1, -1), b.view(1, -1, 1)).item()
    samples = []
    for seed in range(SAMPLES):
        with random_rounding(seed):
            samples.append(torch.bmm(a.view(1, 1, -1), b.view(1, -1, 1)).view(1, 1))
    error = torch.tensor(abs(once - exact) / exact)
    return float(-error.log10()), float(significant_digits(torch.stack(samples)).value)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"{'problem':62} true digits  estimate minus truth")
    tell("sinusoid, 25 tasks, 20 steps, unrolled", [compared(build("sinusoid"), UNROLLED, 25, 20)])
    tell("the same with strength 50, CG 5", [compared(build("sinusoid", strength=50.0), CG5, 25, 20)])
    conditions = (1e1, 1e2, 1e3, 1e4)
    for name, estimator in (("unrolled", UNROLLED), ("CG 5", CG5)):
        cases = [(build("quadratic", condition=condition), steps) for condition in conditions for steps in (10, 100)]
        pairs = [compared(problem, estimator, 10, steps) for problem, steps in cases]
        tell(f"quadratic, condition 10 to 10,000, 10 and 100 steps, {name}", pairs)
    long = [compared(build("quadratic", condition=condition), UNROLLED, 10, 1000) for condition in conditions]
    tell("quadratic, condition 10 to 10,000, 1,000 steps, unrolled", long)
    vanishing = build("quadratic", condition=1e4, strength=0.0)
    tell("quadratic, condition 10,000, strength 0, 1,000 steps, unrolled", [compared(vanishing, UNROLLED, 10, 1000)])
    for terms in (10**4, 10**6, 10**7):
        true, found = products(terms)
        print(f"one product of {terms:>8} terms: {true:.1f} true digits, {found:.1f} found")
