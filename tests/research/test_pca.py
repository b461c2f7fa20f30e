"""The PCA baseline against slow textbook versions of each step, and against its own future."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from dpa.config import ClusterConfig
from dpa.research.pca import (
    EXPLAINED,
    MOST_FACTORS,
    Lengths,
    PcaScore,
    eigenportfolios,
    next_positions,
    s_scores,
)
from dpa.simulation.planted import PlantedMarket, simulate
from dpa.validation.truncation import assert_past_only


def factor_returns(seed, n_bars, n_names, n_factors=3):
    rng = np.random.default_rng(seed)
    factors = rng.normal(0, 0.01, (n_bars, n_factors))
    loadings = rng.normal(1, 0.5, (n_factors, n_names))
    return factors @ loadings + rng.normal(0, 0.01, (n_bars, n_names))


@pytest.mark.parametrize(("n_bars", "n_names"), [(100, 20), (60, 150)])
def test_eigenportfolios_are_those_of_the_correlation_matrix(n_bars, n_names):
    returns = factor_returns(1, n_bars, n_names)
    weights = eigenportfolios(returns)
    volatility = returns.std(axis=0, ddof=1)
    scaled = (returns - returns.mean(axis=0)) / volatility
    oracle = PCA(svd_solver="full").fit(scaled)
    count = int(np.searchsorted(np.cumsum(oracle.explained_variance_ratio_), EXPLAINED)) + 1
    assert weights.shape == (n_names, min(count, MOST_FACTORS))
    vectors = weights * volatility[:, None]
    for found, expected in zip(vectors.T, oracle.components_, strict=False):
        assert abs(found @ expected) == pytest.approx(1.0, abs=1e-9)


def test_the_number_of_factors_is_capped():
    returns = np.random.default_rng(0).normal(size=(400, 80))  # no factor explains much
    assert eigenportfolios(returns, most=7).shape[1] == 7


def slow_s_score(returns, factors):
    """One name at a time, with scikit-learn's regressions."""
    fitted = [LinearRegression().fit(factors, column) for column in returns.T]
    levels, speeds = [], []
    scales = []
    for column, line in zip(returns.T, fitted, strict=True):
        path = np.cumsum(column - line.predict(factors))
        step = LinearRegression().fit(path[:-1, None], path[1:])
        b, a = float(step.coef_[0]), float(step.intercept_)
        if not 0 < b < 1:
            levels.append(np.nan), scales.append(np.nan), speeds.append(np.nan)
            continue
        noise = path[1:] - step.predict(path[:-1, None])
        levels.append(a / (1 - b))
        scales.append(np.sqrt(noise.var(ddof=2) / (1 - b * b)))
        speeds.append(-np.log(b))
    levels = np.array(levels) - np.nanmean(levels)
    return -levels / np.array(scales), np.array(speeds)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_s_scores_agree_with_one_regression_at_a_time(seed):
    returns = factor_returns(seed, 60, 12)
    factors = returns @ eigenportfolios(returns)
    s, speed = s_scores(returns, factors)
    expected, expected_speed = slow_s_score(returns, factors)
    np.testing.assert_allclose(s, expected, rtol=1e-8)
    np.testing.assert_allclose(speed, expected_speed, rtol=1e-8)


def test_a_name_pushed_down_scores_low():
    returns = factor_returns(3, 60, 12, n_factors=1)
    factors = returns[:, 1:].mean(axis=1, keepdims=True)
    pushed = returns.copy()
    pushed[-1, 0] -= 0.06
    assert s_scores(pushed, factors)[0][0] < s_scores(returns, factors)[0][0] - 0.5


@pytest.mark.parametrize(
    ("held", "s", "fast", "expected"),
    [
        (0, -1.3, True, 1),
        (0, -1.3, False, 0),  # too slow to open
        (0, 1.3, True, -1),
        (0, 1.2, True, 0),
        (1, -0.6, False, 1),  # a long stays until -0.50, slow or not
        (1, -0.4, True, 0),
        (-1, 0.8, False, -1),  # a short stays until 0.75
        (-1, 0.7, True, 0),
        (1, np.nan, True, 0),
        (1, 1.3, True, -1),  # straight through: turned round
    ],
)
def test_thresholds_are_the_papers(held, s, fast, expected):
    found = next_positions(np.array([held], dtype=np.int8), np.array([s]), np.array([fast]))
    assert found.tolist() == [expected]


@pytest.fixture(scope="module")
def market():
    return simulate(PlantedMarket(n_bars=420), seed=4).panel


def decisions(panel):
    score = PcaScore(ClusterConfig(), Lengths(120, 60), panel.n_assets)
    return score.decide(panel, 150)[0]


def test_decisions_do_not_see_the_future(market):
    def weights(panel):
        return {"weights": np.concatenate([np.zeros((150, panel.n_assets)), decisions(panel)])}

    assert_past_only(weights, market, cuts=(200, 333))


def test_limits_hold_and_members_only_are_held(market):
    config = ClusterConfig(max_leverage=0.5)
    score = PcaScore(config, Lengths(120, 60), market.n_assets)
    weights, rebalance = score.decide(market, 150)
    assert rebalance.all()
    assert np.abs(weights).sum() > 0
    assert np.abs(weights).sum(axis=1).max() <= 0.5 + 1e-12
    np.testing.assert_allclose(weights.sum(axis=1), 0.0, atol=1e-12)
    assert np.abs(weights).max() <= config.name_cap + 1e-12
    assert (weights[~market.mask[150:]] == 0.0).all()


def test_cutting_the_test_span_at_a_refit_changes_nothing(market):
    whole = decisions(market)
    score = PcaScore(ClusterConfig(), Lengths(120, 60), market.n_assets)
    parts = [score.decide(market.window(0, 250), 150)[0], score.decide(market, 250)[0]]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_short_history_and_few_names_hold_nothing_rather_than_fail(market):
    few = simulate(PlantedMarket(n_clusters=1, names_per_cluster=2, n_bars=60), seed=1).panel
    score = PcaScore(ClusterConfig(), Lengths.fitting(40), few.n_assets)
    assert not score.decide(few, 45)[0].any()
    assert Lengths.fitting(30) == Lengths(30, 30)
    assert Lengths.fitting(5000) == Lengths(252, 60)
