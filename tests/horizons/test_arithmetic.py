"""Ratios and logs with a stated answer where there is none."""

import numpy as np

from dpa.horizons.arithmetic import log_ratio, ratio


def test_ratio_broadcasts_and_says_what_it_is_told_elsewhere():
    over, under = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[2.0], [0.0]])
    np.testing.assert_array_equal(ratio(over, under, under > 0), [[0.5, 1.0], [np.nan, np.nan]])
    np.testing.assert_array_equal(ratio(over, under, under > 0, 7.0), [[0.5, 1.0], [7.0, 7.0]])


def test_a_missing_value_stays_missing_where_it_counts():
    assert np.isnan(ratio(np.array([np.nan]), np.array([2.0]), np.array([True]))).all()


def test_log_ratio_is_of_positive_numbers_only():
    over = np.array([np.e, 0.0, -1.0, 2.0, np.nan, 2.0])
    under = np.array([1.0, 1.0, -1.0, 0.0, 1.0, np.nan])
    np.testing.assert_allclose(log_ratio(over, under), [1.0, *[np.nan] * 5])
