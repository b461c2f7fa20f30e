"""The backtest against hand-computed bars and a slow simulator that holds shares and cash."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.config import CostConfig
from dpa.errors import DataError, DpaError
from dpa.market.costs import CostModel
from dpa.market.panel import Panel
from dpa.research.backtest import ADV_BARS, Backtest, BacktestState

FREE = CostConfig(
    half_spread_bps=0.0, commission_bps=0.0, impact_coefficient=0.0, borrow_bps_per_year=0.0
)


def make_panel(prices, dollar_volume=None, interval="1d", times=None):
    prices = np.asarray(prices, dtype=float)
    if times is None:
        times = pd.date_range("2020-01-01", periods=len(prices), freq="D", tz="UTC")
    names = tuple(f"N{i}" for i in range(prices.shape[1]))
    return Panel(times, names, prices, np.isfinite(prices), interval, "XNYS", dollar_volume)


def backtest(costs=FREE, lag=1):
    return Backtest(CostModel(costs), "XNYS", "1d", lag)


def random_market(seed, n_bars=40, n_assets=4, missing=0.1):
    rng = np.random.default_rng(seed)
    prices = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, (n_bars, n_assets)), axis=0))
    prices[rng.random(prices.shape) < missing] = np.nan
    volume = rng.uniform(1e6, 1e8, prices.shape)
    volume[rng.random(prices.shape) < 0.2] = np.nan
    gaps = pd.to_timedelta(np.cumsum(rng.integers(1, 5, n_bars)), unit="D")
    times = pd.DatetimeIndex(pd.Timestamp("2020-01-01", tz="UTC") + gaps)
    weights = rng.normal(0, 0.2, prices.shape)
    weights[np.isnan(prices)] = 0.0
    return make_panel(prices, volume, times=times), weights, rng


def slow_simulation(panel, weights, costs, lag, rebalance, last_bar, liquidate):
    """NAV path of a book of shares and cash in plain Python, one trade at a time."""
    n_bars, n_assets = panel.prices.shape
    shares, cash = [0.0] * n_assets, 1.0
    mark, navs, turnovers = [math.nan] * n_assets, [], []
    short_value = 0.0
    returns_seen = [[] for _ in range(n_assets)]
    for t in range(n_bars):
        price = [float(p) for p in panel.prices[t]]
        if t:
            days = (panel.times[t] - panel.times[t - 1]).total_seconds() / 86_400
            cash -= short_value * costs.borrow_bps_per_year / 1e4 * days / 365.2425
        fresh_return = [math.nan] * n_assets
        for i in range(n_assets):
            if last_bar is not None and t > last_bar[i]:
                if shares[i]:
                    cash += shares[i] * mark[i] * (1 + costs.delisting_return)
                    shares[i] = 0.0
            elif not math.isnan(price[i]):
                fresh_return[i] = price[i] / mark[i] - 1
                mark[i] = price[i]
        nav = cash + sum(shares[i] * mark[i] for i in range(n_assets) if shares[i])
        decided = t - lag + 1
        order = weights[decided] if decided >= 0 and rebalance[decided] else None
        closing = liquidate and t == n_bars - 1
        turnover, fees = 0.0, 0.0
        for i in range(n_assets):
            if not closing and (order is None or math.isnan(price[i])):
                continue
            held = shares[i] * mark[i] if shares[i] else 0.0
            value = (0.0 if closing else float(order[i]) * nav) - held
            turnover += abs(value) / nav
            fees += abs(value) * (costs.half_spread_bps + costs.commission_bps) / 1e4
            fees += abs(value) * slow_impact(panel, t, i, value, costs, returns_seen[i])
            if value:
                shares[i] = 0.0 if closing else shares[i] + value / mark[i]
                cash -= value
        cash -= fees
        for i in range(n_assets):
            if not math.isnan(fresh_return[i]):
                returns_seen[i].append(fresh_return[i])
        values = [shares[i] * mark[i] for i in range(n_assets) if shares[i]]
        navs.append(cash + sum(values))
        turnovers.append(turnover)
        short_value = sum(-value for value in values if value < 0)
    return np.array(navs), np.array(turnovers)


def slow_impact(panel, t, i, value, costs, returns_seen):
    """Fraction of the traded value lost to impact, from the whole history each time."""
    if panel.dollar_volume is None or not returns_seen:
        return 0.0
    past = [v for v in panel.dollar_volume[max(0, t - ADV_BARS) : t, i] if not math.isnan(v)]
    if not past:
        return 0.0
    decay = 1 - 2 / (ADV_BARS + 1)
    variance = returns_seen[0] ** 2
    for r in returns_seen[1:]:
        variance = decay * variance + (1 - decay) * r * r
    participation = abs(value) * costs.nav_usd / (sum(past) / len(past))
    return costs.impact_coefficient * math.sqrt(variance) * math.sqrt(participation)


def test_three_bars_by_hand():
    prices = [[100.0, 50.0], [110.0, 45.0], [110.0, 54.0]]
    weights = np.array([[0.5, -0.5], [0.5, -0.5], [0.0, 0.0]])
    costs = CostConfig(
        half_spread_bps=8.0,
        commission_bps=2.0,
        impact_coefficient=0.0,
        borrow_bps_per_year=36524.25,
    )
    result, state = backtest(costs).run(weights, make_panel(prices))
    # bar 0: buy 0.5, sell 0.5, 10 bps of 1.0
    nav0 = 1 - 0.001
    long0, short0 = 0.5 / nav0, -0.5 / nav0
    # bar 1: +10 % long, -10 % short; a day of borrow at 365.2425 % a year is 1 % of the short
    gross1 = long0 * 0.1 + short0 * -0.1
    borrow1 = 0.01 * 0.5 / nav0
    growth1 = 1 + gross1 - borrow1
    turnover1 = abs(0.5 - long0 * 1.1 / growth1) + abs(-0.5 - short0 * 0.9 / growth1)
    cost1 = turnover1 * 0.001
    # bar 2: long flat, short loses 20 %; everything is sold
    long1, short1 = 0.5 / (1 - cost1), -0.5 / (1 - cost1)
    gross2 = short1 * 0.2
    growth2 = 1 + gross2 + 0.01 * short1
    turnover2 = (long1 + abs(short1) * 1.2) / growth2
    np.testing.assert_allclose(result.gross, [0.0, gross1, gross2], rtol=1e-14)
    np.testing.assert_allclose(result.turnover, [1.0, turnover1, turnover2], rtol=1e-14)
    np.testing.assert_allclose(result.borrow, [0.0, borrow1, -0.01 * short1], rtol=1e-12)
    np.testing.assert_allclose(result.spread[1], turnover1 * 0.0008 * growth1, rtol=1e-13)
    np.testing.assert_allclose(result.commission[1], turnover1 * 0.0002 * growth1, rtol=1e-13)
    nav = nav0 * growth1 * (1 - cost1) * growth2 * (1 - turnover2 * 0.001)
    assert state.nav == pytest.approx(nav, rel=1e-14)
    np.testing.assert_array_equal(state.holdings, [0.0, 0.0])


@pytest.mark.parametrize("lag", [1, 2, 4])
def test_first_return_comes_execution_lag_bars_after_the_decision(lag):
    prices = np.full((8, 1), 100.0)
    decided = 1
    prices[decided + lag :] = 110.0  # the one bar with a return
    weights = np.zeros((8, 1))
    weights[decided] = 1.0
    result, _ = backtest(lag=lag).run(weights, make_panel(prices))
    expected = np.zeros(8)
    expected[decided + lag] = 0.1
    np.testing.assert_allclose(result.gross, expected, atol=1e-15)
    assert np.flatnonzero(result.turnover)[0] == decided + lag - 1


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    lag=st.integers(1, 3),
    liquidate=st.booleans(),
    delisted=st.booleans(),
)
def test_agrees_with_a_slow_book_of_shares_and_cash(seed, lag, liquidate, delisted):
    panel, weights, rng = random_market(seed)
    costs = CostConfig(borrow_bps_per_year=300.0, delisting_return=-0.3)
    last_bar = None
    if delisted:
        prices = panel.prices.copy()
        prices[25:, 1] = np.nan
        panel = make_panel(prices, panel.dollar_volume, times=panel.times)
        weights[25:, 1] = 0.0
        last_bar = np.array([np.flatnonzero(np.isfinite(column))[-1] for column in panel.prices.T])
    rebalance = rng.random(panel.n_bars) < 0.8
    result, state = backtest(costs, lag).run(
        weights, panel, rebalance=rebalance, last_bar=last_bar, liquidate=liquidate
    )
    navs, turnovers = slow_simulation(panel, weights, costs, lag, rebalance, last_bar, liquidate)
    np.testing.assert_allclose(np.cumprod(1 + result.net), navs, rtol=1e-12)
    np.testing.assert_allclose(result.turnover, turnovers, rtol=1e-10, atol=1e-12)
    assert state.nav == pytest.approx(navs[-1], rel=1e-12)
    total = result.spread + result.commission + result.impact + result.borrow
    np.testing.assert_allclose(result.net, result.gross - total, atol=1e-15)
    assert min(result.spread.min(), result.impact.min(), result.borrow.min()) >= 0
    assert result.impact.sum() > 0


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    lag=st.integers(1, 3),
    cuts=st.lists(st.integers(0, 90), max_size=4),
)
def test_cutting_the_run_into_stretches_changes_no_bit(seed, lag, cuts):
    panel, weights, _ = random_market(seed, n_bars=90)
    last_bar = np.array([np.flatnonzero(np.isfinite(column))[-1] for column in panel.prices.T])
    run = backtest(CostConfig(), lag)
    whole, final = run.run(weights, panel, last_bar=last_bar)
    state, pieces = None, []
    edges = [0, *sorted(cuts), 90]
    for start, stop in itertools.pairwise(edges):
        part, state = run.run(
            weights[start:stop], panel.window(start, stop), state,
            last_bar=last_bar, first_bar=start,
        )  # fmt: skip
        state = BacktestState.from_arrays(state.to_arrays())
        pieces.append(part.frame())
    pd.testing.assert_frame_equal(
        pd.concat(pieces), whole.frame(), check_exact=True, check_freq=False
    )
    for name, array in final.to_arrays().items():
        np.testing.assert_array_equal(array, state.to_arrays()[name])


def test_state_survives_a_file(tmp_path):
    panel, weights, _ = random_market(3, n_bars=70)
    _, state = backtest(lag=3).run(weights, panel)
    np.savez(tmp_path / "state.npz", **state.to_arrays())
    with np.load(tmp_path / "state.npz", allow_pickle=False) as stored:
        again = BacktestState.from_arrays(dict(stored))
    for name, array in state.to_arrays().items():
        np.testing.assert_array_equal(array, again.to_arrays()[name])


def test_buy_and_hold_never_trades_again():
    panel, _, _ = random_market(5, missing=0.0)
    weights = np.full(panel.prices.shape, 0.25)
    once = np.arange(panel.n_bars) == 0
    result, state = backtest(CostConfig()).run(weights, panel, rebalance=once)
    assert result.turnover[0] == pytest.approx(1.0)
    np.testing.assert_array_equal(result.turnover[1:], 0.0)
    growth = panel.prices[-1] / panel.prices[0]
    assert state.nav == pytest.approx((1 - 5e-4) * (1 + (growth - 1).mean() / (1 - 5e-4)))


def test_drift_is_paid_for():
    prices = [[100.0, 100.0], [120.0, 100.0]]
    weights = np.full((2, 2), 0.5)
    result, _ = backtest().run(weights, make_panel(prices))
    # 0.5 has grown to 0.6 of 1.1: 0.5454..., so 0.04545... is sold and as much bought
    assert result.turnover[1] == pytest.approx(2 * (0.6 / 1.1 - 0.5))


def test_a_suspended_holding_is_frozen_and_marked_when_a_price_returns():
    nan = math.nan
    prices = [[100.0], [nan], [nan], [80.0], [80.0]]
    weights = np.array([[1.0], [0.0], [0.0], [0.0], [0.0]])
    result, _ = backtest().run(weights, make_panel(prices))
    np.testing.assert_allclose(result.gross, [0.0, 0.0, 0.0, -0.2, 0.0])
    np.testing.assert_allclose(result.gross_exposure, [1.0, 1.0, 1.0, 0.0, 0.0])


@pytest.mark.parametrize("delisting_return", [-1.0, -0.3, 0.0])
def test_delisting_pays_out_once_without_a_trade(delisting_return):
    nan = math.nan
    prices = [[100.0, 10.0], [100.0, 10.0], [nan, 10.0], [nan, 10.0]]
    weights = np.array([[0.5, 0.0], [0.5, 0.0], [0.0, 0.0], [0.0, 0.0]])
    costs = FREE.model_copy(update={"delisting_return": delisting_return})
    result, state = backtest(costs).run(
        weights, make_panel(prices), last_bar=np.array([11, 13]), first_bar=10
    )
    np.testing.assert_allclose(result.gross, [0.0, 0.0, 0.5 * delisting_return, 0.0])
    np.testing.assert_allclose(result.turnover, [0.5, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(state.holdings, [0.0, 0.0])


def test_liquidation_closes_what_cannot_trade_and_drops_pending_orders():
    nan = math.nan
    prices = [[100.0, 10.0], [100.0, 10.0], [nan, 10.0]]
    weights = np.array([[0.5, -0.5], [0.5, -0.5], [0.0, -0.5]])
    costs = CostConfig(half_spread_bps=10.0, commission_bps=0.0, borrow_bps_per_year=0.0)
    result, state = backtest(costs, lag=2).run(weights, make_panel(prices), liquidate=True)
    assert result.turnover[-1] == pytest.approx(1.0 / (1 - 1e-3), rel=1e-9)
    assert result.gross_exposure[-1] == 0.0
    assert np.isnan(state.pending).all()


def test_warm_up_makes_impact_known_at_the_first_trade():
    panel, weights, _ = random_market(8, n_bars=60, missing=0.0)
    run = backtest(CostConfig())
    cold, _ = run.run(weights[30:], panel.window(30, 60))
    warm, _ = run.run(weights[30:], panel.window(30, 60), run.warm_up(panel.window(0, 30)))
    assert cold.impact[0] == 0.0
    assert warm.impact[0] > 0.0
    assert warm.times.equals(cold.times)


def test_impact_is_the_square_root_law_of_a_day():
    n_bars = 100
    prices = 100 * 1.01 ** (np.arange(n_bars)[:, None] % 2)
    volume = np.full((n_bars, 1), 2e6)
    weights = np.zeros((n_bars, 1))
    weights[-1] = 0.1
    result, _ = backtest(CostConfig(nav_usd=1e6)).run(weights, make_panel(prices, volume))
    sigma = 0.01  # of a price that moves 1 % each day, up and down in turn
    expected = sigma * math.sqrt(0.1 * 1e6 / 2e6) * 0.1
    assert result.impact[-1] == pytest.approx(expected, rel=0.02)


def test_net_exposure_is_signed():
    result, _ = backtest().run(np.array([[0.3, -0.5]]), make_panel([[1.0, 1.0]]))
    assert result.gross_exposure[0] == pytest.approx(0.8)
    assert result.net_exposure[0] == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([[0.1, 0.0], [math.nan, 0.0]], "N0 at 2020-01-02.*is not finite"),
        ([[0.1, 0.0], [math.inf, 0.0]], "is not finite"),
        ([[0.1, 0.0], [0.0, 0.2]], "weight 0.2 of N1 .*without a price"),
        ([[0.1, 0.0]], "weights"),
    ],
)
def test_impossible_weights_are_refused(weights, message):
    panel = make_panel([[1.0, 1.0], [1.0, math.nan]])
    with pytest.raises(DataError, match=message):
        backtest().run(np.array(weights), panel)


def test_a_wrong_rebalance_mask_is_refused():
    with pytest.raises(DataError, match="rebalance"):
        backtest().run(np.zeros((1, 1)), make_panel([[1.0]]), rebalance=np.ones(2, dtype=bool))


def test_execution_lag_below_one_is_refused():
    with pytest.raises(DataError, match="execution_lag"):
        backtest(lag=0)


def test_losing_everything_is_an_error_not_a_negative_value():
    with pytest.raises(DpaError, match="lost all its value"):
        backtest().run(np.array([[-1.0], [0.0]]), make_panel([[1.0], [3.0]]))


def test_no_bars_is_no_change():
    panel, weights, _ = random_market(1)
    run = backtest(lag=2)
    _, state = run.run(weights, panel)
    result, after = run.run(weights[:0], panel.window(0, 0), state)
    assert len(result.net) == 0
    assert after.nav == state.nav
    np.testing.assert_array_equal(after.pending, state.pending)
