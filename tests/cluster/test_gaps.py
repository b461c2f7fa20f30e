"""Training books a return across a gap as the backtest does: a held name cannot be left there."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from dpa.cluster.loss import make_outcome, profit
from dpa.config import CostConfig
from dpa.market.costs import CostModel
from dpa.market.panel import Panel
from dpa.research.backtest import Backtest

FREE = CostModel(CostConfig(half_spread_bps=0, commission_bps=0, borrow_bps_per_year=0))


def panel_of(prices: np.ndarray) -> Panel:
    times = pd.date_range("2010-01-04 21:00", periods=len(prices), freq="D", tz="UTC")
    names = tuple(f"N{i}" for i in range(prices.shape[1]))
    return Panel(times, names, prices, np.isfinite(prices), "1d")


def test_a_loss_across_a_gap_is_booked_when_the_price_returns() -> None:
    prices = np.array([[100.0], [100.0], [np.nan], [np.nan], [50.0], [50.0]])
    weights = torch.tensor([[0.0], [0.1], [0.0], [0.0], [0.0], [0.0]])
    result = profit(weights, make_outcome(panel_of(prices), 252.0), FREE, 1)
    assert result.gross.tolist() == pytest.approx([0, 0, 0, 0, -0.05, 0])
    assert float(result.turnover[3]) == 0.0  # nothing can be sold in the gap


def test_a_delisted_name_is_paid_out_once_without_a_trade() -> None:
    prices = np.array([[100.0], [100.0], [np.nan], [np.nan], [np.nan]])
    weights = torch.tensor([[0.0], [0.1], [0.0], [0.0], [0.0]])
    outcome = make_outcome(panel_of(prices), 252.0, delisting_return=-0.3)
    result = profit(weights, outcome, FREE, 1)
    assert result.gross.tolist() == pytest.approx([0, 0, -0.03, 0, 0])
    assert result.turnover[3:].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("lag", [1, 2, 3])
def test_gross_return_with_gaps_agrees_with_the_backtest(lag: int) -> None:
    generator = np.random.default_rng(lag)
    prices = 100.0 * np.exp(np.cumsum(generator.normal(0, 0.02, (80, 6)), 0))
    prices[20:25, 1] = prices[40:, 2] = prices[:10, 3] = prices[30, 4] = np.nan
    panel = panel_of(prices)
    weights = generator.normal(0, 0.05, prices.shape) * panel.mask
    outcome = make_outcome(panel, 252.0, delisting_return=-0.3)
    doubled = dataclasses.replace(outcome, returns=outcome.returns.double())
    ours = profit(torch.from_numpy(weights), doubled, FREE, lag).gross.numpy()
    last = np.array([np.flatnonzero(np.isfinite(column))[-1] for column in prices.T])
    costs = CostModel(FREE.config.model_copy(update={"delisting_return": -0.3}))
    booked, _ = Backtest(costs, "XNYS", "1d", lag).run(weights, panel, last_bar=last)
    # what is frozen in a gap drifts against the NAV of the rest: second order, not modelled
    np.testing.assert_allclose(ours, booked.gross, atol=1e-4)
    calm = np.r_[2 + lag : 20]
    np.testing.assert_allclose(ours[calm], booked.gross[calm], atol=1e-8)


def test_a_history_without_gaps_costs_nothing_extra() -> None:
    outcome = make_outcome(panel_of(np.full((5, 2), 10.0)), 252.0)
    assert outcome.held_from is None
    assert outcome.tradable is None
