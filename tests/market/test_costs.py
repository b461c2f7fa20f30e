"""Costs by hand, on numpy and torch alike."""

import numpy as np
import pytest
import torch

from dpa.config import CostConfig
from dpa.market.costs import CostModel

MODEL = CostModel(
    CostConfig(
        half_spread_bps=4,
        commission_bps=1,
        impact_coefficient=0.5,
        borrow_bps_per_year=200,
        nav_usd=1e6,
    )
)


def test_by_hand() -> None:
    trades = np.array([0.1, -0.2, 0.0])
    np.testing.assert_allclose(MODEL.spread(trades), [4e-5, 8e-5, 0])
    np.testing.assert_allclose(MODEL.commission(trades), [1e-5, 2e-5, 0])
    np.testing.assert_allclose(
        MODEL.spread(trades) + MODEL.commission(trades), abs(trades) * MODEL.linear_rate
    )
    # 0.5 * 2 % * sqrt(100,000 / 1e7) of 0.1, and the same with twice the trade
    impact = MODEL.impact(trades, np.full(3, 0.02), np.full(3, 1e7))
    np.testing.assert_allclose(impact, [1e-4, 1e-4 * 2**1.5, 0])
    # a NAV four times as large pays twice as much per dollar
    grown = MODEL.impact(trades, np.full(3, 0.02), np.full(3, 1e7), nav=4.0)
    np.testing.assert_allclose(grown, 2 * impact)
    np.testing.assert_allclose(MODEL.borrow(np.array([0.5, -0.5]), 0.25), [0, 0.5 * 0.02 / 4])


def test_torch_agrees_and_has_gradients() -> None:
    weights = np.array([0.3, -0.1, -0.05])
    tensor = torch.tensor(weights, requires_grad=True)
    sigma, volume = np.full(3, 0.01), np.full(3, 1e8)
    total = (
        MODEL.spread(tensor)
        + MODEL.impact(tensor, torch.tensor(sigma), torch.tensor(volume))
        + MODEL.borrow(tensor, 0.1)
    )
    expected = (
        MODEL.spread(weights) + MODEL.impact(weights, sigma, volume) + MODEL.borrow(weights, 0.1)
    )
    np.testing.assert_allclose(total.detach().numpy(), expected)
    total.sum().backward()
    step = 1e-7
    for k in range(3):
        moved = weights.copy()
        moved[k] += step
        up = MODEL.spread(moved) + MODEL.impact(moved, sigma, volume) + MODEL.borrow(moved, 0.1)
        assert tensor.grad is not None
        assert float(tensor.grad[k]) == pytest.approx((up - expected).sum() / step, rel=1e-3)


def test_round_trip_by_hand() -> None:
    sigma, spread = np.array([10.0, 20.0]), np.array([4.0, np.nan])
    parts = MODEL.round_trip_bps(spread, sigma, 4.0, np.array([0.01, 0.04]), timing_factor=0.2)
    np.testing.assert_allclose(parts.spread, spread)
    assert parts.commission == 2
    np.testing.assert_allclose(parts.timing, [4, 8])  # 0.2 * sigma * sqrt(4)
    # in and out, half of a day's 10 sqrt(390) = 197 bps each, times the root of 1 %
    np.testing.assert_allclose(parts.impact, [197.4841766 * 0.1, 394.9683532 * 0.2])
    np.testing.assert_allclose(parts.total, [4 + 2 + 4 + 19.7484177, np.nan])


def test_round_trip_is_twice_the_half_spread_of_the_backtest() -> None:
    model = CostModel(CostConfig(half_spread_bps=3, commission_bps=1, impact_coefficient=0))
    quoted = model.round_trip_bps(np.array([6.0]), np.array([9.0]), 1.0, np.nan, timing_factor=0)
    assert quoted.total[0] == pytest.approx(2e4 * model.linear_rate)


def test_round_trip_pays_the_impact_of_two_trades_of_the_backtest() -> None:
    model = CostModel(CostConfig(impact_coefficient=0.7, nav_usd=1e6))
    sigma, weight, adv = 9.0, 0.03, 2e7
    traded = model.impact(np.array([weight]), sigma * 390**0.5 * 1e-4, adv)  # fraction of NAV
    quoted = model.round_trip_bps(0.0, sigma, 1.0, weight * 1e6 / adv).impact
    assert quoted == pytest.approx(2e4 * traded[0] / weight)


def test_participation_does_not_matter_without_impact() -> None:
    model = CostModel(CostConfig(impact_coefficient=0))
    parts = model.round_trip_bps(np.array([1.0]), np.array([9.0]), 1.0, np.array([np.nan]))
    assert np.isfinite(parts.total).all()


def test_borrow_of_a_year_is_the_yearly_fee() -> None:
    assert MODEL.borrow_bps(390 * 252.0) == pytest.approx(200)
    assert MODEL.borrow_bps(300.0, session_minutes=300.0, sessions_per_year=250.0) == 200 / 250
