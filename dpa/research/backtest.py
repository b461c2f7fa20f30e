"""What target weights would have earned: exact accounting, stretch after stretch."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpa.errors import DataError, DpaError
from dpa.market.calendars import SECONDS_PER_YEAR, TradingCalendar
from dpa.market.costs import CostModel
from dpa.market.panel import Bools, Floats, Panel

ADV_BARS = 63  # bars of the rolling mean of traded value
VARIANCE_DECAY = 1.0 - 2.0 / (ADV_BARS + 1.0)  # exponential weights of the same mean age
NO_TIME = int(np.iinfo(np.int64).min)
RETURN_COLUMNS = (
    "net",
    "gross",
    "spread",
    "commission",
    "impact",
    "borrow",
    "turnover",
    "gross_exposure",
    "net_exposure",
)

Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class BacktestState:
    """All that a backtest remembers between two stretches of bars.

    Attributes
    ----------
    holdings : (n_assets,)
        Signed value held after the last bar's trade, fraction of NAV.
    last_price : (n_assets,)
        Last price seen; NaN before the first.
    nav : float
        Value now of one unit invested at the first bar.
    pending : (execution_lag - 1, n_assets)
        Targets decided and not yet traded, oldest first; a row of NaN is "no order".
    time : int
        The last bar, nanoseconds since 1970 UTC; the least int64 before the first.
    bars : int
        Bars seen so far.
    volumes : (63, n_assets)
        Traded value of the last 63 bars, USD, as a ring at ``bars % 63``; NaN where unknown.
    variance : (n_assets,)
        Exponentially weighted mean square of the return per bar; NaN before the first.
    """

    holdings: Floats
    last_price: Floats
    nav: float
    pending: Floats
    time: int
    bars: int
    volumes: Floats
    variance: Floats

    @staticmethod
    def fresh(n_assets: int, execution_lag: int) -> "BacktestState":
        """All in cash, nothing known."""
        return BacktestState(
            holdings=np.zeros(n_assets),
            last_price=np.full(n_assets, np.nan),
            nav=1.0,
            pending=np.full((execution_lag - 1, n_assets), np.nan),
            time=NO_TIME,
            bars=0,
            volumes=np.full((ADV_BARS, n_assets), np.nan),
            variance=np.full(n_assets, np.nan),
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The fields as arrays, for ``numpy.savez``."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> "BacktestState":
        """The state that :meth:`to_arrays` wrote, exactly."""
        return BacktestState(
            holdings=arrays["holdings"],
            last_price=arrays["last_price"],
            nav=float(arrays["nav"]),
            pending=arrays["pending"],
            time=int(arrays["time"]),
            bars=int(arrays["bars"]),
            volumes=arrays["volumes"],
            variance=arrays["variance"],
        )


@dataclass(frozen=True, eq=False)
class BacktestResult:
    """What happened at each bar; arrays of shape (n_bars,), never NaN.

    Attributes
    ----------
    times : DatetimeIndex
        Closes of the bars, UTC.
    net : ``gross - spread - commission - impact - borrow``; compounding it gives the NAV.
    gross : simple return, over the bar, of what was held since the previous close.
    spread, commission, impact, borrow : costs, fraction of the NAV at the previous close, >= 0.
    turnover : sum of absolute trades away from the drifted holdings, fraction of the NAV then.
    gross_exposure, net_exposure : after the trade, fraction of NAV.
    trades : (n_bars, n_assets), signed, fraction of the NAV then; None unless asked for.
    """

    times: pd.DatetimeIndex
    net: Floats
    gross: Floats
    spread: Floats
    commission: Floats
    impact: Floats
    borrow: Floats
    turnover: Floats
    gross_exposure: Floats
    net_exposure: Floats
    trades: Floats | None = None

    def frame(self) -> pd.DataFrame:
        """One row a bar, index ``time``: the columns of ``returns.parquet`` but for ``fold``."""
        columns = {name: getattr(self, name) for name in RETURN_COLUMNS}
        return pd.DataFrame(columns, index=self.times.rename("time"))


class _Book:
    """Holdings and NAV while a stretch is walked through."""

    def __init__(self, state: BacktestState, costs: CostModel, bars_per_session: float) -> None:
        self.holdings = state.holdings.copy()
        self.last_price = state.last_price.copy()
        self.nav = state.nav
        self.bars = state.bars
        self.volumes = state.volumes.copy()
        self.variance = state.variance.copy()
        self.costs = costs
        self.bars_per_session = bars_per_session

    def earn(self, returns: Floats, gone: Bools | None, years: float) -> tuple[float, float]:
        """Mark to the new prices; gross return and borrow, of the NAV at the previous close."""
        earned = np.where(np.isnan(returns), 0.0, returns)
        if gone is not None:
            earned[gone] = self.costs.config.delisting_return
        gross = float((self.holdings * earned).sum())
        borrow = float(self.costs.borrow(self.holdings, years).sum())
        values = self.holdings * (1.0 + earned)
        if gone is not None:
            values[gone] = 0.0
        self.holdings = values / _solvent(1.0 + gross - borrow)
        return gross, borrow

    def trade(self, target: Floats, allowed: Bools, nav: float) -> tuple[Floats, Floats]:
        """Go to `target` where allowed; trades, and (spread, commission, impact), of `nav`."""
        trades = np.where(allowed, target - self.holdings, 0.0)
        paid = np.array(
            [
                self.costs.spread(trades).sum(),
                self.costs.commission(trades).sum(),
                self._impact(trades, nav),
            ]
        )
        self.holdings = np.where(allowed, target, self.holdings) / _solvent(1.0 - paid.sum())
        return trades, paid

    def _impact(self, trades: Floats, nav: float) -> float:
        known = np.isfinite(self.volumes)
        bars = known.sum(axis=0)
        total = np.where(known, self.volumes, 0.0).sum(axis=0)
        usable = (trades != 0.0) & (total > 0.0) & np.isfinite(self.variance)
        if not usable.any():
            return 0.0
        adv = total[usable] / bars[usable] * self.bars_per_session
        sigma_day = np.sqrt(self.variance[usable] * self.bars_per_session)
        return float(self.costs.impact(trades[usable], sigma_day, adv, nav).sum())

    def learn(self, prices: Floats, returns: Floats, volumes: Floats | None) -> None:
        """Remember this bar's prices, returns and traded values, for later bars only."""
        squares = returns * returns
        updated = VARIANCE_DECAY * self.variance + (1.0 - VARIANCE_DECAY) * squares
        updated = np.where(np.isnan(self.variance), squares, updated)
        self.variance = np.where(np.isnan(returns), self.variance, updated)
        self.last_price = np.where(np.isnan(prices), self.last_price, prices)
        self.volumes[self.bars % ADV_BARS] = np.nan if volumes is None else volumes
        self.bars += 1


class Backtest:
    """Walks target weights through prices, stretch after stretch.

    A target decided at the close of bar t is filled at the close of bar
    ``t + execution_lag - 1`` and first earns the return of bar ``t + execution_lag``. With
    ``execution_lag=1`` decision and fill share one close: that needs a closing-auction order
    placed on prices a moment before it. 2 fills one whole bar later, the cautious choice.

    Parameters
    ----------
    costs : CostModel
        Charged once, on what is traded away from the drifted holdings. A target is a fraction
        of the NAV before the costs of its own trade.
    calendar : str
        exchange_calendars code of the venue.
    interval : str
        Bar length, such as ``"1d"``; scales bar volume and variance to a session for impact.
    execution_lag : int
        Bars between a decision and its first return, at least 1.
    """

    def __init__(self, costs: CostModel, calendar: str, interval: str, execution_lag: int) -> None:
        if execution_lag < 1:
            raise DataError(f"backtest: execution_lag is {execution_lag}", "give 1 or more bars")
        self.costs, self.calendar, self.interval = costs, calendar, interval
        self.execution_lag = execution_lag

    @cached_property
    def bars_per_session(self) -> float:
        """Average number of bars in a session of the calendar."""
        venue = TradingCalendar(self.calendar)
        return venue.bars_per_year(self.interval) / venue.bars_per_year("1d")

    def warm_up(self, panel: Panel) -> BacktestState:
        """All in cash after `panel`, with its traded values and volatilities known."""
        idle = np.zeros(panel.prices.shape)
        return self.run(idle, panel, rebalance=np.zeros(panel.n_bars, dtype=bool))[1]

    def run(
        self,
        weights: Floats,
        panel: Panel,
        state: BacktestState | None = None,
        *,
        rebalance: Bools | None = None,
        last_bar: Integers | None = None,
        first_bar: int = 0,
        liquidate: bool = False,
        keep_trades: bool = False,
    ) -> tuple[BacktestResult, BacktestState]:
        """One stretch of bars.

        Parameters
        ----------
        weights : (n_bars, n_assets)
            Targets decided at each bar's close, signed fractions of NAV; finite, and 0 where
            the name has no price at that bar.
        panel : Panel
            The same bars, following those already seen.
        state : BacktestState, optional
            What the previous stretch returned; all in cash when absent.
        rebalance : bool (n_bars,), optional
            False where a bar's target is not acted on and holdings drift; when absent, all True.
        last_bar : int (n_assets,), optional
            Number of the bar of each name's last price in the whole history. A holding is paid
            out at ``delisting_return`` on the bar after it, without a trade. When absent, a name
            that stops trading stays frozen at its last price.
        first_bar : int
            Number of the first bar of this stretch in the whole history.
        liquidate : bool
            Close everything at the last bar and pay for it; a name without a price there at its
            last one. Orders still pending are dropped.
        keep_trades : bool
            Keep the trades of every bar and name.

        Returns
        -------
        (BacktestResult, BacktestState)
            The state is what the next stretch starts from; how the bars are cut into stretches
            changes nothing.

        Notes
        -----
        At each bar holdings earn the return since their last price, shorts pay borrow over the
        elapsed time since the last bar, then the book trades to its target. A name without a price
        cannot trade: its holding is frozen and marked when a price returns. Impact is charged
        where traded value is known: ADV is the mean of the 63 bars before the trade, sigma is
        exponentially weighted with the same mean age, both scaled to a session.

        Raises
        ------
        DataError
            Weights of the wrong shape, not finite, or on a name without a price.
        DpaError
            The portfolio lost all its value.
        """
        _check(weights, panel, rebalance)
        state = state or BacktestState.fresh(panel.n_assets, self.execution_lag)
        orders, pending = _orders(weights, rebalance, state.pending)
        if liquidate and panel.n_bars:
            orders[-1], pending = 0.0, np.full_like(pending, np.nan)
        impact_known = panel.dollar_volume is not None
        book = _Book(state, self.costs, self.bars_per_session if impact_known else 1.0)
        rows = np.zeros((panel.n_bars, len(RETURN_COLUMNS)))
        trades = np.zeros(panel.prices.shape) if keep_trades else None
        years = _years_between_bars(panel.times, state.time)
        for t, prices in enumerate(panel.prices):
            returns = prices / book.last_price - 1.0
            gone = None if last_bar is None else last_bar < first_bar + t
            closing = liquidate and t == panel.n_bars - 1
            allowed = np.isfinite(orders[t]) & (np.isfinite(prices) | closing)
            rows[t], traded = _bar(book, returns, gone, years[t], orders[t], allowed)
            book.learn(
                prices, returns, panel.dollar_volume[t] if panel.dollar_volume is not None else None
            )
            if trades is not None:
                trades[t] = traded
        time = int(panel.times.as_unit("ns").asi8[-1]) if panel.n_bars else state.time
        after = BacktestState(
            book.holdings,
            book.last_price,
            book.nav,
            pending,
            time,
            book.bars,
            book.volumes,
            book.variance,
        )
        columns = dict(zip(RETURN_COLUMNS, rows.T.copy(), strict=True))
        return BacktestResult(times=panel.times, trades=trades, **columns), after


def _bar(
    book: _Book, returns: Floats, gone: Bools | None, years: float, order: Floats, allowed: Bools
) -> tuple[Floats, Floats]:
    """One bar: earn, pay borrow, trade. Its row of `RETURN_COLUMNS`, and its trades."""
    gross, borrow = book.earn(returns, gone, years)
    growth = 1.0 + gross - borrow
    trades, paid = book.trade(order, allowed, book.nav * growth)
    spread, commission, impact = paid * growth
    net = gross - spread - commission - impact - borrow
    book.nav *= 1.0 + net
    held = book.holdings
    turnover, exposure = np.abs(trades).sum(), np.abs(held).sum()
    row = [net, gross, spread, commission, impact, borrow, turnover, exposure, held.sum()]
    return np.array(row), trades


def _solvent(left: float) -> float:
    if not left > 0.0:
        raise DpaError("backtest: the portfolio lost all its value", "lower max_leverage")
    return left


def _orders(weights: Floats, rebalance: Bools | None, pending: Floats) -> tuple[Floats, Floats]:
    """What is traded at each bar, and what is left over; a row of NaN is "no order"."""
    targets = np.array(weights, dtype=np.float64)
    if rebalance is not None:
        targets[~rebalance] = np.nan
    queue = np.concatenate([pending, targets])
    return queue[: len(targets)].copy(), queue[len(targets) :].copy()


def _years_between_bars(times: pd.DatetimeIndex, before: int) -> Floats:
    """Elapsed years since the previous bar, nights included, (n_bars,); 0 at the very first."""
    stamps = times.as_unit("ns").asi8
    first = stamps[:1] if before == NO_TIME else np.array([before])
    return np.diff(stamps, prepend=first) / (1e9 * SECONDS_PER_YEAR)


def _check(weights: Floats, panel: Panel, rebalance: Bools | None) -> None:
    if weights.shape != panel.prices.shape:
        raise DataError(f"backtest: weights {weights.shape} for prices {panel.prices.shape}")
    if rebalance is not None and rebalance.shape != weights.shape[:1]:
        raise DataError(f"backtest: rebalance {rebalance.shape} for {len(weights)} bars")
    for wrong, what in (
        (~np.isfinite(weights), "is not finite"),
        ((weights != 0.0) & np.isnan(panel.prices), "is on a name without a price"),
    ):
        if wrong.any():
            bar, name = np.argwhere(wrong)[0]
            raise DataError(
                f"backtest: weight {weights[bar, name]} of {panel.names[name]} at "
                f"{panel.times[bar]} {what}",
                "give 0 where a name cannot be held",
            )
