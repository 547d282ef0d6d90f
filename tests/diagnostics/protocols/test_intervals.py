"""Intervals over seeds and episodes: textbook formulas, variance components, and coverage by simulation."""

import math

import pytest
import scipy.stats
import torch
from torch import Tensor

from diagnostics.protocols.intervals import interval, paired

TABLES = 2000
# A share of 0.95 found in 2000 tables has a standard deviation of 0.0049; three of them are allowed.
SLACK = 3 * math.sqrt(0.95 * 0.05 / TABLES)
MIXES = [(1, 1, 1), (1, 0, 1), (0, 1, 1), (0, 0, 1), (0.1, 1, 1), (0.2, 1, 3), (0.05, 0.5, 1), (0.14, 1, 0.3)]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tables(seeds: int, episodes: int, mix: tuple[float, float, float], count: int = TABLES) -> Tensor:
    """Tables of mean 0 whose seed, episode and rest effects have these standard deviations."""
    shapes = ((count, seeds, 1), (count, 1, episodes), (count, seeds, episodes))
    return sum(
        (s * normal(*shape, seed=i) for i, (s, shape) in enumerate(zip(mix, shapes, strict=True))), torch.zeros(())
    )


def covered(mean: Tensor, half_width: Tensor, truth: Tensor | float = 0.0) -> float:
    return float(((mean - truth).abs() <= half_width).double().mean())


def test_nested_is_the_textbook_interval_of_the_seeds_means() -> None:
    x = normal(4, 30, seed=3)
    found, means = interval(x, crossed=False), x.mean(1)
    expected = scipy.stats.t.interval(0.95, 3, loc=means.mean(), scale=scipy.stats.sem(means))
    assert float(found.mean - found.half_width) == pytest.approx(expected[0], rel=1e-12)
    assert float(found.mean + found.half_width) == pytest.approx(expected[1], rel=1e-12)


def test_one_seed_has_the_usual_interval_over_episodes_and_none_over_seeds() -> None:
    x = normal(1, 600, seed=4)
    for crossed in (True, False):
        found = interval(x, crossed)
        expected = scipy.stats.t.ppf(0.975, 599) * scipy.stats.sem(x[0])
        assert float(found.episodes_half_width) == pytest.approx(expected, rel=1e-12)
        assert math.isnan(found.half_width) and float(found.mean) == pytest.approx(float(x.mean()), rel=1e-12)


def test_one_episode_has_no_interval_over_episodes() -> None:
    found = interval(normal(3, 1, seed=5))
    assert math.isnan(found.episodes_half_width) and math.isnan(found.half_width)
    nested = interval(normal(3, 1, seed=5), crossed=False)
    assert math.isnan(nested.episodes_half_width) and math.isfinite(nested.half_width)


def test_a_table_that_is_a_sum_of_its_margins_has_no_rest() -> None:
    """x = a + b: the mean squares are the margins' own variances, E var(a) and S var(b), without any rest."""
    a, b = torch.tensor([0.0, 1, 5]).double(), torch.tensor([0.0, 2, 4, 10]).double()
    found = interval(a[:, None] + b)
    assert float(found.rest_variance) == pytest.approx(0, abs=1e-28)
    assert float(found.seed_variance) == pytest.approx(float(a.var()), rel=1e-14)
    assert float(found.episode_variance) == pytest.approx(float(b.var()), rel=1e-14)
    parts = [scipy.stats.t.ppf(0.975, len(x) - 1) * scipy.stats.sem(x) for x in (a, b)]
    assert float(found.half_width) == pytest.approx(math.hypot(*parts), rel=1e-12)


@pytest.mark.parametrize("mix", [(1.0, 2.0, 0.5), (2.0, 1.0, 1.0)], ids=str)
def test_the_variances_are_estimated_without_bias(mix: tuple[float, float, float]) -> None:
    """On many tables, where clamping at 0 never acts; the mean of 2000 estimates is good to a few percent."""
    found = interval(tables(5, 40, mix))
    estimates = (found.seed_variance, found.episode_variance, found.rest_variance)
    for estimate, truth in zip(estimates, (s**2 for s in mix), strict=True):
        standard_error = float(estimate.std()) / math.sqrt(TABLES)
        assert abs(float(estimate.mean()) - truth) < 4 * standard_error < 0.1 * truth


@pytest.mark.parametrize("mix", MIXES, ids=str)
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_covers_as_often_as_it_says(seeds: int, mix: tuple[float, float, float]) -> None:
    """At least, whatever the shares of seeds and episodes; and no more where seeds are all that varies beside rest."""
    x = tables(seeds, 50, mix)
    found = interval(x)
    share = covered(found.mean, found.half_width)
    assert share > 0.95 - SLACK
    if mix == (1, 0, 1):
        assert share < 0.95 + SLACK
    if mix[0] == 1:  # pooling all values, as if each were independent, does not
        assert covered(found.mean, 1.96 * x.std((1, 2)) / math.sqrt(seeds * 50)) < 0.5
        assert covered(found.mean, found.episodes_half_width) < 0.7  # nor do the episodes of the trained networks


@pytest.mark.parametrize("seeds", [3, 5])
def test_it_covers_accuracies_which_are_not_normal(seeds: int) -> None:
    """25 queries right or wrong, with the probability of a seed and an episode; the truth is the mean of many."""

    def chance(count: int, seed: int) -> Tensor:
        effects = tables(seeds, 100, (0.2, 0.8, 0.3), count) if seed == 0 else 0.2 * normal(count, seed=7)
        others = 0 if seed == 0 else 0.8 * normal(count, seed=8) + 0.3 * normal(count, seed=9)
        return torch.sigmoid(0.5 + effects + others)

    generator = torch.Generator().manual_seed(1)
    right = torch.binomial(torch.full((TABLES, seeds, 100), 25.0, dtype=torch.float64), chance(TABLES, 0), generator)
    found = interval(right / 25)
    assert covered(found.mean, found.half_width, chance(1_000_000, 1).mean()) > 0.95 - SLACK


def test_nested_seeds_cover_exactly() -> None:
    x = normal(TABLES, 3, 1, seed=0) + normal(TABLES, 3, 20, seed=1)
    found = interval(x, crossed=False)
    assert abs(covered(found.mean, found.half_width) - 0.95) < SLACK


def test_paired_differences_cover_and_are_narrower() -> None:
    """Two methods on the same seeds and episodes, of which they share what is hard: differing by 0.1 of it."""
    common = tables(3, 50, (1, 1, 0))
    one, other = (common + 0.1 * normal(TABLES, 3, 50, seed=k) + shift for k, shift in ((10, 0.25), (11, 0.0)))
    found = paired(one, other)
    assert covered(found.mean, found.half_width, 0.25) > 0.95 - SLACK
    assert bool((found.half_width < 0.5 * interval(one).half_width).double().mean() > 0.99)
    assert torch.equal(paired(one, one).half_width, torch.zeros(TABLES, dtype=torch.float64))


def test_tables_of_a_batch_do_not_mix_and_a_lost_value_is_seen() -> None:
    x = normal(3, 4, 9, seed=0)
    before = interval(x)
    x[1, 2, 3] = torch.inf
    after = interval(x)
    for field in ("mean", "half_width", "episodes_half_width", "seed_variance", "rest_variance"):
        assert torch.equal(getattr(before, field)[[0, 2]], getattr(after, field)[[0, 2]])
        assert math.isnan(getattr(after, field)[1])


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(ValueError, match="expected .*seeds, episodes"):
        interval(torch.ones(5))
    with pytest.raises(ValueError, match="at least one of each"):
        interval(torch.ones(0, 5))
    with pytest.raises(ValueError, match="0 < level < 1"):
        interval(torch.ones(2, 5), level=95)
    with pytest.raises(ValueError, match="same seeds and episodes"):
        paired(torch.ones(2, 5), torch.ones(2, 6))
