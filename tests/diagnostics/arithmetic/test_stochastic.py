"""Random rounding has the law that it states, and the digits that it finds are those that are there."""

from math import log, log10

import pytest
import torch
from torch import Tensor

from diagnostics.arithmetic.precision import enter_rows, precision
from diagnostics.arithmetic.stochastic import (
    chi2_quantile,
    random_rounding,
    significant_digits,
    stochastic_digits,
)
from diagnostics.estimators.implicit import Implicit
from diagnostics.estimators.unrolled import Unrolled
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.inner import run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.meta_gradient import Estimator
from diagnostics.metrics import distance
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem
from diagnostics.problem_names import problems
from diagnostics.reference import in_arithmetic
from diagnostics.rows import repeat_rows
from tests.cases import check_ratio, gd, only, small, theta_and_data, vectors

CG5 = Implicit(ConjugateGradients(5))


def moved(x: Tensor, seed: int = 0) -> Tensor:
    """`x` after one operation that would not change it."""
    with random_rounding(seed):
        return x * 1.0


# ---- random rounding


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_result_moves_by_one_unit_in_the_last_place_with_the_stated_law(dtype: torch.dtype) -> None:
    """Frequencies within 5 standard deviations of a binomial count, independent of place and of seed."""
    count = 2**17
    x = torch.full((count,), -1.5, dtype=dtype)
    steps = [(moved(x, seed) - x).double() / torch.finfo(dtype).eps for seed in (0, 1)]
    deviation = (count * 1 / 8 * 7 / 8) ** 0.5
    for step in steps:
        assert set(step.unique().tolist()) == {-1.0, 0.0, 1.0}
        for side in (-1.0, 1.0):
            assert abs(int((step == side).sum()) - count / 8) < 5 * deviation
    # A product of two independent moves has mean 0 and variance (1/4)^2.
    for one, other in (steps, (steps[0][1:], steps[0][:-1]), (steps[0][64:], steps[0][:-64])):
        assert abs(float((one * other).mean())) < 5 * 0.25 / (count - 64) ** 0.5


def test_neighbouring_numbers_move_independently() -> None:
    """In the same place of their tensors, which could be all that decided."""
    count = 2000
    x = (1.0 + torch.arange(count) * 2.0**-23).split(1)
    step = torch.cat([moved(part) - part for part in x]) / 2.0**-23
    assert abs(float(step.mean())) < 5 * (0.25 / count) ** 0.5
    assert abs(float((step**2).mean()) - 0.25) < 5 * (0.25 * 0.75 / count) ** 0.5
    assert abs(float((step[1:] * step[:-1]).mean())) < 5 * 0.25 / count**0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_zeros_infinities_and_nan_stay(dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan], dtype=dtype).repeat(100)
    value = moved(x)
    assert torch.equal(value.nan_to_num(7.0), x.nan_to_num(7.0))
    assert torch.equal(value.signbit(), x.signbit())


def test_the_same_operation_on_the_same_numbers_rounds_the_same_way() -> None:
    """Also in place, in another layout of memory, and whatever ran before."""
    x = vectors(20, 30, dtype=torch.float32)
    once = moved(x)
    with random_rounding():
        _ = x + x
        assert torch.equal(x * 1.0, once)
        assert torch.equal(x.clone().mul_(1.0), once)
        assert torch.equal(x.mT.contiguous().mT * 1.0, once)
    assert not torch.equal(moved(x, 1), once)


@pytest.mark.parametrize("estimator", [Unrolled(), UnrolledAdjoint()])
@pytest.mark.parametrize("name", problems.names())
def test_a_loop_that_is_rerun_meets_its_states_again(name: str, estimator: Estimator) -> None:
    """And copies of a task are other samples, of which none is the gradient without random rounding."""
    problem = small(name)
    theta, data = theta_and_data(problem, 2, dtype=torch.float32)
    plain = estimator(problem, run_inner(problem, gd(problem), theta, data, 2)).value
    with random_rounding():
        loop = run_inner(problem, gd(problem), theta.repeat(3, 1), repeat_rows(data, 3), 2)
        gradient = estimator(problem, loop)
    assert only(gradient.outcome) is Outcome.OK
    values = gradient.value.reshape(3, *theta.shape)
    for one, other in ((values[0], values[1]), (values[1], values[2]), (values[0], plain)):
        assert bool((one != other).any(-1).all())


# ---- significant digits


def test_chi_squared_quantiles() -> None:
    """Closed forms for one and two degrees of freedom, and the table's for 29."""
    for probability in (0.001, 0.025, 0.5, 0.99):
        normal = float(torch.special.ndtri(torch.tensor((1 + probability) / 2, dtype=torch.float64)))
        # The distribution function is known to a few eps of 1, and the quantile to that over the density.
        check_ratio(
            "chi-squared", torch.tensor(abs(chi2_quantile(probability, 1) - normal**2)), 2.0**-52 * 40, probability
        )
        exact = -2 * log(1 - probability)
        error = abs(chi2_quantile(probability, 2) - exact)
        check_ratio("chi-squared", torch.tensor(error), 2.0**-52 * 2 / (1 - probability), probability)
    assert f"{chi2_quantile(0.025, 29):.3f}" == "16.047"


def test_the_shift_of_thirty_samples_is_that_of_the_paper() -> None:
    """1.79 bits for n = 30, probability 0.99, confidence 0.95 (Sohier et al. 2021)."""
    samples = 1 + 1e-3 * vectors(30, 1).view(30, 1, 1)
    digits = significant_digits(samples)
    assert f"{float(digits.value - digits.normal) / log10(2):.2f}" == "1.79"
    assert f"{digits.general_probability:.3f}" == "0.905"


def test_digits_of_samples_with_a_known_deviation() -> None:
    """A mean of norm 5, in each direction a deviation of 10^-k: sigma = sqrt(P) 10^-k / 5."""
    size, count = 40, 400
    mean = torch.full((size,), 5 / size**0.5, dtype=torch.float64)
    noise = vectors(count, 3 * size).view(count, 3, size)
    samples = mean + noise * torch.tensor([1e-2, 1e-6, 1e-12], dtype=torch.float64).view(3, 1)
    digits = significant_digits(samples)
    for row, deviation in enumerate((1e-2, 1e-6, 1e-12)):
        expected = -log10(size**0.5 * deviation / 5)
        assert abs(float(digits.value[row]) - expected) < 5 / (2 * count * size) ** 0.5 / log(10)
        assert float(digits.general[row]) < float(digits.value[row])


def test_both_bounds_hold_with_their_confidence() -> None:
    """Of 400 batches of 30 normal samples the bounds may fail for 5%, give or take 5 standard deviations."""
    batches, count = 400, 30
    samples = 1 + 1e-4 * vectors(count, batches).view(count, batches, 1)
    digits = significant_digits(samples, confidence=0.95, probability=0.99)
    # Of a further sample, the share within d digits of 1: that of |N(0, 1)| below 10^-d / 1e-4.
    for bound, probability in ((digits.normal, 0.99), (digits.general, digits.general_probability)):
        reach = 10**-bound / 1e-4
        held = torch.special.erf(reach / 2**0.5) >= probability
        assert float((~held).double().mean()) <= 0.05 + 5 * (0.05 * 0.95 / batches) ** 0.5


def test_ends_of_the_scale_and_smallest_sizes() -> None:
    same = torch.ones(2, 3, 1, dtype=torch.float32)
    digits = significant_digits(same)
    assert digits.value.tolist() == [24 * log10(2)] * 3 == digits.normal.tolist() == digits.general.tolist()
    scattered = torch.tensor([[[1.0]], [[-1.0]]])
    assert significant_digits(scattered).value.tolist() == [0.0]
    broken = torch.tensor([[[1.0], [1.0]], [[torch.nan], [1.0]]])
    assert significant_digits(broken).value.isnan().tolist() == [True, False]
    assert significant_digits(torch.ones(2, 0, 4)).value.shape == (0,)


@pytest.mark.parametrize(
    ("count", "settings", "message"),
    [
        (1, {}, "expected at least 2 samples, found 1"),
        (3, {"confidence": 1.0}, "expected a confidence between 0 and 1, found 1.0"),
        (3, {"probability": 0.5}, "expected a probability between 0.79 and 1, found 0.5"),
    ],
)
def test_bad_settings(count: int, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        significant_digits(torch.ones(count, 1, 1), **settings)


# ---- against the true digits


def check_digits(problem: Problem, estimator: Estimator, tasks: int, steps: int, samples: int) -> None:
    """Assert that the digits found for float32 are within one of the true ones, for each task."""
    theta, data = problem.draw(tasks, 1)
    theta, data = theta.float(), enter_rows(precision("float32"), data)
    loop = run_inner(problem, gd(problem), theta, data, steps)
    truth = estimator(problem, in_arithmetic(problem, loop, precision("extended"))).value
    error = distance(estimator(problem, loop).value, truth).relative_error
    found = stochastic_digits(estimator, problem, gd(problem), theta, data, steps, samples=samples)
    away = (found.value + error.log10()).abs()
    check_ratio("digits against true ones", away, 1.0, f"{problem.name}, {steps} steps", limit=1.0)
    assert bool((found.normal < found.value).all())


@pytest.mark.parametrize("estimator", [UnrolledAdjoint(), CG5])
@pytest.mark.parametrize(("condition", "steps"), [(1e1, 10), (1e4, 25)])
def test_digits_on_quadratics(condition: float, steps: int, estimator: Estimator) -> None:
    check_digits(problems["quadratic"](condition=condition), estimator, 3, steps, 10)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [UnrolledAdjoint(), CG5])
@pytest.mark.parametrize("steps", [10, 100])
@pytest.mark.parametrize("condition", [1e1, 1e2, 1e3, 1e4])
def test_digits_on_more_quadratics(condition: float, steps: int, estimator: Estimator) -> None:
    check_digits(problems["quadratic"](condition=condition), estimator, 10, steps, 30)


@pytest.mark.parametrize("estimator", [Unrolled(), CG5])
def test_digits_on_a_few_sinusoids(estimator: Estimator) -> None:
    check_digits(problems["sinusoid"](strength=50.0 if estimator is CG5 else 2.0), estimator, 3, 5, 8)


@pytest.mark.slow
@pytest.mark.parametrize(("condition", "strength"), [(1e1, 0.1), (1e2, 0.1), (1e3, 0.1), (1e4, 0.1), (1e4, 0.0)])
def test_digits_on_quadratics_after_a_thousand_steps(condition: float, strength: float) -> None:
    check_digits(problems["quadratic"](condition=condition, strength=strength), UnrolledAdjoint(), 10, 1000, 30)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [Unrolled(), CG5])
def test_digits_on_the_sinusoids_of_the_paper(estimator: Estimator) -> None:
    check_digits(problems["sinusoid"](strength=50.0 if estimator is CG5 else 2.0), estimator, 25, 20, 30)
