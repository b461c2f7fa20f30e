"""Information coefficients against scipy, and their errors against simulated truth."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from dpa.errors import ConfigError, DataError
from dpa.validation.information import (
    cross_sectional_ic,
    ic_by_month,
    mean_ic,
    newey_west_se,
    overlap_lags,
    pooled_ic,
)


def slow_ic(forecast, outcome, least):
    out = []
    for first, second in zip(forecast, outcome, strict=True):
        both = np.isfinite(first) & np.isfinite(second)
        first, second = first[both], second[both]
        flat = len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0
        out.append(
            np.nan if len(first) < least or flat else stats.spearmanr(first, second).statistic
        )
    return np.array(out)


def test_ic_is_that_of_scipy_with_gaps_and_ties():
    rng = np.random.default_rng(0)
    forecast, outcome = rng.normal(size=(2, 300, 12)).round(1)
    for side in (forecast, outcome):
        side[rng.random(side.shape) < 0.3] = np.nan
    forecast[3, 0] = np.inf
    forecast[7] = 1.0
    outcome[8, :] = np.nan
    found = cross_sectional_ic(forecast, outcome, least=6)
    np.testing.assert_allclose(found, slow_ic(forecast, outcome, 6), atol=1e-12)
    assert np.isnan(found[[7, 8]]).all()
    assert np.isnan(found).sum() > 2  # some bars have too few names


@settings(deadline=None)
@given(
    arrays.arrays(
        np.float64, (2, 3, 7), elements=st.sampled_from([np.nan, -1.0, 0.0, 0.5, 1.0, 2.0])
    )
)
def test_ic_is_that_of_scipy_everywhere(pair):
    found = cross_sectional_ic(*pair, least=2)
    np.testing.assert_allclose(found, slow_ic(*pair, 2), atol=1e-12)


def test_ic_by_hand():
    forecast = np.array([[1.0, 2, 3, 4, 5], [5, 4, 3, 2, 1], [1, 2, 3, 4, np.nan]])
    outcome = np.array([[10.0, 20, 30, 40, 50]] * 3)
    np.testing.assert_array_equal(cross_sectional_ic(forecast, outcome), [1.0, -1.0, np.nan])


def test_ic_does_not_depend_on_how_rows_are_cut(monkeypatch):
    rng = np.random.default_rng(1)
    forecast, outcome = rng.normal(size=(2, 50, 8))
    whole = cross_sectional_ic(forecast, outcome)
    monkeypatch.setattr("dpa.validation.information.ROWS_AT_ONCE", 24)
    np.testing.assert_array_equal(cross_sectional_ic(forecast, outcome), whole)
    np.testing.assert_array_equal(cross_sectional_ic(forecast[:9], outcome[:9]), whole[:9])


@pytest.mark.parametrize("bad", [np.zeros(3), np.zeros((2, 4))])
def test_shapes_that_do_not_fit_are_refused(bad):
    with pytest.raises(DataError, match="shape"):
        cross_sectional_ic(np.zeros((2, 3)), bad)
    with pytest.raises(DataError, match="shape"):
        pooled_ic(np.zeros((2, 3)), bad, 1)


# --- the error -------------------------------------------------------------------------------


def slow_newey_west(values, lags):
    """statsmodels' OLS on a constant with cov_type="HAC", use_correction=False, term by term."""
    n = len(values)
    e = values - values.mean()
    s = sum(e[t] * e[t] for t in range(n)) / n
    for lag in range(1, lags + 1):
        gamma = sum(e[t] * e[t - lag] for t in range(lag, n)) / n
        s += 2 * (1 - lag / (lags + 1)) * gamma
    return np.sqrt(s / n)


@pytest.mark.parametrize("lags", [0, 1, 5, 30])
def test_newey_west_is_the_textbook_formula(lags):
    values = np.random.default_rng(3).normal(size=40).cumsum() * 0.1
    assert newey_west_se(values, lags) == pytest.approx(slow_newey_west(values, lags), rel=1e-12)


def test_newey_west_by_hand():
    # e = -1, 0, 1: (2 + 2 * 1/2 * (0 + 0)) / 9 with one lag; two lags: (2 + 2 * 1/3 * -1) / 9
    values = np.array([1.0, 2, 3])
    assert newey_west_se(values, 1) == pytest.approx(np.sqrt(2) / 3)
    assert newey_west_se(values, 2) == pytest.approx(np.sqrt(4 / 3) / 3)


def test_without_lags_it_is_the_usual_error():
    values = np.random.default_rng(4).normal(size=500)
    assert newey_west_se(values, 0) == pytest.approx(values.std() / np.sqrt(500))


def test_gaps_keep_their_distance():
    # with 1 lag the two values around a gap are not neighbours; squeezed together they were
    values = np.array([1.0, np.nan, 3.0])
    assert newey_west_se(values, 1) == pytest.approx(np.sqrt(2) / 2)
    assert newey_west_se(values[[0, 2]], 1) == pytest.approx(np.sqrt(1) / 2)
    assert np.isnan(newey_west_se([np.nan, 1.0], 0))


def test_refusals():
    with pytest.raises(ConfigError, match="lags -1"):
        newey_west_se(np.arange(9.0), -1)
    with pytest.raises(ConfigError, match="overlap 0"):
        mean_ic(np.arange(9.0), 0)
    with pytest.raises(DataError, match="shape"):
        mean_ic(np.zeros((3, 3)), 1)


def test_lags_grow_with_the_overlap_and_never_fall_below_the_floor():
    assert overlap_lags(1, 100) == 4
    assert overlap_lags(12, 10_000) == 36
    assert overlap_lags(2, 10_000) == 11


def test_too_short_a_series_has_no_error():
    assert np.isnan(mean_ic(np.arange(39.0), 10).se)
    assert np.isfinite(mean_ic(np.arange(40.0), 10).se)
    nothing = mean_ic(np.full(5, np.nan), 1)
    assert np.isnan([nothing.ic, nothing.se, nothing.t]).all()
    assert nothing.n_bars == 0


def overlapping_labels(rng, n_bars, n_names, overlap):
    noise = rng.normal(size=(n_bars + overlap - 1, n_names)).cumsum(axis=0)
    noise = np.concatenate([np.zeros((1, n_names)), noise])
    return noise[overlap:] - noise[:-overlap]


def test_what_the_estimated_mean_took_away_is_given_back():
    values = np.random.default_rng(14).normal(size=60)
    values[20:25] = np.nan
    known = np.flatnonzero(np.isfinite(values))
    lags = overlap_lags(3, len(known))
    weights = np.maximum(1 - np.abs(known[:, None] - known) / (lags + 1), 0)
    taken = weights.sum() / len(known) ** 2  # variance of the mean of equal shocks of size 1
    expected = newey_west_se(values, lags) / np.sqrt(1 - taken)
    assert taken > 0.1
    assert mean_ic(values, 3).se == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("overlap", "n_bars"), [(1, 400), (12, 2000), (78, 6000)])
@pytest.mark.parametrize("persistent", [True, False])
def test_two_errors_cover_noise(overlap, n_bars, persistent):
    rng = np.random.default_rng(overlap)
    seeds, inside, errors, found = 120, 0, [], []
    for _ in range(seeds):
        outcome = overlapping_labels(rng, n_bars, 6, overlap)
        forecast = rng.normal(size=(1 if persistent else n_bars, 6))
        forecast = np.broadcast_to(forecast, outcome.shape)
        estimate = mean_ic(cross_sectional_ic(forecast, outcome), overlap)
        inside += abs(estimate.ic) < 2 * estimate.se
        errors.append(estimate.se)
        found.append(estimate.ic)
    assert 0.90 <= inside / seeds <= 0.99
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.2)


@pytest.mark.parametrize("overlap", [1, 12, 78])
def test_two_errors_cover_many_series_of_overlapping_sums(overlap):
    rng = np.random.default_rng(5)
    series = overlapping_labels(rng, max(60 * overlap, 500), 300, overlap)
    estimates = [mean_ic(column, overlap) for column in series.T]
    inside = np.mean([abs(found.t) < 2 for found in estimates])
    assert 0.90 <= inside <= 0.99
    truth = np.std([found.ic for found in estimates])
    assert np.mean([found.se for found in estimates]) == pytest.approx(truth, rel=0.1)


def test_a_bandwidth_of_one_label_would_cover_too_little():
    series = overlapping_labels(np.random.default_rng(6), 3000, 300, 48)
    truth = series.mean(axis=0).std()
    plain = np.mean([newey_west_se(column, 48) for column in series.T])
    wide = np.mean([mean_ic(column, 48).se for column in series.T])
    assert plain / truth < 0.85
    assert wide / truth > 0.90


def test_effective_bars_are_those_of_independent_labels():
    rng = np.random.default_rng(7)
    found = mean_ic(overlapping_labels(rng, 20_000, 1, 20)[:, 0], 20)
    assert found.n_bars == 20_000
    assert 600 < found.n_effective < 1600  # 20,000 / 20 = 1,000
    independent = mean_ic(rng.normal(size=5000), 1)
    assert 3500 < independent.n_effective <= 5000


def test_bars_left_out_keep_their_place():
    rng = np.random.default_rng(8)
    series = overlapping_labels(rng, 4000, 200, 12)
    series[rng.random(len(series)) < 0.5] = np.nan
    estimates = [mean_ic(column, 12) for column in series.T]
    assert 0.90 <= np.mean([abs(found.t) < 2 for found in estimates]) <= 0.99


# --- pooled ----------------------------------------------------------------------------------


def test_pooled_ic_is_that_of_scipy():
    rng = np.random.default_rng(9)
    forecast = rng.normal(size=(80, 5)).round(1)
    outcome = forecast + rng.normal(size=(80, 5)).round(1)
    outcome[rng.random(outcome.shape) < 0.2] = np.nan
    known = np.isfinite(outcome)
    expected = stats.spearmanr(forecast[known], outcome[known]).statistic
    assert pooled_ic(forecast, outcome, 1).ic == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_pooled_error_is_the_spread_over_samples(rho):
    rng = np.random.default_rng(10)
    estimates = []
    for _ in range(300):
        forecast, noise = rng.normal(size=(2, 300, 2))
        estimates.append(pooled_ic(forecast, rho * forecast + np.sqrt(1 - rho**2) * noise, 1))
    truth = np.std([found.ic for found in estimates])
    assert np.mean([found.se for found in estimates]) == pytest.approx(truth, rel=0.1)


def test_pooled_error_knows_that_names_move_together_and_labels_overlap():
    rng = np.random.default_rng(11)
    estimates = []
    for _ in range(150):
        market = overlapping_labels(rng, 1200, 1, 12)
        outcome = market + 0.5 * overlapping_labels(rng, 1200, 4, 12)
        forecast = overlapping_labels(rng, 1200, 1, 12) + rng.normal(size=(1200, 4))
        estimates.append(pooled_ic(forecast, outcome, 12))
    assert 0.88 <= np.mean([abs(found.t) < 2 for found in estimates]) <= 0.99


def test_pooled_ic_of_nothing_is_missing():
    nothing = pooled_ic(np.full((3, 2), np.nan), np.zeros((3, 2)), 1)
    assert np.isnan(nothing.ic)
    assert nothing.n_bars == 0
    assert np.isnan(pooled_ic(np.ones((3, 2)), np.arange(6.0).reshape(3, 2), 1).ic)


# --- months ----------------------------------------------------------------------------------


def test_months_are_means_of_their_bars():
    times = pd.date_range("2024-01-30", periods=40, freq="D", tz="UTC")
    series = np.random.default_rng(12).normal(size=40)
    series[:2] = np.nan
    table = ic_by_month(series, times, 1)
    assert table["month"].tolist() == ["2024-02", "2024-03"]
    assert table["ic"].tolist() == pytest.approx([series[2:31].mean(), series[31:].mean()])
    assert table["se"].tolist() == [mean_ic(series[2:31], 1).se, mean_ic(series[31:], 1).se]
    assert table["n_bars"].tolist() == [29, 9]


def test_months_keep_their_gaps():
    times = pd.date_range("2024-02-01", periods=20, freq="D", tz="UTC")
    series = np.random.default_rng(13).normal(size=20).cumsum()
    gap = series.copy()
    gap[5:15] = np.nan
    unknown = times.where(np.isfinite(gap))
    assert ic_by_month(gap, unknown, 1)["se"].tolist() == [mean_ic(gap, 1).se]
    with pytest.raises(DataError, match="19"):
        ic_by_month(series[:19], times, 1)
