"""Bars of the past sent to the service one by one, as an engine would: a demonstration and a load.

It is not trading and not a backtest: quotes are made up from the close, and every target is
filled in full at the next bar's close.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from dpa.clock import Clock
from dpa.decision.types import Doubles
from dpa.errors import DataError
from dpa.market.panel import BarSource, Panel
from dpa.market.session_grid import session_numbers
from dpa.serving.client import Client
from dpa.serving.types import Request, RequestError

ADV_SESSIONS = 20  # whole sessions behind the average daily traded value
QUOTE_AGE_MS = 50.0
DECIDED_AFTER = pd.Timedelta(seconds=1)
LEAST_HALF_SPREAD_BPS = 0.1  # a bid must be below its ask
MOST_REFUSALS = 10  # in a row


@dataclass(frozen=True, eq=False)
class Bars:
    """Bars as they are sent, with what is known of the days before.

    Parameters
    ----------
    panel : Panel
    half_spread_bps : float
        Of the quotes made up from each close, bps of the close.
    """

    panel: Panel
    half_spread_bps: float

    @cached_property
    def session(self) -> Any:
        """Number of each bar's session, shape (n_bars,)."""
        panel = self.panel
        return session_numbers(panel.times, panel.interval, panel.calendar)[0]

    @cached_property
    def adv_usd(self) -> Doubles:
        """Mean traded value a session of the sessions before, shape (n_sessions, n_assets), USD.

        Up to 20 sessions count; NaN where none has a traded value.
        """
        traded = self.panel.dollar_volume
        if traded is None and self.panel.volume is not None:
            traded = self.panel.volume * self.panel.prices
        n_sessions = int(self.session[-1]) + 1
        daily = np.full((n_sessions, self.panel.n_assets), np.nan)
        if traded is not None:
            for number in range(n_sessions):
                rows = traded[self.session == number]
                seen = np.isfinite(rows).any(axis=0)
                daily[number, seen] = np.nansum(rows[:, seen], axis=0)
        known = np.isfinite(daily)
        sums = np.vstack([np.zeros(daily.shape[1]), np.cumsum(np.where(known, daily, 0.0), axis=0)])
        counts = np.vstack([np.zeros(daily.shape[1]), np.cumsum(known, axis=0)])
        first = np.maximum(np.arange(n_sessions) - ADV_SESSIONS, 0)
        n_known = counts[:-1] - counts[first]
        mean = np.full(daily.shape, np.nan)
        np.divide(sums[:-1] - sums[first], n_known, out=mean, where=n_known > 0)
        return mean

    def request(self, row: int, account: "NaiveAccount") -> Request:
        """The snapshot after the close of bar `row`."""
        panel = self.panel
        close = panel.prices[row]
        half = max(self.half_spread_bps, LEAST_HALF_SPREAD_BPS) * 1e-4
        arrays = {name: array[row] for name, array in panel.extras().items()}
        return Request(
            time=panel.times[row],
            moment=panel.times[row] + DECIDED_AFTER,
            account=account.name,
            nav_usd=account.nav_usd,
            prior_nav_usd=account.prior_nav_usd,
            feed="direct",
            names=panel.names,
            bars={"close": close, **arrays},
            member=panel.mask[row],
            bid=close * (1.0 - half),
            ask=close * (1.0 + half),
            quote_age_ms=np.where(np.isfinite(close), QUOTE_AGE_MS, np.nan),
            adv_usd=self.adv_usd[self.session[row]],
            shares=account.shares,
            lot=np.ones(panel.n_assets),
        )


class NaiveAccount:
    """An account whose targets are filled in full at the next close, half the spread paid.

    Parameters
    ----------
    name : str
    n_symbols : int
    nav_usd : float
        To begin with.
    half_spread_bps : float
        Paid on what is traded, bps of its value.
    """

    def __init__(self, name: str, n_symbols: int, nav_usd: float, half_spread_bps: float) -> None:
        self.name = name
        self.cash, self.nav_usd, self.prior_nav_usd = nav_usd, nav_usd, nav_usd
        self.shares: Doubles = np.zeros(n_symbols)
        self.n_trades = 0
        self._half_spread = half_spread_bps * 1e-4
        self._price: Doubles = np.full(n_symbols, np.nan)
        self._session: int | None = None
        self._target: Doubles | None = None

    def close_bar(self, session: int, close: Doubles) -> None:
        """Fill what was wanted at a close and value the account there.

        Parameters
        ----------
        session : int
            Number of the bar's session.
        close : float64 ndarray of shape (n_symbols,)
            USD; NaN where there is none: not filled, valued at the last price.
        """
        if self._session is not None and session != self._session:
            self.prior_nav_usd = self.nav_usd
        self._session = session
        self._price = np.where(np.isfinite(close), close, self._price)
        if self._target is not None:
            traded = np.where(np.isfinite(close), self._target - self.shares, 0.0)
            value = traded * np.where(np.isfinite(close), close, 0.0)
            self.cash -= float(value.sum() + self._half_spread * np.abs(value).sum())
            self.shares = self.shares + traded
            self.n_trades += int((traded != 0).sum())
            self._target = None
        held = self.shares != 0
        self.nav_usd = self.cash + float((self.shares[held] * self._price[held]).sum())

    def take_over(self, decision: Mapping[str, Any], names: tuple[str, ...]) -> None:
        """Go on from a decision on this account: NAV, positions, prices and targets.

        Symbols of the decision that are not among `names` are taken as cash.
        """
        known = {record["symbol"]: place for place, record in enumerate(decision["symbols"])}
        places = [known.get(name) for name in names]
        records = [None if k is None else decision["symbols"][k] for k in places]
        prices = decision.get("trace", {}).get("price", [])
        self._price = np.array([_number(prices[k]) if k is not None else np.nan for k in places])
        self.shares = np.array([r["held_shares"] if r else 0.0 for r in records])
        self.shares = np.where(np.isfinite(self._price), self.shares, 0.0)
        self.nav_usd = float(decision["nav_usd"])
        self.prior_nav_usd = float(decision["prior_nav_usd"])
        held = self.shares != 0
        self.cash = self.nav_usd - float((self.shares[held] * self._price[held]).sum())
        self.want(target_shares(decision, names))

    def want(self, shares: Doubles) -> None:
        """Targets to be filled at the next close; NaN: keep what is held."""
        self._target = np.where(np.isfinite(shares), shares, self.shares)


@dataclass
class Summary:
    """What came of a replay.

    Parameters
    ----------
    n_bars, n_decisions, n_trades : int
        Bars sent, decisions received, fills of the naive account.
    refusals : list of str
        Why bars were refused, one a bar.
    seconds : list of float
        How long each answer took.
    nav_usd : float
        In the end.
    newest : Timestamp, optional
        Close of the last bar sent.
    interrupted : bool
    """

    n_bars: int = 0
    n_decisions: int = 0
    n_trades: int = 0
    refusals: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    nav_usd: float = float("nan")
    newest: pd.Timestamp | None = None
    interrupted: bool = False

    def lines(self) -> list[str]:
        """The summary in words."""
        found = [
            f"bars        {self.n_bars} sent"
            + (f", the last of {self.newest:%Y-%m-%d %H:%M} UTC" if self.newest else ""),
            f"decisions   {self.n_decisions}",
            f"trades      {self.n_trades}, filled in full at the next close",
            f"refusals    {len(self.refusals)}"
            + (f", the first: {self.refusals[0]}" if self.refusals else ""),
        ]
        if self.seconds:
            median, late = 1e3 * np.percentile(self.seconds, (50, 99))
            found.append(f"latency     p50 {median:.1f} ms, p99 {late:.1f} ms")
        found.append(f"NAV         {self.nav_usd:,.0f} USD")
        return ["interrupted", *found] if self.interrupted else found


def bars_of(source: BarSource, names: Iterable[str], half_spread_bps: float) -> Bars:
    """The bars of a source that the service knows the names of, in memory.

    Parameters
    ----------
    source : BarSource
        In memory, or shards read window by window: they are read whole.
    names : iterable of str
        That the service has on record.
    half_spread_bps : float

    Raises
    ------
    DataError
        When there is no bar, or no name in common.
    """
    if not source.n_bars:
        raise DataError("there is no bar to send", "give other dates with --start and --end")
    panel = source.window(0, source.n_bars)
    known = set(names)
    chosen = [k for k, name in enumerate(panel.names) if name in known]
    if not chosen:
        raise DataError(
            f"the service knows none of the {panel.n_assets} names, such as {panel.names[0]}",
            "give the data of the names that 'dpa serve status' counts",
        )
    if len(chosen) < panel.n_assets:
        panel = Panel(
            panel.times,
            tuple(panel.names[k] for k in chosen),
            panel.prices[:, chosen],
            panel.mask[:, chosen],
            panel.interval,
            panel.calendar,
            **{name: array[:, chosen] for name, array in panel.extras().items()},
        )
    return Bars(panel, half_spread_bps)


def target_shares(decision: Mapping[str, Any], names: tuple[str, ...]) -> Doubles:
    """Targets of a decision in the order of `names`; NaN where it has none."""
    found = {record["symbol"]: record["target_shares"] for record in decision["symbols"]}
    return np.array([_number(found.get(name)) for name in names])


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


def first_row(panel: Panel, newest: str | None) -> int:
    """Row of the first bar after the newest the service has; n_bars when there is none."""
    if newest is None:
        return 0
    return int(panel.times.searchsorted(pd.Timestamp(newest), side="right"))


def replay(
    bars: Bars,
    client: Client,
    clock: Clock,
    *,
    first: int = 0,
    account: NaiveAccount,
    speed: float | None = None,
    form: Literal["json", "arrow"] = "arrow",
    sleep: Callable[[float], None],
    progress: Callable[[Summary, Mapping[str, Any] | None], None] | None = None,
) -> Summary:
    """Send bars one by one, each with the positions that the decisions before led to.

    Parameters
    ----------
    bars : Bars
    client : Client
    clock : Clock
        Paces the bars and measures the answers.
    first : int
        Row to begin with; see :func:`first_row`.
    account : NaiveAccount
    speed : float, optional
        Bars a second; none: as fast as answers come.
    form : {"json", "arrow"}
        How snapshots are sent.
    sleep : callable
        Waits so many seconds.
    progress : callable, optional
        Called after each bar with the summary so far and the decision, none where refused.

    Returns
    -------
    Summary
        Also when it is interrupted from the keyboard.

    Raises
    ------
    RequestError
        When ten bars in a row are refused, or the token is.
    ClusterUnavailable
        When nobody answers for longer than the client waits.
    """
    panel = bars.panel
    summary = Summary(nav_usd=account.nav_usd)
    begun, refused_in_a_row = clock.elapsed(), 0
    try:
        for row in range(first, panel.n_bars):
            if speed is not None:
                ahead = begun + summary.n_bars / speed - clock.elapsed()
                if ahead > 0:
                    sleep(ahead)
            account.close_bar(int(bars.session[row]), panel.prices[row])
            sent = clock.elapsed()
            summary.n_bars, summary.newest = summary.n_bars + 1, panel.times[row]
            summary.n_trades, summary.nav_usd = account.n_trades, account.nav_usd
            decision = None
            try:
                decision = client.decide(bars.request(row, account), form=form, trace=False)
            except RequestError as e:
                refused_in_a_row += 1
                summary.refusals.append(str(e))
                if e.status in (401, 403) or refused_in_a_row >= MOST_REFUSALS:
                    raise
            else:
                refused_in_a_row = 0
                summary.n_decisions += 1
                summary.seconds.append(clock.elapsed() - sent)
                account.want(target_shares(decision, panel.names))
            if progress is not None:
                progress(summary, decision)
    except KeyboardInterrupt:
        summary.interrupted = True
    return summary
