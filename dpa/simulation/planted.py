"""Markets with a known truth: Ornstein-Uhlenbeck residuals around cluster factors, random walks.

Every number here is invented, so what a model finds in it can be compared with what was put in.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator

from dpa.config import Frozen
from dpa.errors import ConfigError
from dpa.market.calendars import TradingCalendar, as_date
from dpa.market.panel import Floats, Panel

Labels = NDArray[np.int64]
START_PRICE_LOW, START_PRICE_HIGH = 20.0, 200.0  # USD


class PlantedMarket(Frozen):
    """A market of clusters whose members revert to their cluster's path.

    ``log price = market + factor of the cluster + residual + idiosyncratic walk``, where the
    residual is an Ornstein-Uhlenbeck process in log price (its discrete form, an AR(1) with
    coefficient ``2 ** (-1 / half_life)``) and is all there is to earn. The other three are
    martingales in price. Volatilities are standard deviations of log returns per bar.

    Notes
    -----
    The default scales are calibrated so that :func:`dpa.simulation.oracle.tuned_oracle`, which
    is told the true labels, earns an annual net Sharpe of about 10 at 10 bps a side on daily
    bars (mean over seeds and range in ``tests/simulation/test_oracle.py``). They give names of
    one cluster a return correlation of 0.49, names of two clusters 0.20.
    """

    n_clusters: int = Field(5, ge=1, le=200, description="clusters")
    names_per_cluster: int = Field(10, ge=2, le=1000, description="names in each cluster at start")
    n_bars: int = Field(2000, ge=2, le=2_000_000, description="bars")
    half_life: float = Field(10.0, gt=0, le=10_000, description="half-life of the residual, bars")
    residual_volatility: float = Field(
        0.015, ge=0, le=0.5, description="sd of the residual's innovation, log price per bar"
    )
    factor_volatility: float = Field(0.012, ge=0, le=0.5, description="sd of a cluster's factor")
    market_volatility: float = Field(0.010, ge=0, le=0.5, description="sd of the common factor")
    noise: float = Field(
        0.005, ge=0, le=0.5, description="sd of each name's own permanent, unpredictable return"
    )
    jump_rate: float = Field(
        0.0, ge=0, le=1, description="probability of a permanent jump, per name and bar"
    )
    jump_size: float = Field(0.10, ge=0, le=2, description="sd of a jump, log price")
    late_listings: float = Field(
        0.0,
        ge=0,
        le=1,
        description="fraction of names that list after the first tenth, before the middle",
    )
    delistings: float = Field(
        0.0, ge=0, le=1, description="fraction of names that stop trading for good after the middle"
    )
    regime_change_bar: int | None = Field(
        None, ge=1, description="first bar at which names follow their new cluster; none: no change"
    )
    regime_change_fraction: float = Field(
        0.5, ge=0, le=1, description="fraction of names that move to another cluster then"
    )
    interval: str = Field("1d", description="bar length, for example 5m, 1h, 1d")
    calendar: str = Field("XNYS", description="exchange_calendars code of the venue")
    start: str = Field("2010-01-04", description="first date, YYYY-MM-DD")

    @model_validator(mode="after")
    def _regime_fits(self) -> "PlantedMarket":
        if self.regime_change_bar is not None and self.regime_change_bar >= self.n_bars:
            raise ValueError(
                f"regime_change_bar {self.regime_change_bar} must be below n_bars {self.n_bars}"
            )
        if self.regime_change_bar is not None and self.n_clusters < 2:
            raise ValueError("regime_change_bar needs n_clusters of at least 2")
        return self

    @property
    def n_assets(self) -> int:
        """Number of names."""
        return self.n_clusters * self.names_per_cluster


@dataclass(frozen=True, eq=False)
class Planted:
    """A simulated market and its truth.

    Parameters
    ----------
    panel : Panel
        What a model may see. Names are shuffled: column order says nothing about clusters.
    labels : int64 ndarray of shape (n_bars, n_assets)
        True cluster at each bar, -1 where the name is not listed.
    residuals : float64 ndarray of shape (n_bars, n_assets)
        Ornstein-Uhlenbeck part of the log price, NaN where the name is not listed.
    factors : float64 ndarray of shape (n_bars, n_clusters)
        Log return of each cluster's factor per bar, the market left out; row 0 is 0.
    """

    panel: Panel
    labels: Labels
    residuals: Floats
    factors: Floats


def bar_times(interval: str, calendar: str, start: str, n_bars: int) -> pd.DatetimeIndex:
    """The first `n_bars` bar closes (UTC) of a venue from the date `start` on."""
    venue = TradingCalendar(calendar)
    first = as_date(start, "start")
    days = pd.Timedelta(days=10 + 366 * 1.05 * n_bars / venue.bars_per_year(interval))
    return venue.bar_closes(interval, first, first + days)[:n_bars].rename("time")


def ornstein_uhlenbeck(
    n_bars: int, n_assets: int, half_life: float, volatility: float, rng: np.random.Generator
) -> Floats:
    """Stationary AR(1) paths, shape (n_bars, n_assets).

    ``x[t] = phi x[t-1] + volatility * e[t]`` with ``phi = 2 ** (-1 / half_life)``; the first row
    is drawn from the stationary law, ``volatility / sqrt(1 - phi ** 2)``.
    """
    phi = 0.5 ** (1.0 / half_life)
    path = rng.standard_normal((n_bars, n_assets)) * volatility
    path[0] /= np.sqrt(1.0 - phi**2)
    for bar in range(1, n_bars):
        path[bar] += phi * path[bar - 1]
    return path


def _martingale(shape: tuple[int, ...], volatility: float, rng: np.random.Generator) -> Floats:
    """Log returns whose exponential has mean 1; the first row is 0."""
    steps = rng.standard_normal(shape) * volatility - 0.5 * volatility**2
    steps[0] = 0.0
    return steps


def _true_labels(config: PlantedMarket, rng: np.random.Generator) -> Labels:
    first = rng.permutation(np.repeat(np.arange(config.n_clusters), config.names_per_cluster))
    labels = np.tile(first, (config.n_bars, 1))
    if config.regime_change_bar is not None:
        count = round(config.regime_change_fraction * config.n_assets)
        movers = rng.choice(config.n_assets, count, replace=False)
        shift = rng.integers(1, config.n_clusters, count)
        labels[config.regime_change_bar :, movers] = (first[movers] + shift) % config.n_clusters
    return labels


def listed_bars(
    n_bars: int, n_assets: int, late: float, gone: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Whether each name is listed, shape (n_bars, n_assets).

    A fraction `late` of the names lists between the first tenth and the middle, a fraction
    `gone` stops for good between the middle and the last tenth.
    """
    first_bar, end_bar = np.zeros(n_assets, int), np.full(n_assets, n_bars)
    late_names = rng.choice(n_assets, round(late * n_assets), replace=False)
    gone_names = rng.choice(n_assets, round(gone * n_assets), replace=False)
    middle = n_bars // 2
    first_bar[late_names] = rng.integers(max(1, n_bars // 10), max(2, middle), len(late_names))
    end_bar[gone_names] = rng.integers(max(2, middle), max(3, n_bars * 9 // 10), len(gone_names))
    bar = np.arange(n_bars)[:, None]
    return (bar >= first_bar) & (bar < end_bar)


def asset_names(count: int) -> tuple[str, ...]:
    """Invented ticker symbols, ``N00`` onwards."""
    width = len(str(count - 1))
    return tuple(f"N{number:0{width}d}" for number in range(count))


def _panel(
    log_prices: Floats, listed: NDArray[np.bool_], interval: str, calendar: str, start: str
) -> Panel:
    bars, names = log_prices.shape
    times = bar_times(interval, calendar, start, bars)
    prices = np.where(listed, np.exp(log_prices), np.nan)
    return Panel(times, asset_names(names), prices, listed, interval, calendar)


def simulate(config: PlantedMarket, seed: int) -> Planted:
    """Draw a planted market.

    The same `config` and `seed` give the same bytes. The streams of the parts are independent:
    switching jumps, listings or a regime change on leaves the other draws as they were.

    Parameters
    ----------
    config : PlantedMarket
        Scales per bar, see there.
    seed : int
        Root of every random number, >= 0.
    """
    streams = np.random.SeedSequence(seed).spawn(7)
    market_rng, factor_rng, residual_rng, noise_rng, jump_rng, label_rng, list_rng = (
        np.random.default_rng(stream) for stream in streams
    )
    bars, names = config.n_bars, config.n_assets
    labels = _true_labels(config, label_rng)
    market = _martingale((bars, 1), config.market_volatility, market_rng)
    factors = _martingale((bars, config.n_clusters), config.factor_volatility, factor_rng)
    residuals = ornstein_uhlenbeck(
        bars, names, config.half_life, config.residual_volatility, residual_rng
    )
    own = _martingale((bars, names), config.noise, noise_rng)
    jumps = jump_rng.standard_normal((bars, names)) * config.jump_size
    own[1:] += np.where(jump_rng.random((bars, names)) < config.jump_rate, jumps, 0.0)[1:]
    log_start = noise_rng.uniform(np.log(START_PRICE_LOW), np.log(START_PRICE_HIGH), names)
    walk = np.cumsum(market + np.take_along_axis(factors, labels, axis=1) + own, axis=0)
    listed = listed_bars(bars, names, config.late_listings, config.delistings, list_rng)
    return Planted(
        panel=_panel(
            log_start + walk + residuals, listed, config.interval, config.calendar, config.start
        ),
        labels=np.where(listed, labels, -1),
        residuals=np.where(listed, residuals, np.nan),
        factors=factors,
    )


def random_walks(
    n_assets: int,
    n_bars: int,
    volatility: float,
    seed: int,
    interval: str = "1d",
    calendar: str = "XNYS",
    start: str = "2010-01-04",
) -> Panel:
    """Independent geometric random walks: there is nothing to earn, before or after costs.

    Parameters
    ----------
    n_assets, n_bars : int
        Shape of the panel.
    volatility : float
        Standard deviation of the log return per bar; prices are martingales.
    seed : int
        Root of every random number, >= 0.

    Raises
    ------
    ConfigError
        A count below 1, or a volatility that is negative or not finite.
    """
    if n_assets < 1 or n_bars < 1:
        raise ConfigError(f"random walks of shape ({n_bars}, {n_assets})", "ask for at least 1 x 1")
    if not 0 <= volatility < np.inf:
        raise ConfigError(f"volatility {volatility} per bar", "use a finite number of at least 0")
    rng = np.random.default_rng(seed)
    log_start = rng.uniform(np.log(START_PRICE_LOW), np.log(START_PRICE_HIGH), n_assets)
    steps = _martingale((n_bars, n_assets), volatility, rng)
    listed = np.ones((n_bars, n_assets), dtype=bool)
    return _panel(log_start + np.cumsum(steps, axis=0), listed, interval, calendar, start)
