"""Stage 7: what training minimises, and what it counts as profit."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dpa.config import TrainingConfig
from dpa.market.costs import CostModel
from dpa.market.panel import Bools, Floats, Panel

IMPACT_BARS = 63  # bars behind volatility and ADV in the loss, as in the backtest
TINY_TRADE = 1e-9  # fraction of NAV: keeps the gradient of a square root finite at no trade
VOLATILITY_FLOOR = 0.0016  # per year: keeps the Sharpe of an (almost) flat book near zero


@dataclass(frozen=True)
class Profit:
    """Profit per bar of a path of target weights, as training sees it.

    Attributes
    ----------
    net, gross : Tensors (n_bars,)
        Simple return per bar, fraction of NAV, after and before costs. The return of bar t is
        earned by the weights decided `execution_lag` bars earlier; its trades are those made at
        the close of bar t - execution_lag, so cost and position start together.
    turnover : Tensor (n_bars,)
        Sum of absolute trades from drifted holdings, fraction of NAV.
    """

    net: Tensor
    gross: Tensor
    turnover: Tensor


@dataclass(frozen=True)
class Outcome:
    """What the market did in a stretch: constants of the loss, float32, axes (n_bars, n_assets).

    Attributes
    ----------
    returns : simple return since the name's last price, booked at the bar of the next one; 0 at
        bars without a price
    held_from : int64, optional
        Bar whose target is what is held into each bar: a name without a price cannot be traded,
        so what was held before a gap is held through it. None where there is no gap.
    tradable : 1 where the trade that leads into the bar could be made, else 0; None likewise
    sigma_day, adv : daily volatility (fraction) and average daily traded value (USD), or None;
        past-only; 0 and 1 where unknown, which makes impact 0
    years : (n_bars,) calendar years since the bar before
    """

    returns: Tensor
    sigma_day: Tensor | None
    adv: Tensor | None
    years: Tensor
    held_from: Tensor | None = None
    tradable: Tensor | None = None


def make_outcome(
    panel: Panel,
    bars_per_year: float,
    bars_per_session: float = 1.0,
    device: torch.device | str = "cpu",
    delisting_return: float = 0.0,
) -> Outcome:
    """Outcome of a panel.

    Parameters
    ----------
    panel : Panel
        With traded value, impact enters the loss: volatility and ADV are those of the
        IMPACT_BARS bars before the bar at whose close the trade is made, itself the bar before
        the one that books it (see :class:`Profit`).
    bars_per_year, bars_per_session : float
        From the calendar.
    device : torch device
    delisting_return : float
        Booked on the bar after a name's last price in `panel`, fraction.
    """
    priced = np.isfinite(panel.prices)
    raw = panel.returns()
    single = {"dtype": torch.float32, "device": device}

    def tensor(values: Floats) -> Tensor:
        return torch.from_numpy(values).to(**single)  # type: ignore[call-overload,no-any-return]

    returns = tensor(_booked_returns(panel, priced, delisting_return))
    years = torch.full((panel.n_bars,), 1.0 / bars_per_year, device=device)
    held_from, tradable = _tradability(priced, device)
    if panel.dollar_volume is None:
        return Outcome(returns, None, None, years, held_from, tradable)
    least = IMPACT_BARS // 3
    past_returns = pd.DataFrame(raw).rolling(IMPACT_BARS, min_periods=least)
    past_volume = pd.DataFrame(panel.dollar_volume).rolling(IMPACT_BARS, min_periods=least)
    sigma = past_returns.std().shift(2).to_numpy() * bars_per_session**0.5
    adv = past_volume.mean().shift(2).to_numpy() * bars_per_session
    known = np.isfinite(sigma) & np.isfinite(adv) & (adv > 0)
    return Outcome(
        returns,
        tensor(np.where(known, sigma, 0.0)),
        tensor(np.where(known, adv, 1.0)),
        years,
        held_from,
        tradable,
    )


def _booked_returns(panel: Panel, priced: Bools, delisting_return: float) -> Floats:
    """Return since the last price at each priced bar, the delisting return after the last one."""
    last = pd.DataFrame(panel.prices).ffill().shift(1).to_numpy()
    booked = np.where(priced & np.isfinite(last), panel.prices / last - 1.0, 0.0)
    after = panel.n_bars - priced[::-1].argmax(axis=0)  # bar after each name's last price
    ended = np.flatnonzero(priced.any(axis=0) & (after < panel.n_bars))
    booked[after[ended], ended] = delisting_return
    return booked


def _tradability(priced: Bools, device: torch.device | str) -> tuple[Tensor | None, Tensor | None]:
    """``held_from`` and ``tradable`` of :class:`Outcome`: what is held into bar t was traded at
    the close of bar t - 1, or of the last bar before it with a price."""
    if priced.all():
        return None, None
    tradable = np.zeros_like(priced)
    tradable[1:] = priced[:-1]
    bars = np.arange(len(priced))[:, None]
    held_from = np.maximum.accumulate(np.where(tradable, bars, 0), axis=0)
    ended = ~np.logical_or.accumulate(priced[::-1], axis=0)[::-1]  # no price from here on
    held_from[1:][ended[:-1]] = 0  # paid out: nothing is held after the bar that booked it
    return (
        torch.from_numpy(held_from).to(device),
        torch.from_numpy(tradable).to(dtype=torch.float32, device=device),
    )


def profit(weights: Tensor, outcome: Outcome, costs: CostModel, execution_lag: int) -> Profit:
    """Profit of target weights, bar by bar.

    Parameters
    ----------
    weights : Tensor (n_bars, n_assets)
        Target decided at each bar's close, signed fraction of NAV.
    outcome : Outcome
        Of the same bars.
    costs : CostModel
    execution_lag : int
        Bars between a signal and its first return, >= 1.

    Returns
    -------
    Profit
    """
    held = torch.cat([weights.new_zeros(execution_lag, weights.shape[1]), weights[:-execution_lag]])
    if outcome.held_from is not None:
        held = held.gather(0, outcome.held_from)
    contribution = held * outcome.returns
    gross = contribution.sum(1)
    before = torch.cat([weights.new_zeros(1, weights.shape[1]), held[:-1]])
    growth = torch.cat([outcome.returns[:1] * 0.0, outcome.returns[:-1]])
    drifted = before * (1.0 + growth)
    portfolio = 1.0 + (before * growth).sum(1, keepdim=True)
    trades = held - drifted / portfolio
    if outcome.tradable is not None:
        trades = trades * outcome.tradable
    cost = costs.spread(trades).sum(1) + costs.commission(trades).sum(1)
    cost = cost + costs.borrow(held, outcome.years.unsqueeze(1)).sum(1)
    if outcome.sigma_day is not None and outcome.adv is not None:
        cost = cost + costs.impact(trades.abs() + TINY_TRADE, outcome.sigma_day, outcome.adv).sum(1)
    return Profit(gross - cost, gross, trades.abs().sum(1))


def annual_sharpe(returns: Tensor, bars_per_year: float) -> Tensor:
    """Annualised Sharpe ratio of per-bar returns, with a floor under the volatility."""
    deviation = returns.std(correction=0) * bars_per_year**0.5 + VOLATILITY_FLOOR
    sharpe: Tensor = returns.mean() * bars_per_year / deviation
    return sharpe


def training_loss(
    result: Profit,
    wanted_gross: Tensor,
    max_leverage: float,
    training: TrainingConfig,
    bars_per_year: float,
) -> Tensor:
    """``-annual net Sharpe + turnover over budget + leverage over the limit squared``.

    Parameters
    ----------
    result : Profit
        Of the training bars only.
    wanted_gross : Tensor (n_bars,)
        Gross exposure before projection, times NAV.
    max_leverage : float
        Times NAV.
    training : TrainingConfig
        Penalties; see there for units.
    bars_per_year : float
        From the calendar.
    """
    sharpe = annual_sharpe(result.net, bars_per_year)
    excess_turnover = torch.relu(result.turnover.mean() - training.turnover_budget)
    excess_leverage = torch.relu(wanted_gross - max_leverage).square().mean()
    return (
        -sharpe
        + training.turnover_penalty * excess_turnover
        + training.leverage_penalty * excess_leverage
    )
