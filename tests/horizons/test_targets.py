"""Targets against hand-computed numbers and a slow loop over every path."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.errors import ConfigError, DataError
from dpa.horizons.targets import barrier_labels, forward_returns, scaled_targets
from dpa.market.interval_specs import Horizon

HORIZONS = (Horizon(5, 1, "5m"), Horizon(15, 3, "15m"))


def market(seed=0, n_bars=80, n_assets=5, missing=0.1):
    rng = np.random.default_rng(seed)
    prices = 50 * np.exp(0.002 * rng.normal(size=(n_bars, n_assets)).cumsum(axis=0))
    sigma = rng.uniform(5, 12, size=prices.shape)
    prices[rng.random(prices.shape) < missing] = np.nan
    sigma[rng.random(prices.shape) < missing / 2] = np.nan
    return prices, sigma


def test_forward_returns_by_hand():
    prices = np.array([[100.0], [101.0], [np.nan], [99.0], [110.0]])
    nan = np.nan
    one = forward_returns(prices, bars=1, lag=1)
    np.testing.assert_allclose(one[:, 0], [100.0, nan, nan, 1e4 * (110 / 99 - 1), nan])
    later = forward_returns(prices, bars=2, lag=2)
    np.testing.assert_allclose(later[:, 0], [1e4 * (99 / 101 - 1), nan, nan, nan, nan])


def test_a_horizon_longer_than_history_is_unknown():
    assert np.isnan(forward_returns(np.ones((3, 2)), 3, 1)).all()
    assert np.isnan(barrier_labels(np.ones((3, 2)), np.ones((3, 2)), 15, 3, 1.0, 1)).all()


@pytest.mark.parametrize("lag", [1, 2, 4])
def test_scaled_targets_are_the_obvious_loop(lag):
    prices, sigma = market()
    sigma[4, 2] = 0.0
    found = scaled_targets(prices, sigma, HORIZONS, lag)
    assert found.dtype == np.float32
    expected = np.full(found.shape, np.nan)
    for t, a in np.ndindex(*prices.shape):
        for h, horizon in enumerate(HORIZONS):
            start, end = t + lag - 1, t + lag - 1 + horizon.bars
            if end < len(prices) and sigma[t, a] > 0:
                move = prices[end, a] / prices[start, a] - 1
                expected[t, a, h] = move * 1e4 / (sigma[t, a] * horizon.minutes**0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_scaled_targets_have_unit_variance_where_sigma_is_right():
    rng = np.random.default_rng(1)
    per_bar = 8e-4 * np.sqrt(5)  # 8 bps per sqrt(minute), bars of 5 minutes
    prices = np.exp(per_bar * rng.normal(size=(4000, 5)).cumsum(axis=0))
    found = scaled_targets(prices, np.full(prices.shape, 8.0), HORIZONS, 1)
    np.testing.assert_allclose(np.nanstd(found, axis=(0, 1)), 1.0, atol=0.05)


# --- barriers --------------------------------------------------------------------------------


def slow_barriers(prices, sigma, minutes, bars, width, lag):
    out = np.full((*prices.shape, 2), np.nan)
    for t, a in np.ndindex(*prices.shape):
        end = t + lag - 1 + bars
        if end >= len(prices):
            continue
        entry, barrier = prices[t + lag - 1, a], width * sigma[t, a] * np.sqrt(minutes) / 1e4
        if not (np.isfinite(entry) and np.isfinite(barrier) and barrier > 0):
            continue
        touched = None
        for price in prices[t + lag : end + 1, a]:
            move = np.log(price) - np.log(entry)
            if np.isnan(move):
                continue
            if move <= -barrier:
                touched = "down"
            elif move >= barrier:
                touched = "up"
            if touched:
                break
        if np.isfinite(prices[end, a]):
            out[t, a] = touched == "down", touched == "up"
    return out


@pytest.mark.parametrize(("lag", "bars", "width"), [(1, 6, 0.75), (3, 6, 0.3), (1, 1, 0.5)])
def test_barriers_are_the_obvious_loop(lag, bars, width):
    prices, sigma = market(2, n_bars=150)
    found = barrier_labels(prices, sigma, 5 * bars, bars, width, lag)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, slow_barriers(prices, sigma, 5 * bars, bars, width, lag))
    assert {0.0, 1.0} <= set(np.unique(found[np.isfinite(found)]))


def test_barriers_by_hand():
    # sigma 10 bps per sqrt(minute), 25 minutes, width 1: barriers 50 bps away in log return
    moves = np.array([0, -20, -51, 60, 0, 0, 51, -60, 0, 0, 0, 0, 0, 0]) / 1e4
    prices = 100 * np.exp(moves)[:, None]
    found = barrier_labels(prices, np.full(prices.shape, 10.0), 25, 5, 1.0, 1)[:, 0]
    down, up, neither, unknown = [1, 0], [0, 1], [0, 0], [np.nan, np.nan]
    # bar 0 falls to -51 first; from bar 1, at -20, that is only 31 down, and +60 comes first
    expected = [down, up, up, down, up, up, down, up, neither] + [unknown] * 5
    np.testing.assert_array_equal(found, np.array(expected, dtype=np.float32))


def test_missing_closes_touch_nothing():
    moves = np.array([0, np.nan, 10, np.nan, 0, 0, 60, np.nan, 0]) / 1e4
    prices = 100 * np.exp(moves)[:, None]
    found = barrier_labels(prices, np.full(prices.shape, 10.0), 25, 3, 1.0, 1)[:, 0]
    assert np.isnan(found[0]).all()  # bar 3 is missing and nothing was reached before it
    assert np.isnan(found[1]).all()  # no entry price
    assert found[2].tolist() == [0.0, 0.0]
    assert np.isnan(found[4]).all()  # bar 7 is missing, though bar 6 had decided
    assert np.isnan(found[6:]).all()  # the path does not fit into the history


@settings(deadline=None)
@given(seed=st.integers(0, 1000), lag=st.integers(1, 3), bars=st.integers(1, 8))
def test_inverse_prices_swap_peak_and_valley(seed, lag, bars):
    prices, sigma = market(seed, n_bars=30, n_assets=2)
    found = barrier_labels(prices, sigma, 5 * bars, bars, 0.6, lag)
    mirror = barrier_labels(1 / prices, sigma, 5 * bars, bars, 0.6, lag)
    np.testing.assert_array_equal(found, mirror[:, :, ::-1])
    assert not (found == 1).all(axis=2).any()  # never both


def test_a_wider_barrier_is_reached_less_often_and_later():
    prices, sigma = market(3, n_bars=400, missing=0)
    reached = [
        np.nansum(barrier_labels(prices, sigma, 30, 6, width, 1)) for width in (0.3, 0.7, 1.5)
    ]
    assert reached == sorted(reached, reverse=True)
    assert reached[0] > reached[-1] > 0


@pytest.mark.parametrize("lag", [1, 3])
def test_labels_read_the_bars_they_say_and_no_others(lag):
    prices, sigma = market(4, n_bars=60, missing=0)
    t, bars = 25, 6
    first, last = t + lag - 1, t + lag - 1 + bars

    def labels(p, s=sigma):
        targets = scaled_targets(p, s, [Horizon(30, bars, "30m")], lag)[t]
        return np.concatenate([targets, barrier_labels(p, s, 30, bars, 0.5, lag)[t]], axis=1)

    usual = labels(prices)
    assert np.isfinite(usual).all()
    for inside in (True, False):
        changed = prices.copy()
        chosen = np.zeros(60, dtype=bool)
        chosen[first : last + 1] = True
        changed[chosen == inside] *= np.linspace(0.5, 2, (chosen == inside).sum())[:, None]
        assert np.array_equal(labels(changed), usual) != inside
    wild = sigma.copy()
    wild[:t], wild[t + 1 :] = 1.0, 99.0
    np.testing.assert_array_equal(labels(prices, wild), usual)


def test_the_ends_of_the_label_are_read():
    prices, sigma = market(5, n_bars=20, missing=0)
    for bar in (7, 10):
        changed = prices.copy()
        changed[bar] *= 1.5
        assert (forward_returns(changed, 3, 3)[5] != forward_returns(prices, 3, 3)[5]).all()
        assert (
            barrier_labels(changed, sigma, 15, 3, 1.0, 3)[5]
            != barrier_labels(prices, sigma, 15, 3, 1.0, 3)[5]
        ).any()


def test_cutting_the_future_off_changes_no_earlier_label():
    prices, sigma = market(6)
    whole = barrier_labels(prices, sigma, 20, 4, 0.5, 2)
    cut = barrier_labels(prices[:50], sigma[:50], 20, 4, 0.5, 2)
    np.testing.assert_array_equal(cut[: 50 - 5], whole[: 50 - 5])
    assert np.isnan(cut[50 - 5 :]).all()


def test_refusals():
    prices, sigma = market(7, missing=0)
    with pytest.raises(ConfigError, match="lag 0"):
        forward_returns(prices, 1, 0)
    with pytest.raises(ConfigError, match="width 0"):
        barrier_labels(prices, sigma, 30, 6, 0, 1)
    prices[3, 1] = 0
    with pytest.raises(DataError, match="bar 3, column 1"):
        scaled_targets(prices, sigma, HORIZONS, 1)
