"""Numbers a seed and intervals over seeds: against closed forms and the intervals of the protocol."""

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.generalized_summary import AVERAGED, LINE, OF_MEANS, by_seed, harmonic, interval, over_seeds, paired
from diagnostics.protocols import intervals

COMMON = {"case": "a", "method": "cg", "iterations": 5.0, "precision": "float32", "outer_lr": 1e-3, "inner_steps": 1.0,
          "test_steps": 1.0, "calibration": "tuned", "iteration": 10.0}  # fmt: skip


def rows(table: np.ndarray, **more: object) -> pd.DataFrame:
    """Base accuracies `(seeds, tasks)`; novel ones are 1 less them."""
    found = []
    for (seed, task), x in np.ndenumerate(table):
        unit = {"base_accuracy": x, "novel_accuracy": 1 - x, "seed": seed, "task": task}
        found.append(COMMON | dict.fromkeys(AVERAGED, 0.0) | unit | more)
    return pd.DataFrame(found)


def test_the_harmonic_mean_of_a_seed_is_that_of_its_mean_accuracies() -> None:
    """Tasks of (1, 0) and (0, 1) have H = 0 each; their means (1/2, 1/2) have H = 1/2."""
    found = by_seed(rows(np.array([[1.0, 0.0]])))
    assert len(found) == 1 and found[OF_MEANS].item() == 0.5 and found["harmonic_mean"].item() == 0.0
    assert harmonic(np.array([1.0, 0.0]), np.array([0.5, 0.0])).tolist() == [2 * 0.5 / 1.5, 0.0]


def test_intervals_are_those_of_the_nested_design() -> None:
    table = np.random.default_rng(0).uniform(size=(4, 7))
    means = by_seed(rows(table))
    found = over_seeds(means).iloc[0]
    expected = intervals.interval(torch.from_numpy(table), crossed=False)
    half = (found["base_accuracy_high"] - found["base_accuracy_low"]) / 2
    assert found["base_accuracy"] == pytest.approx(float(expected.mean), abs=1e-15) and found["seeds"] == 4
    assert half == pytest.approx(float(expected.half_width), rel=1e-12)
    one = interval(means["base_accuracy"].tolist())
    assert one.half == pytest.approx(float(expected.half_width), rel=1e-12) and one.low < one.mean < one.high


def test_differences_are_paired_by_seed_and_only_over_those_that_both_have() -> None:
    """x - y is 0.1 on every seed, whatever the seeds' own spread: an interval of no width, above 0."""
    seeds = pd.Series({0: 0.2, 1: 0.9, 2: 0.5})
    found = paired(seeds + 0.1, seeds)
    assert found.mean == pytest.approx(0.1) and found.half == pytest.approx(0, abs=1e-12) and found.sign == 1
    assert paired(seeds, seeds + 0.1).sign == -1 and paired(seeds, seeds.iloc[::-1]).mean == 0
    fewer = paired(seeds, pd.Series({1: 0.4, 7: 0.0}))
    assert fewer.seeds == 1 and fewer.mean == 0.5 and np.isnan(fewer.half) and fewer.sign == 0
    assert paired(seeds, pd.Series({9: 1.0})).seeds == 0


def test_one_seed_has_no_interval_and_no_seed_no_number() -> None:
    found = over_seeds(by_seed(rows(np.array([[0.5, 0.7]])))).iloc[0]
    assert found["base_accuracy"] == 0.6 and np.isnan(found["base_accuracy_low"])
    assert np.isnan(interval([]).mean) and interval([np.nan, 0.5]).seeds == 1


def test_rows_that_are_there_twice_count_once_and_the_longer_run_counts() -> None:
    table = np.array([[0.2, 0.4], [0.6, 0.8]])
    once = by_seed(rows(table))
    pd.testing.assert_frame_equal(by_seed(pd.concat([rows(table), rows(table)])), once)
    pd.testing.assert_frame_equal(by_seed(pd.concat([rows(table * 0, iteration=5.0), rows(table)])), once)


def test_places_without_a_number_of_steps_are_kept() -> None:
    found = over_seeds(by_seed(rows(np.array([[0.5], [0.7]]), test_steps=np.nan, outer_lr=np.nan)))
    assert len(found) == 1 and found["base_accuracy"].item() == pytest.approx(0.6) and set(LINE) <= set(found)
