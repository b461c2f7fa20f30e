"""What training counts as profit is what the backtest books."""

import numpy as np
import pandas as pd
import pytest
import torch

from dpa.cluster.loss import (
    IMPACT_BARS,
    Outcome,
    Profit,
    annual_sharpe,
    make_outcome,
    profit,
    training_loss,
)
from dpa.config import CostConfig, TrainingConfig
from dpa.market.calendars import SECONDS_PER_YEAR
from dpa.market.costs import CostModel
from dpa.research.backtest import Backtest

BARS, NAMES = 120, 5
FREE = CostConfig(half_spread_bps=0, commission_bps=0, impact_coefficient=0, borrow_bps_per_year=0)


@pytest.fixture
def panel(make_panel, rng):
    return make_panel(100 * np.exp(rng.standard_normal((BARS, NAMES)).cumsum(0) * 0.02))


@pytest.fixture
def weights(rng):
    return rng.uniform(-0.2, 0.2, (BARS, NAMES))


def exact_outcome(panel):
    """In double precision, with the elapsed time the backtest uses."""
    seconds = np.diff(panel.times.as_unit("ns").asi8, prepend=panel.times.as_unit("ns").asi8[0])
    years = torch.from_numpy(seconds / 1e9 / SECONDS_PER_YEAR)
    returns = torch.from_numpy(np.nan_to_num(panel.returns()))
    return Outcome(returns, None, None, years)


@pytest.mark.parametrize("lag", [1, 2, 3])
def test_without_costs_gross_and_turnover_are_the_backtest_s(lag, panel, weights):
    ours = profit(torch.from_numpy(weights), exact_outcome(panel), CostModel(FREE), lag)
    booked, _ = Backtest(CostModel(FREE), "XNYS", "1d", lag).run(weights, panel)
    assert np.allclose(ours.gross, booked.gross, atol=1e-14)
    assert np.allclose(ours.net, booked.net, atol=1e-14)
    # a trade at the close of bar t - 1 is counted with the return of bar t that it earns
    assert np.allclose(ours.turnover[1:], booked.turnover[:-1], atol=1e-14)
    assert not ours.turnover[:lag].any()


@pytest.mark.parametrize("lag", [1, 2, 3])
def test_with_costs_the_nav_before_each_trade_grows_by_our_net_return(lag, panel, weights):
    """Training pays from a purse beside the book, the backtest out of the book's own value.

    The gross return is the backtest's times what its trade left of the NAV, exactly. The net
    return is the growth of the NAV from just before one trade to just before the next, but for
    the drift that costs cause in the holdings: a cost of a cost.
    """
    costs = CostModel(CostConfig(impact_coefficient=0, borrow_bps_per_year=300))
    ours = profit(torch.from_numpy(weights), exact_outcome(panel), costs, lag)
    booked, _ = Backtest(costs, "XNYS", "1d", lag).run(weights, panel)
    growth = 1 + booked.gross - booked.borrow
    left = 1 - (booked.spread + booked.commission) / growth
    assert np.allclose(ours.gross[1:], booked.gross[1:] * left[:-1], atol=1e-14)
    before_trade = left[:-1] * growth[1:] - 1
    paid = (1 - left).max()
    assert 3e-4 < paid < 1e-3
    gap = np.abs(ours.net[1:].numpy() - before_trade).max()
    assert gap < 2 * costs.linear_rate * paid
    wealth = np.prod(1 + ours.net.numpy())
    assert wealth == pytest.approx(np.prod(1 + booked.net[:-1]) * growth[-1], rel=BARS * gap)


def slow_profit(weights, prices, config, lag, years):
    """Shares bought and sold one by one; costs are paid from a purse beside the book."""
    bars, names = prices.shape
    shares, nav, target = np.zeros(names), 1.0, np.zeros(names)
    net, gross, turnover = np.zeros(bars), np.zeros(bars), np.zeros(bars)
    for t in range(bars):
        cost = 0.0
        for i in range(names) if t > 0 else ():
            target[i] = weights[t - lag, i] if t >= lag else 0.0
            wanted = target[i] * nav / prices[t - 1, i]
            value = (wanted - shares[i]) * prices[t - 1, i] / nav
            turnover[t] += abs(value)
            cost += abs(value) * (config.half_spread_bps + config.commission_bps) * 1e-4
            cost += max(-target[i], 0.0) * config.borrow_bps_per_year * 1e-4 * years[t]
            shares[i] = wanted
        if t > 0:
            gross[t] = (shares * (prices[t] - prices[t - 1])).sum() / nav
            nav *= 1.0 + gross[t]
        net[t] = gross[t] - cost
    return net, gross, turnover


@pytest.mark.parametrize("lag", [1, 2, 3])
def test_profit_equals_the_loop_over_shares(lag, panel, weights):
    config = CostConfig(impact_coefficient=0, borrow_bps_per_year=300)
    outcome = exact_outcome(panel)
    ours = profit(torch.from_numpy(weights), outcome, CostModel(config), lag)
    expected = slow_profit(weights, panel.prices, config, lag, outcome.years.numpy())
    for seen, slow in zip((ours.net, ours.gross, ours.turnover), expected, strict=True):
        assert np.allclose(seen, slow, atol=1e-13)


@pytest.mark.parametrize("lag", [1, 2, 3])
def test_the_return_of_a_bar_belongs_to_the_signal_lag_bars_before(lag, panel):
    """A signal at bar 50 alone earns the return of bar 50 + lag, and nothing else."""
    weights = torch.zeros(BARS, NAMES, dtype=torch.float64)
    weights[50, 2] = 0.1
    seen = profit(weights, exact_outcome(panel), CostModel(FREE), lag)
    expected = np.zeros(BARS)
    expected[50 + lag] = 0.1 * panel.returns()[50 + lag, 2]
    assert np.allclose(seen.gross, expected, atol=1e-15)
    assert np.flatnonzero(seen.turnover).tolist() == [50 + lag, 51 + lag]


def test_impact_uses_what_was_known_before_the_trade(make_panel, rng):
    """The trade of row t is made at the close of bar t - 1: bar t - 1 itself is not known yet."""
    prices = 100 * np.exp(rng.standard_normal((200, 3)).cumsum(0) * 0.02)
    volume = rng.uniform(1e6, 2e6, (200, 3))
    volume[:, 2] = np.nan
    panel = make_panel(prices, dollar_volume=volume)
    outcome = make_outcome(panel, 252.0, bars_per_session=4.0)
    backtest = Backtest(CostModel(CostConfig()), "XNYS", "1d", 1)
    for row in (100, 150):
        traded_at = row - 1
        known = slice(traded_at - IMPACT_BARS, traded_at)
        assert np.allclose(outcome.adv[row, :2], 4 * volume[known, :2].mean(0), rtol=1e-6)
        booked = backtest.warm_up(panel.window(0, traded_at))  # what it knows at that trade
        assert np.allclose(outcome.adv[row, :2], 4 * booked.volumes[:, :2].mean(0), rtol=1e-6)
        deviation = panel.returns()[known, :2].std(0, ddof=1)
        assert np.allclose(outcome.sigma_day[row, :2], deviation * 2, rtol=1e-5)
    assert not outcome.sigma_day[:, 2].any()  # no traded value known: no impact
    assert (outcome.adv[:, 2] == 1).all()


def test_impact_is_charged_once_and_keeps_gradients_finite(make_panel, rng):
    prices = 100 * np.exp(rng.standard_normal((200, 3)).cumsum(0) * 0.02)
    panel = make_panel(prices, dollar_volume=np.full((200, 3), 1e6))
    outcome = make_outcome(panel, 252.0)
    only_impact = CostConfig(half_spread_bps=0, commission_bps=0, borrow_bps_per_year=0)
    weights = torch.zeros(200, 3)
    weights[150] = torch.tensor([0.1, -0.05, 0.0])
    weights.requires_grad_()
    seen = profit(weights, outcome, CostModel(only_impact), 1)
    cost = (seen.gross - seen.net)[151]
    size = np.array([0.1, 0.05])
    sigma, adv = outcome.sigma_day[151, :2].numpy(), outcome.adv[151, :2].numpy()
    expected = (sigma * np.sqrt(size * 1e7 / adv) * size).sum()
    assert float(cost.detach()) == pytest.approx(expected, rel=1e-4)
    seen.net.sum().backward()
    assert bool(torch.isfinite(weights.grad).all())


def test_years_come_from_the_calendar(panel):
    assert float(make_outcome(panel, 19656.0).years.sum()) == pytest.approx(BARS / 19656)


def test_sharpe_is_annual_whatever_the_interval(rng):
    """The same profits by 5 minutes and by day: one number, for a small book as for a large."""
    fine = rng.normal(2e-6, 5e-5, 78 * 252 * 4)
    daily = fine.reshape(-1, 78).sum(1)
    for size in (1.0, 0.1):
        by_bar = float(annual_sharpe(torch.from_numpy(fine * size), 78 * 252.0))
        by_day = float(annual_sharpe(torch.from_numpy(daily * size), 252.0))
        assert by_bar == pytest.approx(by_day, rel=0.05)
    plain = daily.mean() / daily.std() * np.sqrt(252)
    assert float(annual_sharpe(torch.from_numpy(daily * 100), 252.0)) == pytest.approx(
        plain, rel=0.01
    )


def test_a_flat_book_has_sharpe_0_and_finite_gradients():
    returns = torch.zeros(50, requires_grad=True)
    sharpe = annual_sharpe(returns + 0.0, 252.0)
    sharpe.backward()
    assert float(sharpe.detach()) == 0.0
    assert bool(torch.isfinite(returns.grad).all())
    tiny = torch.full((50,), 1e-12)
    assert abs(float(annual_sharpe(tiny, 252.0))) < 1e-4


def loss_of(turnover, gross, **options):
    flat = torch.zeros(20, dtype=torch.float64)
    result = Profit(flat, flat, torch.full_like(flat, turnover))
    training = TrainingConfig(**options)
    return float(training_loss(result, torch.full_like(flat, gross), 1.0, training, 252.0))


def test_penalties_by_hand():
    options = {"turnover_budget": 0.5, "turnover_penalty": 0.1, "leverage_penalty": 2.0}
    assert loss_of(0.4, 0.9, **options) == 0.0
    assert loss_of(0.8, 0.9, **options) == pytest.approx(0.1 * 0.3)
    assert loss_of(0.4, 1.5, **options) == pytest.approx(2.0 * 0.25)


def test_the_loss_is_minus_the_annual_net_sharpe(rng):
    net = torch.from_numpy(rng.normal(1e-3, 0.01, 250))
    result = Profit(net, net + 1.0, torch.zeros(250))
    loss = training_loss(result, torch.zeros(250), 1.0, TrainingConfig(), 252.0)
    assert float(loss) == pytest.approx(-float(annual_sharpe(net, 252.0)))
    frame = pd.Series(net.numpy())
    assert -float(loss) == pytest.approx(frame.mean() / frame.std() * np.sqrt(252), rel=0.02)
