"""Sums and extremes over windows against the obvious loop, and their bits whatever the start."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dpa.horizons.rolling import trailing, trailing_last

COMBINE = {np.add: np.sum, np.maximum: np.max, np.minimum: np.min}
tables = arrays(
    np.float64,
    st.tuples(st.integers(1, 70), st.integers(1, 3)),
    elements=st.floats(-1e6, 1e6, allow_subnormal=False),
)


@pytest.mark.parametrize("combine", COMBINE)
@settings(deadline=None, max_examples=60)
@given(values=tables, n_bars=st.integers(1, 75))
def test_every_window_is_what_a_loop_finds(combine, values, n_bars):
    found = trailing(values, n_bars, combine)
    assert found.shape == values.shape
    for row in range(len(values)):
        if row + 1 < n_bars:
            assert np.isnan(found[row]).all()
        else:
            window = values[row + 1 - n_bars : row + 1]
            plain = COMBINE[combine](window, axis=0)
            np.testing.assert_allclose(found[row], plain, rtol=1e-12, atol=1e-8)


@pytest.mark.parametrize("combine", COMBINE)
@settings(deadline=None, max_examples=60)
@given(values=tables, n_bars=st.integers(1, 70))
def test_the_last_window_alone_has_the_same_bits(combine, values, n_bars):
    found = trailing(values, n_bars, combine)
    for row in range(n_bars - 1, len(values)):
        alone = trailing_last(values[row + 1 - n_bars : row + 1], combine)
        np.testing.assert_array_equal(alone, found[row])


@settings(deadline=None, max_examples=60)
@given(values=tables, n_bars=st.integers(1, 40), start=st.integers(0, 60))
def test_history_may_start_anywhere(values, n_bars, start):
    start = min(start, len(values) - 1)
    whole, later = trailing(values, n_bars), trailing(values[start:], n_bars)
    np.testing.assert_array_equal(later[n_bars - 1 :], whole[start + n_bars - 1 :])


@settings(deadline=None, max_examples=30)
@given(values=tables, n_bars=st.integers(1, 40), stop=st.integers(1, 70))
def test_what_follows_changes_no_bit(values, n_bars, stop):
    np.testing.assert_array_equal(
        trailing(values[:stop], n_bars), trailing(values, n_bars)[: min(stop, len(values))]
    )


def test_long_windows_keep_their_digits():
    """Pairwise sums: a window far from a huge value holds nothing of it."""
    values = np.full((5000, 1), 0.1)
    values[:100] = 1e15
    found = trailing(values, 390)[1000:]
    np.testing.assert_allclose(found, 39.0, rtol=1e-14)
    assert len(np.unique(found)) == 1


def test_infinite_marks_of_missing_extremes_stay_what_they_are():
    values = np.array([[-np.inf], [3.0], [-np.inf], [-np.inf], [-np.inf]])
    np.testing.assert_array_equal(trailing(values, 3, np.maximum)[2:, 0], [3, 3, -np.inf])


def test_the_input_is_not_changed():
    values = np.arange(12.0).reshape(6, 2)
    before = values.copy()
    trailing(values, 5), trailing_last(values)
    np.testing.assert_array_equal(values, before)
