"""The yardstick: what a fixed rule with the true labels earns."""

import numpy as np
import pytest

from dpa.errors import ConfigError
from dpa.simulation.oracle import (
    net_returns,
    residual_returns,
    s_scores,
    true_label_weights,
    tuned_oracle,
)
from dpa.simulation.planted import PlantedMarket, simulate


@pytest.fixture(scope="module")
def ragged():
    config = PlantedMarket(
        n_clusters=2,
        names_per_cluster=3,
        n_bars=120,
        late_listings=0.4,
        delistings=0.4,
        regime_change_bar=60,
    )
    return simulate(config, 3)


def test_tuned_oracle_earns_about_ten_at_ten_bps():
    sharpes = [tuned_oracle(simulate(PlantedMarket(), seed), 252).net_sharpe for seed in range(6)]
    assert np.mean(sharpes) == pytest.approx(10.5, abs=0.75)
    assert min(sharpes) > 8
    assert max(sharpes) < 12


def test_there_is_nothing_to_earn_without_a_residual():
    market = PlantedMarket(residual_volatility=0.0, noise=0.015)
    sharpes = [tuned_oracle(simulate(market, seed), 252).net_sharpe for seed in range(3)]
    assert max(sharpes) < 0


def test_residual_is_the_return_less_the_mean_of_the_other_members(ragged):
    returns, labels = ragged.panel.returns(), ragged.labels
    fast = residual_returns(ragged.panel, labels)
    for bar in range(ragged.panel.n_bars):
        for name in range(ragged.panel.n_assets):
            peers = [
                returns[bar, other]
                for other in range(ragged.panel.n_assets)
                if other != name
                and labels[bar, other] == labels[bar, name] >= 0
                and np.isfinite(returns[bar, other])
            ]
            if np.isfinite(returns[bar, name]) and peers:
                expected = returns[bar, name] - np.mean(peers)
                assert fast[bar, name] == pytest.approx(expected, abs=1e-15)
            else:
                assert np.isnan(fast[bar, name])


def test_s_score_is_the_standardised_last_level_of_a_full_window(ragged):
    window = 20
    residual = residual_returns(ragged.panel, ragged.labels)
    scores = s_scores(ragged.panel, ragged.labels, window)
    checked = 0
    for bar in range(ragged.panel.n_bars):
        for name in range(ragged.panel.n_assets):
            last = residual[max(0, bar - window + 1) : bar + 1, name]
            if len(last) < window or np.isnan(last).any():
                assert np.isnan(scores[bar, name])
                continue
            level = np.cumsum(last)
            expected = (level[-1] - level.mean()) / level.std(ddof=1)
            assert scores[bar, name] == pytest.approx(expected, rel=1e-6)
            checked += 1
    assert checked > 100


@pytest.mark.parametrize("band", [None, (1.0, 0.5)])
def test_weights_have_gross_one_or_zero_and_stay_inside_the_mask(ragged, band):
    weights = true_label_weights(ragged, 20, band)
    gross = np.abs(weights).sum(axis=1)
    assert (np.isclose(gross, 1) | (gross == 0)).all()
    assert (gross > 0).any()
    assert (weights[~ragged.panel.mask] == 0).all()


def test_banded_positions_open_beyond_entry_and_close_inside_exit(ragged):
    scores = s_scores(ragged.panel, ragged.labels, 20)
    sides = np.sign(true_label_weights(ragged, 20, (1.0, 0.5)))
    side = np.zeros(ragged.panel.n_assets)
    for bar in range(ragged.panel.n_bars):
        for name in range(ragged.panel.n_assets):
            score = scores[bar, name]
            if np.isnan(score) or abs(score) < 0.5 or score * side[name] > 0:
                side[name] = 0
            if abs(score) > 1.0:
                side[name] = -np.sign(score)
        np.testing.assert_array_equal(sides[bar], side)


def test_net_return_by_hand():
    planted = simulate(
        PlantedMarket(n_clusters=1, names_per_cluster=2, n_bars=3, residual_volatility=0.01), 0
    )
    prices = planted.panel.prices
    weights = np.array([[0.5, -0.5], [0.5, -0.5], [0.0, 0.0]])
    first, second = prices[1] / prices[0] - 1, prices[2] / prices[1] - 1
    growth = 1 + weights[0] @ first
    rebalanced = np.abs(weights[1] - weights[0] * (1 + first) / growth).sum()
    closed = np.abs(weights[1] * (1 + second) / (1 + weights[1] @ second)).sum()
    np.testing.assert_allclose(
        net_returns(planted.panel, weights, cost_bps=10.0),
        [
            -1.0 * 0.001,
            weights[0] @ first - rebalanced * 0.001,
            weights[1] @ second - closed * 0.001,
        ],
        rtol=1e-12,
    )


@pytest.mark.parametrize(("window", "band"), [(1, None), (20, (0.5, 0.5)), (20, (1.0, -0.1))])
def test_bad_rules_are_refused(ragged, window, band):
    with pytest.raises(ConfigError):
        true_label_weights(ragged, window, band)
