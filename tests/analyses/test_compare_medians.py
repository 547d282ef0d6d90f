"""Medians of two runs: the intervals, how often they cry wolf, and that they see a difference that is there."""

import numpy as np
import pandas as pd
import pytest

from analyses.compare import Line
from analyses.compare_medians import RANK, compare_medians, ranks
from analyses.settings import resolve
from analyses.summary import FEWEST, interval_ranks
from analyses.table import tidy
from analyses.verdict import holds

SETTINGS = resolve(("steps",), "smoke", {}, {})


def table(rng: np.random.Generator, medians: dict[str, float], tasks: int = 24, steps: int = 10) -> pd.DataFrame:
    """Curves of so many settings each, whose errors are lognormal about a median."""
    rows = [
        {"problem": "p", "seed": 0, "task": task, "inner_steps": step, "estimator": name, "target": "unrolled",
         "precision": "float32", "outcome": "ok", "relative_error": median * np.exp(rng.normal())}
        for name, median in medians.items() for step in range(steps) for task in range(tasks)
    ]  # fmt: skip
    return tidy(rows).assign(analysis="steps")


def lines(expected: pd.DataFrame, found: pd.DataFrame) -> dict[str, Line]:
    return {line.column: line for line in compare_medians(SETTINGS, {"steps": expected}, {"steps": found})}


@pytest.mark.parametrize("count", [FEWEST, 7, 16, 32, 101])
def test_the_ranks_are_those_of_the_summary(count: int) -> None:
    assert ranks(count, 0.05) == interval_ranks(count)
    assert ranks(count, 1e-30) == (0, count - 1)
    low, high = ranks(count, 1.0)
    assert low <= high


def test_runs_of_other_seeds_rarely_differ_by_chance() -> None:
    """At most 5% by construction; 200 pairs of runs tell it to within 3% (two standard errors)."""
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(200, 2, 10, 24))
    low, high = ranks(24, 0.05 / 20)
    ends = np.sort(draws, axis=-1)[..., [low, high]]
    apart = (ends[:, 0, :, 0] > ends[:, 1, :, 1]) | (ends[:, 1, :, 0] > ends[:, 0, :, 1])
    assert apart.any(axis=1).mean() <= 0.05
    found = lines(table(rng, {"a": 1.0, "b": 0.01}), table(rng, {"a": 1.0, "b": 0.01}))
    assert not any(line.outside for line in found.values())
    assert found["relative_error"].within == 20 and found[RANK].equal == 10


def test_another_median_is_outside_and_named() -> None:
    rng = np.random.default_rng(1)
    found = lines(table(rng, {"a": 1.0, "b": 0.01}), table(rng, {"a": 1.0, "b": 1.0}))["relative_error"]
    assert found.outside == 10 and found.within == 10
    assert "p, inner_steps 0, b, float32, unrolled: expected a median in [" in found.where


def test_curves_that_change_places_are_found() -> None:
    rng = np.random.default_rng(2)
    found = lines(table(rng, {"a": 1.0, "b": 0.01}), table(rng, {"a": 0.01, "b": 1.0}))
    assert found[RANK].outside == 10
    assert "are in the other order" in found[RANK].where


def test_settings_that_one_side_lacks_are_missing_and_small_ones_untold() -> None:
    rng = np.random.default_rng(3)
    old, new = table(rng, {"a": 1.0}), table(rng, {"a": 1.0})
    found = lines(old, new[new.inner_steps < 8])["relative_error"]
    assert (found.missing, found.within, found.outside) == (2, 8, 0)
    few = compare_medians(SETTINGS, {"steps": old}, {"steps": new[new.task < FEWEST - 1]})
    assert [line.untold for line in few] == [10]
    with pytest.raises(ValueError, match="found none"):
        holds(few)


def test_the_same_values_are_equal() -> None:
    one = table(np.random.default_rng(4), {"a": 1.0})
    found = lines(one, one.sample(frac=1, random_state=0))
    assert found["relative_error"].equal == 10
