"""Quantiles of Student's t, by their closed forms and scipy."""

import math
from statistics import NormalDist

import pytest
import scipy.stats
import torch

from diagnostics.protocols.student import NORMAL_BEYOND, t_quantile
from tests.cases import check_ratio

PROBABILITIES = [0.5, 0.6, 0.9, 0.975, 0.995, 0.9995]


@pytest.mark.parametrize("p", PROBABILITIES)
def test_one_and_two_degrees_have_closed_forms(p: float) -> None:
    """tan(pi (p - 1/2)) and (2p - 1) / sqrt(2p (1 - p)); the slope of tan at the quantile carries eps to 1e-16 t^2."""
    one, two = math.tan(math.pi * (p - 0.5)), (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    assert t_quantile(p, 1) == pytest.approx(one, rel=1e-12, abs=1e-15)
    assert t_quantile(p, 2) == pytest.approx(two, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("p", PROBABILITIES)
@pytest.mark.parametrize("freedom", [1.5, 2.37, 4, 29, 599, 12345.6, 9.9e5])
def test_scipy_agrees(p: float, freedom: float) -> None:
    """The constant of the density has the rounding of log-gamma; over the density at t that is the quantile's error."""
    expected = float(scipy.stats.t.ppf(p, freedom))
    density = float(scipy.stats.t.pdf(expected, freedom))
    unit = 2.0**-52 * ((1 + abs(math.lgamma(freedom / 2))) * (p - 0.5) + 1) / density
    check_ratio("Student's t", torch.tensor(abs(t_quantile(p, freedom) - expected)), unit, f"{p}, {freedom}")


def test_many_degrees_are_normal() -> None:
    assert t_quantile(0.975, math.inf) == NormalDist().inv_cdf(0.975)
    assert t_quantile(0.975, NORMAL_BEYOND) == pytest.approx(t_quantile(0.975, 0.99 * NORMAL_BEYOND), rel=3e-6)


@pytest.mark.parametrize(("p", "freedom"), [(0.4, 5), (1.0, 5), (math.nan, 5), (0.9, 0.5), (0.9, math.nan)])
def test_other_arguments_are_refused(p: float, freedom: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        t_quantile(p, freedom)
