"""What travels between the stages of a decision. Arrays in, arrays out; axes in this order:

``n_horizons`` (increasing length), ``n_families``, ``n_symbols``. Forecasts are in units of
``sigma * sqrt(minutes)``; sigma is in bps per square root of a session minute; alpha, cost and
net are bps of notional over the horizon; weights are signed fractions of NAV; money is USD.
NaN is "not known" and never a number to trade on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpa.market.interval_specs import Horizon

Doubles = NDArray[np.float64]
Singles = NDArray[np.float32]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]
Codes = NDArray[np.int8]
Feed = Literal["direct", "aggregated"]
NOTHING = -1  # no horizon chosen


@dataclass(frozen=True, eq=False)
class Market:
    """What the market and the account are at one moment, whole universe.

    Parameters
    ----------
    time : Timestamp
        Close of the newest bar, UTC.
    moment : Timestamp
        When the decision is asked for, UTC, at least `time`; ages are counted to it.
    bar, session : int
        Numbers of the bar and of its session on the venue's grid; consecutive bars of the grid
        have consecutive numbers, across nights too.
    names : tuple of str, length n_symbols
        Unique.
    member : bool ndarray of shape (n_symbols,)
        Whether the name may be held; a name that is not is only reduced.
    price : float64 ndarray of shape (n_symbols,)
        Close of the bar, adjusted, USD; NaN where there is none.
    bid, ask : float64 ndarrays of shape (n_symbols,)
        Best quotes, USD; NaN where unknown.
    quote_age_ms : float64 ndarray of shape (n_symbols,)
        Age of the quote at `moment`, milliseconds; NaN where unknown.
    adv_usd : float64 ndarray of shape (n_symbols,)
        Average daily traded value, USD; NaN where unknown.
    shares : float64 ndarray of shape (n_symbols,)
        Position held, signed.
    lot : float64 ndarray of shape (n_symbols,)
        Shares of the smallest order, >= 1.
    nav_usd, prior_nav_usd : float
        Net asset value now, and at the close of the session before; NaN: not known.
    account : str
        Whose money; limits are kept for each.
    feed : {"direct", "aggregated"}
        Aggregated: quotes are sent at most every 250 ms, as by IBKR.
    """

    time: pd.Timestamp
    moment: pd.Timestamp
    bar: int
    session: int
    names: tuple[str, ...]
    member: Bools
    price: Doubles
    bid: Doubles
    ask: Doubles
    quote_age_ms: Doubles
    adv_usd: Doubles
    shares: Doubles
    lot: Doubles
    nav_usd: float
    prior_nav_usd: float
    account: str = "default"
    feed: Feed = "direct"

    @property
    def age_seconds(self) -> float:
        """Seconds since the bar closed, at least 0."""
        return max((self.moment - self.time).total_seconds(), 0.0)

    @property
    def quoted(self) -> Bools:
        """Whether the quote is one: finite, ask > bid > 0; shape (n_symbols,)."""
        with np.errstate(invalid="ignore"):
            return np.asarray((self.ask > self.bid) & (self.bid > 0) & (self.ask < np.inf))

    @property
    def mark(self) -> Doubles:
        """Most that a share may be worth: the greater of mid and close, the one that is known."""
        return np.fmax(self.mid, self.price)

    @property
    def least_mark(self) -> Doubles:
        """Least that a share may be worth: the smaller of mid and close, the one that is known."""
        return np.fmin(self.mid, self.price)

    @property
    def mid(self) -> Doubles:
        """Middle of the quote, USD; NaN without one."""
        with np.errstate(invalid="ignore"):
            return np.where(self.quoted, 0.5 * (self.bid + self.ask), np.nan)

    @property
    def quote_gap_bps(self) -> Doubles:
        """How far the mid is from the bar's close, signed, bps of it; NaN where either is not
        known."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return (self.mid / np.where(self.price > 0, self.price, np.nan) - 1) * 1e4

    @property
    def spread_bps(self) -> Doubles:
        """Quoted spread, bps of the mid; NaN without a quote."""
        quoted = self.quoted
        spread, mid = np.full(len(quoted), np.nan), np.ones(len(quoted))
        np.add(self.bid, self.ask, out=mid, where=quoted)
        np.subtract(self.ask, self.bid, out=spread, where=quoted)
        return spread / mid * 2e4

    @property
    def weight(self) -> Doubles:
        """Position held at its `mark`, signed fraction of NAV; 0 without one, NaN: no value."""
        with np.errstate(invalid="ignore", divide="ignore"):
            value = self.shares * self.mark / self.nav_usd
        return np.where(self.shares == 0, 0.0, value)


@dataclass(frozen=True, eq=False)
class Forecasts:
    """What a bundle says of the same symbols after the same bar.

    Parameters
    ----------
    bundle : str
        Fingerprint of the bundle that said it.
    horizons : tuple of Horizon, length n_horizons
    families : tuple of str, length n_families
    models : tuple of str, length n_families
        Fingerprint of each family's model: what was learned of another model does not count.
    returns : float64 ndarray of shape (n_horizons, n_families, n_symbols)
        Units of ``sigma * sqrt(minutes)``; NaN: no forecast.
    sigma : float64 ndarray of shape (n_symbols,)
        bps per square root of a session minute.
    barriers : float64 ndarray of shape (2, n_symbols), optional
        Calibrated probability of peak and of valley, NaN: not known; none when no family has them.
    target : {"excess", "return"}
        What is forecast.
    lag : int
        Execution lag of the labels, bars: entry at the close of bar ``t + lag - 1``.
    left_out : mapping of str to str
        Families that failed or were late, and why; their forecasts are NaN.
    reasons : tuple of str, length n_symbols
        Why a symbol has no forecast; empty where it has one.
    """

    bundle: str
    horizons: tuple[Horizon, ...]
    families: tuple[str, ...]
    models: tuple[str, ...]
    returns: Doubles
    sigma: Doubles
    barriers: Doubles | None
    target: Literal["excess", "return"]
    lag: int = 1
    left_out: Mapping[str, str] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()

    @property
    def minutes(self) -> Doubles:
        """Session minutes of each horizon, shape (n_horizons,)."""
        return np.array([horizon.minutes for horizon in self.horizons], dtype=np.float64)

    @property
    def volatility(self) -> Doubles:
        """sigma_h, bps over each horizon, shape (n_horizons, n_symbols); NaN where unknown."""
        sigma = np.where(self.sigma > 0, self.sigma, np.nan)
        return np.asarray(np.sqrt(self.minutes)[:, None] * sigma)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Everything a decision depends on but what was learned before."""

    market: Market
    forecasts: Forecasts


@dataclass(frozen=True, eq=False)
class Beliefs:
    """What the learning side makes of the forecasts.

    Parameters
    ----------
    scores : float64 ndarray of shape (n_horizons, n_families, n_symbols)
        Standardised forecasts, dimensionless; NaN: too short a past.
    n_samples : int64 ndarray of shape (n_horizons, n_families, n_symbols)
        Past forecasts behind each score.
    ic : float64 ndarray of shape (n_horizons, n_families)
        Shrunk information coefficient of matured labels; NaN: none has matured.
    ic_samples : float64 ndarray of shape (n_horizons, n_families)
        Independent names times bars behind it.
    stability : float64 ndarray of shape (n_horizons, n_families)
        ``1 / (1 + RMSE / sigma_y)``; NaN: none has matured.
    covariance : float64 ndarray of shape (n_horizons, n_families, n_families)
        Of past and present scores, Ledoit-Wolf shrunk; the unit matrix before there are any.
    online : float64 ndarray of shape (n_horizons, n_families)
        Weights of the online learner, each row summing to 1.
    online_bars : int64 ndarray of shape (n_horizons,)
        Matured bars behind them.
    barrier_prior : float64 ndarray of shape (2,)
        Mean of past probabilities of peak and valley; NaN: none.
    """

    scores: Doubles
    n_samples: Integers
    ic: Doubles
    ic_samples: Doubles
    stability: Doubles
    covariance: Doubles
    online: Doubles
    online_bars: Integers
    barrier_prior: Doubles


@dataclass(frozen=True, eq=False)
class Blend:
    """One alpha a horizon and symbol, and how it came about.

    Parameters
    ----------
    freshness : float64 ndarray of shape (n_horizons,)
    capacity : float64 ndarray of shape (n_symbols,)
    confidence : float64 ndarray of shape (n_horizons, n_families, n_symbols)
        ``max(IC, 0) * freshness * capacity * stability``, in [0, 1].
    merit : float64 ndarray of shape (n_horizons, n_families)
        mu: IC less `cost_aversion` times cost over volatility; NaN: the family has no IC.
    parity, compressed, weights : float64 ndarrays of shape (n_horizons, n_families)
        Weights after ridge risk parity, after temperature, and with the online weights mixed in;
        at least 0, each row summing to 1, or to 0 where no merit is positive.
    alpha : float64 ndarray of shape (n_horizons, n_symbols)
        bps over the horizon; NaN: not known (no forecast, or no score yet), 0: no alpha.
    reason : int8 ndarray of shape (n_symbols,)
        :class:`Reason` why no horizon has an alpha other than 0; 0: one has.
    """

    freshness: Doubles
    capacity: Doubles
    confidence: Doubles
    merit: Doubles
    parity: Doubles
    compressed: Doubles
    weights: Doubles
    alpha: Doubles
    reason: Codes


@dataclass(frozen=True, eq=False)
class Arbitration:
    """Which horizon is traded.

    Parameters
    ----------
    cost : float64 ndarray of shape (n_horizons, n_symbols)
        bps for a way in and out; NaN: not known.
    net : float64 ndarray of shape (n_horizons, n_symbols)
        ``|alpha| - cost``; NaN where either is.
    chosen : int64 ndarray of shape (n_symbols,)
        Position of the horizon traded; -1: none.
    leading : int64 ndarray of shape (n_symbols,)
        Position of the horizon whose sign counts for what is held: the one chosen, else the one
        with the largest net per ``(minutes / 5)^p``, one below 0 as it is; -1: no alpha is known.
    side : int8 ndarray of shape (n_symbols,)
        Sign of alpha at `chosen`; 0: none.
    reason : int8 ndarray of shape (n_symbols,)
        :class:`Reason` why no horizon is chosen, the blend's where it has one; 0: one is.
    """

    cost: Doubles
    net: Doubles
    chosen: Integers
    leading: Integers
    side: Codes
    reason: Codes


@dataclass(frozen=True, eq=False)
class Gates:
    """What may be done with each symbol.

    Parameters
    ----------
    barrier : float64 ndarray of shape (n_symbols,)
        g in [floor, 1] for the side wanted; 1 where the bundle has no barriers; NaN: not known.
    may_enter : bool ndarray of shape (n_symbols,)
        New risk on the side wanted is allowed.
    may_trade : bool ndarray of shape (n_symbols,)
        There is a quote to trade on at all.
    must_exit : bool ndarray of shape (n_symbols,)
        What is held is to be closed.
    reason : int8 ndarray of shape (n_symbols,)
        :class:`Reason` why there is no new risk, the arbiter's where it has one; 0: there may be.
    sound : bool ndarray of shape (n_symbols,)
        The quote is good enough for new risk.
    """

    barrier: Doubles
    may_enter: Bools
    may_trade: Bools
    must_exit: Bools
    reason: Codes
    sound: Bools


@dataclass(frozen=True, eq=False)
class Sizes:
    """Target positions before and after the limits.

    Parameters
    ----------
    signal : float64 ndarray of shape (n_symbols,)
        z: alpha over volatility at the chosen horizon, cut; 0: none.
    wanted : float64 ndarray of shape (n_symbols,)
        Weight after gate and normalisation, or what is to stay of a position.
    banded : float64 ndarray of shape (n_symbols,)
        After the no-trade band.
    weight : float64 ndarray of shape (n_symbols,)
        After the limits and whole lots: the target.
    shares : float64 ndarray of shape (n_symbols,)
        The target in shares, whole lots away from what is held; the position itself where nothing
        is traded.
    action : int8 ndarray of shape (n_symbols,)
        :class:`Action`.
    reason : int8 ndarray of shape (n_symbols,)
        :class:`Reason`: why not more.
    """

    signal: Doubles
    wanted: Doubles
    banded: Doubles
    weight: Doubles
    shares: Doubles
    action: Codes
    reason: Codes


class Action(IntEnum):
    """What is done with a symbol."""

    NONE = 0  # flat, and stays flat
    HOLD = 1  # held, and kept
    ENTER = 2
    INCREASE = 3
    REDUCE = 4
    EXIT = 5
    FLIP = 6  # sold to the other side


class Reason(IntEnum):
    """Why a symbol is not traded, or not more: of the stages the first that says so, of the limits
    the last that cut."""

    NONE = 0
    NOT_A_MEMBER = 1
    NO_FORECAST = 2
    NO_FAMILY = 3
    NO_SCORE = 4
    NO_SKILL = 5
    COST_UNKNOWN = 6
    BELOW_RESERVE = 7
    NO_QUOTE = 8
    SPREAD_WIDE = 9
    QUOTE_OLD = 10
    BARRIER_UNKNOWN = 11
    BARRIER_BLOCK = 12
    BARRIER_EXIT = 13
    ALPHA_TURNED = 14
    BAND = 15
    LOT = 16
    NAME_LIMIT = 17
    GROSS_LIMIT = 18
    NET_LIMIT = 19
    ORDER_LIMIT = 20
    RATE_LIMIT = 21
    RISK_REDUCE_ONLY = 22
    RISK_FLATTEN = 23
    RISK_HALTED = 24
    QUOTE_ODD = 25
    NO_RECORD = 26
    ENOUGH_HELD = 27


class RiskLevel(IntEnum):
    """States of an account; only ever more severe by itself, but for a daily loss overnight."""

    NORMAL = 0
    REDUCE_ONLY = 1
    FLATTEN = 2
    HALTED = 3
