"""What the graph is asked: a bar, the quotes of the moment, and what the account holds."""

import math
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpa.decision.types import Feed
from dpa.market.costs import SESSION_MINUTES
from dpa.market.panel import Panel
from dpa.serving.types import Request
from dpa.trading.book_of_accounts import Worth
from dpa.trading.types import Instrument, Money, Position, Quote

Doubles = NDArray[np.float64]
KEPT_RETURNS = 390
LEAST_RETURNS = 20


def request_of(
    panel: Panel,
    moment: datetime,
    account: str,
    worth: Worth,
    feed: Feed,
    quotes: Mapping[str, Quote],
    positions: Mapping[str, Position],
    instruments: Mapping[str, Instrument],
    adv_usd: Mapping[str, float],
) -> Request:
    """The snapshot after a bar.

    Parameters
    ----------
    panel : Panel of one bar
    moment : datetime
        When it is asked; ages of quotes are counted to it.
    account : str
    worth : Worth
        Of the account; known.
    feed : {"direct", "aggregated"}
    quotes : mapping of str to Quote
        Those that are halted or delayed count as unknown: nothing is decided on them.
    positions : mapping of str to Position
        From the ledger.
    instruments : mapping of str to Instrument
        Lots; 1 where it is not known.
    adv_usd : mapping of str to float
        Average daily traded value; left out or NaN: not known.
    """
    names = panel.names
    given = [quotes.get(name) for name in names]
    live = [q if q is not None and not (q.halted or q.delayed) else None for q in given]
    return Request(
        time=panel.times[0],
        moment=max(pd.Timestamp(moment), panel.times[0]),
        account=account,
        nav_usd=float(worth.nav),
        prior_nav_usd=float(worth.prior_nav),
        feed=feed,
        names=names,
        bars={"close": panel.prices[0], **{n: array[0] for n, array in panel.extras().items()}},
        member=panel.mask[0],
        bid=np.array([_number(None if q is None else q.bid) for q in live]),
        ask=np.array([_number(None if q is None else q.ask) for q in live]),
        quote_age_ms=np.array([_age_ms(q, moment) for q in live]),
        adv_usd=np.array([_positive(adv_usd.get(name, math.nan)) for name in names]),
        shares=np.array([float(whole_shares(positions, name)) for name in names]),
        lot=np.array([float(instruments[n].lot) if n in instruments else 1.0 for n in names]),
    )


def whole_shares(positions: Mapping[str, Position], symbol: str) -> int:
    """Whole shares held; a fraction, which nobody here can trade, is left out."""
    position = positions.get(symbol)
    return 0 if position is None else int(position.shares)


def closes_of(panel: Panel) -> dict[str, Money]:
    """Closes of a bar, USD, of the names that have one."""
    return {
        name: Decimal(repr(float(price)))
        for name, price in zip(panel.names, panel.prices[0], strict=True)
        if math.isfinite(price)
    }


def _number(money: Money | None) -> float:
    return math.nan if money is None else float(money)


def _positive(value: float) -> float:
    return value if value > 0 and math.isfinite(value) else math.nan


def _age_ms(quote: Quote | None, moment: datetime) -> float:
    if quote is None or quote.bid is None or quote.ask is None:
        return math.nan
    return max((moment - quote.time).total_seconds() * 1e3, 0.0)


class Volatility:
    """Volatility of the day of each name, from returns of bars within sessions.

    Root mean square of the newest 390 returns, each over the square root of its bar's minutes,
    scaled to a session of 390 minutes; not known before there are 20.

    Parameters
    ----------
    minutes : float
        Of a bar.
    """

    def __init__(self, minutes: float) -> None:
        self._minutes = minutes
        self._names: tuple[str, ...] = ()
        self._squares: Doubles = np.empty((KEPT_RETURNS, 0))
        self._counts: NDArray[np.int64] = np.zeros(0, np.int64)
        self._before: Doubles = np.empty(0)
        self._session: date | None = None
        self._found: dict[str, float] | None = None  # until the next bar

    def see(self, panel: Panel, session: date) -> None:
        """Take a bar of a session; the first of a session makes no return."""
        self._found = None
        if panel.names != self._names:
            n = panel.n_assets
            self._names, self._before = panel.names, np.full(n, np.nan)
            self._squares, self._counts = np.zeros((KEPT_RETURNS, n)), np.zeros(n, np.int64)
        if session != self._session:
            self._session, self._before = session, np.full(panel.n_assets, np.nan)
        close = panel.prices[0]
        known = np.flatnonzero(np.isfinite(close) & np.isfinite(self._before))
        returns = close[known] / self._before[known] - 1
        self._squares[self._counts[known] % KEPT_RETURNS, known] = returns**2
        self._counts[known] += 1
        self._before = np.array(close)  # a return spans one bar

    def sigma_day(self) -> dict[str, float]:
        """Standard deviation of the daily return, fraction, of the names of which it is known."""
        if self._found is None:
            self._found = self._sigmas()
        return self._found

    def _sigmas(self) -> dict[str, float]:
        counted = np.minimum(self._counts, KEPT_RETURNS)
        mean = self._squares.sum(axis=0) / np.maximum(counted, 1)
        found = np.sqrt(mean * SESSION_MINUTES / self._minutes)
        return {
            name: float(found[k])
            for k, name in enumerate(self._names)
            if counted[k] >= LEAST_RETURNS
        }
