import numpy as np
import pandas as pd
import pytest

from analyses.summary import FEWEST, interval_ranks, median_interval, paired_change, summarise


def table(values, outcome: str | list[str] = "ok", **more):
    n = len(values)
    columns = {
        "seed": 0,
        "task": range(n),
        "estimator": "implicit",
        "min_eigenvalue": 1.0,
        "outcome": outcome,
        "x": values,
    }
    return pd.DataFrame(columns | {"key": "a"} | more)


def test_median_interval_and_counts():
    found = summarise(table(np.arange(1.0, 33.0)), ["key"], ["x"]).iloc[0]
    assert found["x"] == 16.5
    assert (found["x_low"], found["x_high"]) == (10.0, 23.0)  # ranks 10 and 23 of 32: the textbook sign-test interval
    assert (found["rows"], found["warned"], found["x_missing"]) == (32, 0, 0)


def test_order_of_rows_does_not_matter():
    frame = pd.concat([table(np.random.default_rng(0).normal(size=30)), table(np.arange(9.0), key="b")])
    shuffled = frame.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(summarise(frame, ["key"], ["x"]), summarise(shuffled, ["key"], ["x"]))


def test_cells_do_not_mix_and_missing_keys_are_a_key():
    frame = pd.concat([table([1.0] * 8), table([5.0] * 8, key=None), table([3.0] * 8, key="b")])
    found = summarise(frame, ["key"], ["x"])
    assert found["x"].tolist() == [1.0, 3.0, 5.0]
    assert found["key"].isna().tolist() == [False, False, True]


def test_numbers_that_are_none_are_counted_and_left_out():
    found = summarise(table([1.0, 2.0, 3.0, np.nan, np.nan]), ["key"], ["x"]).iloc[0]
    assert (found["x"], found["x_missing"], found["rows"]) == (2.0, 2, 5)


def test_an_infinite_error_is_a_number():
    found = summarise(table([1.0] * 4 + [np.inf] * 5), ["key"], ["x"]).iloc[0]
    assert found["x"] == np.inf and found["x_missing"] == 0


def test_all_missing_and_empty():
    found = summarise(table([np.nan] * 7), ["key"], ["x"]).iloc[0]
    assert np.isnan(found["x"]) and found["x_missing"] == 7
    assert summarise(table([1.0]).iloc[:0], ["key"], ["x"]).empty


@pytest.mark.parametrize("n", [1, 2, FEWEST - 1])
def test_too_few_units_have_no_interval(n):
    _, low, high = median_interval(list(range(n)))
    assert np.isnan(low) and np.isnan(high)


@pytest.mark.parametrize("n", [FEWEST, 7, 16, 32, 101])
def test_interval_covers_the_true_median(n):
    """95% at least by construction; 4000 draws tell it to within 0.7% (two standard errors)."""
    draws = np.sort(np.random.default_rng(n).exponential(size=(4000, n)), axis=1)
    low, high = interval_ranks(n)
    covered = np.mean((draws[:, low] <= np.log(2)) & (np.log(2) <= draws[:, high]))
    assert 0.95 - 0.007 <= covered
    assert interval_ranks(n)[1] == n - 1 - low


def test_interval_is_no_wider_than_needed():
    from math import comb

    for n in range(FEWEST, 200):
        low, _ = interval_ranks(n)
        wider = sum(comb(n, i) for i in range(low + 1)) / 2**n
        narrower = sum(comb(n, i) for i in range(low + 2)) / 2**n
        assert wider <= 0.025 < narrower


def test_interval_is_close_to_the_bootstrap():
    draws = np.sort(np.random.default_rng(5).normal(size=101))
    resampled = np.median(draws[np.random.default_rng(6).integers(0, 101, (4000, 101))], axis=1)
    _, low, high = median_interval(draws.tolist())
    ends = np.searchsorted(draws, np.quantile(resampled, [0.025, 0.975]))
    assert abs(np.searchsorted(draws, low) - ends[0]) <= 2 and abs(np.searchsorted(draws, high) - ends[1]) <= 2


def test_warnings_are_counted_even_behind_a_graver_outcome():
    outcomes = ["ok", "prediction", "solver unfinished", "indefinite", "no minimiser"]
    frame = table([1.0] * 5, outcome=outcomes, min_eigenvalue=[1, 1, -1, -1, -1])
    found = summarise(frame, ["key"], ["x"]).iloc[0]
    assert (found["warned"], found["unfinished"]) == (3, 1)


def test_a_unit_twice_in_a_cell_is_refused():
    frame = pd.concat([table([1.0, 2.0]), table([1.0])])
    with pytest.raises(ValueError, match="found task 0 of seed 0 twice"):
        summarise(frame, ["key"], ["x"])


def test_paired_change_pairs_the_units():
    before = table([float(n) for n in range(20)], key="b")
    after = table([n + 0.5 for n in range(20)], key="a").sample(frac=1, random_state=0)
    frame = pd.concat([before, after], ignore_index=True)
    found = paired_change(frame, frame["key"] == "b", frame["key"] == "a", "x").iloc[0]
    assert (found["change"], found["change_low"], found["change_high"]) == (0.5, 0.5, 0.5)
