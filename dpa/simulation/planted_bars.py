"""Intraday markets with a known truth: signals of several half-lives, each in plain sight.

Every number here is invented, so what a predictor finds in it can be compared with what was put in,
horizon by horizon.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from dpa.config import Frozen
from dpa.errors import ConfigError
from dpa.market.calendars import Bars, TradingCalendar, as_date, utc_index
from dpa.market.interval_specs import IntervalSpec, get_interval_spec
from dpa.market.panel import Bools, Floats, Panel
from dpa.simulation.planted import (
    START_PRICE_HIGH,
    START_PRICE_LOW,
    asset_names,
    listed_bars,
    ornstein_uhlenbeck,
)

SIGNALS = ("fast", "medium", "slow", "residual")
SHOWN = SIGNALS[:3]  # can be read off the bar without noise
BPS = 1e-4
CLOSE_LOCATION_LOADING, CLOSE_LOCATION_LIMIT = 0.25, 0.98
VOLUME_LOADING = 0.4
RANGE_LOADING, WIDEST_RANGE = 0.35, 0.9  # the widest as a fraction of the close
BASE_VOLUME_LOW, BASE_VOLUME_HIGH = 5_000.0, 100_000.0  # shares per session minute
_STREAMS = ("market", "factors", "own", *SIGNALS, "start", "listings", "missing")


@lru_cache(maxsize=32)
def _spec(interval: str, calendar: str) -> IntervalSpec:
    return get_interval_spec(interval, None, calendar=calendar)


class IntradayMarket(Frozen):
    """A market of bars whose returns are forecast by four signals, each for its own horizon.

    ``log return = market + factor of the cluster + own noise + predictable part``. Three signals
    are stationary Gaussian AR(1) processes of unit variance, one path a name, that forecast the
    returns after their bar and can be read off the bar without noise:

    ========== ======================= ==========================================================
    signal     forecasts best          where it shows, at its own bar
    ========== ======================= ==========================================================
    fast       5 to 15 minutes         close location ``(2C - H - L) / (H - L)`` is ``x / 4``
    medium     30 to 60 minutes        log volume is ``0.4 x`` above the name's usual one
    slow       a session               log relative range ``log((H - L) / C)`` is ``0.35 x`` above
                                       the usual one
    residual   an hour                 nowhere but in prices: an Ornstein-Uhlenbeck residual of
                                       the log price against the cluster, which reverts
    ========== ======================= ==========================================================

    A *payoff* is what one standard deviation of a signal forecasts for all time to come, in bps
    of log return; of it ``1 - 2 ** (-m / half_life)`` comes within m session minutes. Signals
    live in session time: they stand still over night. Volatilities are in bps per square root of
    a session minute, and every bar has the same, but for the night: the first bar of a session
    opens with a gap that has the variance of `overnight_minutes` session minutes.

    Notes
    -----
    With the default scales the mean cross-sectional rank correlation (IC) with the return, of each
    signal's own forecast, of the three that bars show together, and of all four, is
    (:func:`implied_ic`)

    ======== ===== ===== ===== ===== ===== =====
    forecast    5m   10m   15m   30m   60m    1d
    ======== ===== ===== ===== ===== ===== =====
    oracle   0.127 0.156 0.171 0.198 0.226 0.200
    shown    0.105 0.121 0.126 0.128 0.131 0.134
    fast     0.093 0.103 0.100 0.083 0.061 0.025
    medium   0.045 0.060 0.071 0.090 0.104 0.071
    slow     0.015 0.021 0.026 0.036 0.050 0.111
    residual 0.072 0.098 0.116 0.151 0.184 0.148
    ======== ===== ===== ===== ===== ===== =====

    far more than real markets offer, so that a test of a few months can see it. The residual
    cannot be told exactly from the walk it is added to: with the true clusters, the s-score of
    the last 60 bars against the other members' mean has an IC of about 0.013 at 5m, 0.043 at 60m
    and 0.03 at 1d. A good predictor lies between ``shown`` and ``oracle``, nearer the former.
    """

    n_clusters: int = Field(5, ge=1, le=200, description="clusters")
    names_per_cluster: int = Field(8, ge=1, le=1000, description="names in each cluster")
    n_sessions: int = Field(120, ge=1, le=10_000, description="sessions")
    interval: str = Field("5m", description="bar length, for example 1m, 5m, 1d")
    calendar: str = Field("XNYS", description="exchange_calendars code of the venue")
    start: str = Field("2024-06-17", description="first date, YYYY-MM-DD")
    fast_half_life: float = Field(
        6.0, gt=0, le=1e5, description="half-life of the fast signal, session minutes"
    )
    fast_payoff: float = Field(3.0, ge=0, le=1e3, description="bps per sd of the fast signal")
    medium_half_life: float = Field(
        45.0, gt=0, le=1e5, description="half-life of the medium signal, session minutes"
    )
    medium_payoff: float = Field(8.5, ge=0, le=1e3, description="bps per sd of the medium signal")
    slow_half_life: float = Field(
        585.0, gt=0, le=1e5, description="half-life of the slow signal, session minutes"
    )
    slow_payoff: float = Field(36.0, ge=0, le=1e3, description="bps per sd of the slow signal")
    residual_half_life: float = Field(
        60.0, gt=0, le=1e5, description="half-life of the residual signal, session minutes"
    )
    residual_deviation: float = Field(
        18.0, ge=0, le=1e3, description="stationary sd of the residual, bps of log price"
    )
    market_volatility: float = Field(
        5.0, ge=0, le=100, description="common factor, bps per sqrt session minute"
    )
    factor_volatility: float = Field(
        6.0, ge=0, le=100, description="factor of a cluster, bps per sqrt session minute"
    )
    noise: float = Field(
        2.0, ge=0, le=100, description="each name's own walk, bps per sqrt session minute"
    )
    overnight_minutes: float = Field(
        30.0, ge=0, le=1e4, description="session minutes whose variance a night has"
    )
    typical_range: float = Field(
        25.0, gt=0, le=1e3, description="usual high less low, bps per sqrt session minute"
    )
    volume_profile: float = Field(
        0.0, ge=0, le=5, description="log volume at open and close above that of midday"
    )
    missing: float = Field(0.0, ge=0, le=1, description="probability that a bar of a name is lost")
    late_listings: float = Field(
        0.0,
        ge=0,
        le=1,
        description="fraction of names that list after the first tenth, before the middle",
    )
    delistings: float = Field(
        0.0, ge=0, le=1, description="fraction of names that stop trading for good after the middle"
    )

    @property
    def n_assets(self) -> int:
        """Number of names."""
        return self.n_clusters * self.names_per_cluster

    @property
    def spec(self) -> IntervalSpec:
        """Length of a bar, and bars of a session."""
        return _spec(self.interval, self.calendar)

    @property
    def signals(self) -> dict[str, "Signal"]:
        """Persistence and payoff of each of :data:`SIGNALS` at this market's bar length."""
        half_lives = (
            self.fast_half_life,
            self.medium_half_life,
            self.slow_half_life,
            self.residual_half_life,
        )
        payoffs = (self.fast_payoff, self.medium_payoff, self.slow_payoff, -self.residual_deviation)
        return {
            name: Signal(half_life / self.spec.bar_minutes, payoff)
            for name, half_life, payoff in zip(SIGNALS, half_lives, payoffs, strict=True)
        }


@dataclass(frozen=True)
class Signal:
    """How long a signal lasts and what it forecasts.

    Parameters
    ----------
    half_life : float
        In bars.
    payoff : float
        Log return that one standard deviation forecasts for all bars to come, bps.
    """

    half_life: float
    payoff: float

    @property
    def persistence(self) -> float:
        """Autocorrelation from one bar to the next."""
        return float(0.5 ** (1.0 / self.half_life))

    def forecast(self, horizon_bars: int, lag: int = 1) -> float:
        """Expected log return per standard deviation, in bps; see :meth:`BarTruth.expected`."""
        if horizon_bars < 1 or lag < 1:
            raise ConfigError(
                f"a forecast over {horizon_bars} bars with lag {lag}", "give 1 or more of both"
            )
        phi = self.persistence
        return self.payoff * (1.0 - phi**horizon_bars) * phi ** (lag - 1)

    def drift_variance(self, horizon_bars: int) -> float:
        """Variance of the sum of this signal's drifts over a horizon, squared bps.

        A bar's drift is ``payoff (1 - phi) x`` with the x of the bar before.
        """
        apart = np.arange(1, horizon_bars)
        total = horizon_bars + 2.0 * ((horizon_bars - apart) * self.persistence**apart).sum()
        return float((self.payoff * (1.0 - self.persistence)) ** 2 * total)

    def level_variance(self, horizon_bars: int) -> float:
        """Variance of the move of ``payoff x`` itself over a horizon, squared bps."""
        return 2.0 * self.payoff**2 * (1.0 - self.persistence**horizon_bars)


@dataclass(frozen=True, eq=False)
class BarTruth:
    """What was planted.

    Parameters
    ----------
    config : IntradayMarket
    labels : int64 ndarray of shape (n_assets,)
        True cluster of each name.
    latents : dict of float64 ndarrays of shape (n_bars, n_assets)
        Signal to its path, in standard deviations. ``residual`` times `residual_deviation` is
        the residual of the log price in bps. Known at bars that are lost, too.
    present : bool ndarray of shape (n_bars, n_assets)
        Whether the name has a bar.
    """

    config: IntradayMarket
    labels: NDArray[np.int64]
    latents: dict[str, Floats]
    present: Bools

    def expected_parts(self, horizon_bars: int, lag: int = 1) -> dict[str, Floats]:
        """Share of each signal in :meth:`expected`, by name."""
        return {
            name: np.where(
                self.present, self.latents[name] * signal.forecast(horizon_bars, lag) * BPS, np.nan
            )
            for name, signal in self.config.signals.items()
        }

    def expected(self, horizon_bars: int, lag: int = 1) -> Floats:
        """Conditional mean of the log return over a horizon, given the signals.

        Parameters
        ----------
        horizon_bars : int
            Bars of the horizon.
        lag : int
            Bars from the signal to its first return: bar t is given the mean of
            ``log(p[t + lag - 1 + horizon_bars] / p[t + lag - 1])``.

        Returns
        -------
        float64 ndarray of shape (n_bars, n_assets)
            ``sum over signals of payoff (1 - phi ** horizon_bars) phi ** (lag - 1) x[t]``; NaN
            where the name has no bar.
        """
        total: Floats = np.add.reduce(list(self.expected_parts(horizon_bars, lag).values()))
        return total


@dataclass(frozen=True, eq=False)
class PlantedBars:
    """A simulated market of bars and its truth.

    Parameters
    ----------
    panel : Panel
        What a model may see, on the complete session grid: close, open, high, low, volume in
        shares (not rounded) and dollar volume. Names are shuffled: column order says nothing
        about clusters.
    truth : BarTruth
    """

    panel: Panel
    truth: BarTruth


def session_grid(config: IntradayMarket) -> Bars:
    """Every bar of the market's sessions.

    Raises
    ------
    ConfigError
        When the calendar or the date is not known, or has not so many sessions to come.
    """
    venue = TradingCalendar(config.calendar)
    first = as_date(config.start, "start")
    span = pd.Timedelta(days=30 + 2 * config.n_sessions)
    sessions = venue.sessions(first, first + span)[: config.n_sessions]
    if len(sessions) < config.n_sessions:
        raise ConfigError(
            f"n_sessions: {config.calendar} knows {len(sessions)} sessions from {config.start} on, "
            f"not {config.n_sessions}",
            "ask for fewer, or an earlier start",
        )
    return venue.bars(config.interval, sessions[0], sessions[-1])


def _shocks(
    config: IntradayMarket, volatility: float, count: int, first: Bools, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Log returns within bars and over the nights before them, each of shape (n_bars, count)."""
    day, night = rng.spawn(2)
    scale = volatility * BPS
    within = day.standard_normal((len(first), count)) * scale * math.sqrt(config.spec.bar_minutes)
    gaps = np.zeros((len(first), count))
    overnight = night.standard_normal((int(first.sum()), count))
    gaps[first] = overnight * scale * math.sqrt(config.overnight_minutes)
    return within, gaps


def _drift(config: IntradayMarket, latents: dict[str, Floats]) -> Floats:
    """Predictable log return of each bar: from the signals of the bar before it."""
    residual = config.residual_deviation * BPS * latents["residual"]
    drift = np.diff(residual, axis=0, prepend=0.0)
    for name in SHOWN:
        drift[1:] += config.signals[name].forecast(1) * BPS * latents[name][:-1]
    return drift


def _bar_prices(
    config: IntradayMarket, closes: Floats, opens: Floats, latents: dict[str, Floats]
) -> tuple[Floats, Floats, Floats]:
    """Open, high and low around the closes: the range shows `slow`, the close's place `fast`."""
    usual = config.typical_range * BPS * math.sqrt(config.spec.bar_minutes)
    relative = np.minimum(usual * np.exp(RANGE_LOADING * latents["slow"]), WIDEST_RANGE)
    location = np.clip(
        CLOSE_LOCATION_LOADING * latents["fast"], -CLOSE_LOCATION_LIMIT, CLOSE_LOCATION_LIMIT
    )
    low = closes * (1.0 - relative * (1.0 + location) / 2.0)
    high = closes * (1.0 + relative * (1.0 - location) / 2.0)
    return np.clip(opens, low, high), high, low


def _volume(config: IntradayMarket, bars: Bars, medium: Floats, rng: np.random.Generator) -> Floats:
    """Shares of each bar: log volume shows `medium`."""
    low, high = np.log([BASE_VOLUME_LOW, BASE_VOLUME_HIGH])
    base = rng.uniform(low, high, config.n_assets) + math.log(config.spec.bar_minutes)
    place = np.arange(len(bars.session))
    start = np.searchsorted(bars.session, bars.session, side="left")
    last = np.searchsorted(bars.session, bars.session, side="right") - 1
    across = 2.0 * (place - start) / np.maximum(last - start, 1) - 1.0  # -1 at open, 1 at close
    profile = config.volume_profile * across[:, None] ** 2
    volume: Floats = np.exp(base + VOLUME_LOADING * medium + profile)
    return volume


def simulate_bars(config: IntradayMarket, seed: int) -> PlantedBars:
    """Draw a market of bars.

    The same `config` and `seed` give the same bytes. The streams of the parts are independent:
    losing bars, listings or another strength of a signal leave the other draws as they were. More
    sessions go on where fewer end, unless names list late or stop.

    Parameters
    ----------
    config : IntradayMarket
    seed : int
        Root of every random number, >= 0.

    Raises
    ------
    ConfigError
        When interval, calendar or dates are not known.
    """
    children = np.random.SeedSequence(seed).spawn(len(_STREAMS))
    rng = {part: np.random.default_rng(s) for part, s in zip(_STREAMS, children, strict=True)}
    bars, names = session_grid(config), config.n_assets
    n_bars = len(bars.closes)
    first = np.diff(bars.session, prepend=-1) != 0
    labels = rng["start"].permutation(
        np.repeat(np.arange(config.n_clusters), names // config.n_clusters)
    )
    latents = {
        name: ornstein_uhlenbeck(
            n_bars, names, signal.half_life, math.sqrt(1.0 - signal.persistence**2), rng[name]
        )
        for name, signal in config.signals.items()
    }
    market = _shocks(config, config.market_volatility, 1, first, rng["market"])
    factors = _shocks(config, config.factor_volatility, config.n_clusters, first, rng["factors"])
    own = _shocks(config, config.noise, names, first, rng["own"])
    within, night = (m + f[:, labels] + o for m, f, o in zip(market, factors, own, strict=True))
    log_start = rng["start"].uniform(np.log(START_PRICE_LOW), np.log(START_PRICE_HIGH), names)
    log_close = log_start + np.cumsum(within + night + _drift(config, latents), axis=0)
    before = np.vstack([log_start, log_close[:-1]])
    close = np.exp(log_close)
    open_, high, low = _bar_prices(config, close, np.exp(before + night), latents)
    volume = _volume(config, bars, latents["medium"], rng["start"])
    present = listed_bars(
        n_bars, names, config.late_listings, config.delistings, rng["listings"]
    ) & (rng["missing"].random((n_bars, names)) >= config.missing)

    def seen(values: Floats) -> Floats:
        return np.where(present, values, np.nan)

    panel = Panel(
        utc_index(bars.closes).rename("time"),
        asset_names(names),
        seen(close),
        present,
        config.interval,
        config.calendar,
        dollar_volume=seen(volume * close),
        open=seen(open_),
        high=seen(high),
        low=seen(low),
        volume=seen(volume),
    )
    return PlantedBars(panel, BarTruth(config, labels, latents, present))


def rank_correlation(correlation: float, n: int) -> float:
    """Mean Spearman correlation of n pairs drawn from a Gaussian law of the given correlation.

    ``6 / (pi (n + 1)) (asin(rho) + (n - 2) asin(rho / 2))``, which tends to
    ``(6 / pi) asin(rho / 2)`` (Moran 1948). NaN below two pairs.
    """
    if n < 2:
        return math.nan
    rho = min(1.0, max(-1.0, correlation))
    return 6.0 / (math.pi * (n + 1)) * (math.asin(rho) + (n - 2) * math.asin(rho / 2.0))


def _forward_variances(config: IntradayMarket, horizon_bars: int) -> list[tuple[float, float]]:
    """Half the variance of the difference of two names' returns, squared bps, and how often.

    By the number of nights that a horizon spans, and by whether the two names share a cluster,
    whose factor then cancels, as the market always does.
    """
    signals, names = config.signals, config.n_assets
    drifts = sum(signals[name].drift_variance(horizon_bars) for name in SHOWN)
    planted = drifts + signals["residual"].level_variance(horizon_bars)
    nights, rest = divmod(horizon_bars, config.spec.bars_per_session)
    one_more = rest / config.spec.bars_per_session
    alike = (config.names_per_cluster - 1) / max(names - 1, 1)
    walks = (
        (alike, config.noise**2),
        (1.0 - alike, config.noise**2 + config.factor_volatility**2),
    )
    minutes = horizon_bars * config.spec.bar_minutes
    return [
        (often * share, planted + walk * (minutes + count * config.overnight_minutes))
        for often, count in ((1.0 - one_more, nights), (one_more, nights + 1))
        for share, walk in walks
        if often * share > 0
    ]


def implied_ic(config: IntradayMarket, horizon_bars: int, lag: int = 1) -> dict[str, float]:
    """Mean cross-sectional Spearman correlation of the true forecasts with the return.

    In closed form: a forecast that is a conditional mean E of the return R correlates with it by
    ``sd(E) / sd(R)``, and :func:`rank_correlation` turns that into ranks. A mean rank correlation
    is one of signs of differences between two names, which are Gaussian given the nights a
    horizon spans and whether the two share a cluster: the mean is taken over both. Every session
    counts as a regular one.

    Parameters
    ----------
    config : IntradayMarket
    horizon_bars : int
        Bars of the horizon.
    lag : int
        As in :meth:`BarTruth.expected`.

    Returns
    -------
    dict
        Forecast to its IC: ``"oracle"``, that of :meth:`BarTruth.expected`; ``"shown"``, its part
        from the signals that a bar shows; and each of :data:`SIGNALS`. 0 for a signal without
        payoff, NaN where returns do not differ between names.
    """
    explained = {
        name: signal.forecast(horizon_bars, lag) ** 2 for name, signal in config.signals.items()
    }
    variances = _forward_variances(config, horizon_bars)

    def mean_ic(variance: float) -> float:
        return sum(
            often * rank_correlation(math.sqrt(variance / total), config.n_assets)
            if total > 0
            else math.nan
            for often, total in variances
        )

    together = {
        "oracle": sum(explained.values()),
        "shown": sum(explained[name] for name in SHOWN),
    }
    return {name: mean_ic(variance) for name, variance in (together | explained).items()}


def shuffled_outcomes(outcomes: Floats, rng: np.random.Generator) -> Floats:
    """Outcomes dealt anew to the names of their own bar: nothing can forecast them.

    For leak tests: what still finds a signal in them has seen them. Market moves and the law of
    each bar's outcomes stay as they are.

    Parameters
    ----------
    outcomes : float64 ndarray of shape (n_bars, n_assets)
        Such as forward returns. NaN stays NaN, and stays where it is.
    rng : numpy Generator

    Returns
    -------
    float64 ndarray of shape (n_bars, n_assets)
    """
    missing = np.isnan(outcomes)
    places = np.argsort(missing, axis=1, kind="stable")  # names with an outcome come first
    dealt = np.argsort(np.where(missing, 2.0, rng.random(outcomes.shape)), axis=1, kind="stable")
    out = np.empty_like(outcomes)
    np.put_along_axis(out, places, np.take_along_axis(outcomes, dealt, axis=1), axis=1)
    return out
