"""An irregular market: lost bars, a late listing, a delisting, a half day, a clock change."""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from dpa.cluster.model import ClusterModel
from dpa.config import ClusterConfig, HorizonsConfig
from dpa.horizons.clusters import ClusterReader
from dpa.horizons.feature_set import FeatureSet, choose_features
from dpa.market.interval_specs import get_interval_spec
from dpa.market.panel import Panel
from dpa.simulation.planted_bars import IntradayMarket, simulate_bars

CLOCK_CHANGE, HALF_DAY, WEEKEND = "2024-11-04", "2024-11-29", "2024-11-18"
RAW = ("open", "high", "low", "volume", "dollar_volume")


@lru_cache(maxsize=4)
def irregular_panel(interval: str = "5m", n_sessions: int = 27, names: int = 4) -> Panel:
    """Bars from 2024-10-28 on; 27 sessions reach over the clock change and the half day."""
    market = IntradayMarket(
        n_clusters=2,
        names_per_cluster=names,
        n_sessions=n_sessions,
        start="2024-10-28",
        interval=interval,
        missing=0.03,
        late_listings=0.25,
        delistings=0.25,
    )
    panel = simulate_bars(market, 1).panel
    generator = np.random.default_rng(5)
    arrays = {"prices": panel.prices.copy()} | {k: v.copy() for k, v in panel.extras().items()}
    for row in generator.choice(panel.n_bars, 5, replace=False):  # nobody trades
        for values in arrays.values():
            values[row] = np.nan
    still = generator.random(panel.prices.shape) < 0.02  # one price, no volume
    for name in ("open", "high", "low"):
        arrays[name][still] = arrays["prices"][still]
    for name in ("volume", "dollar_volume"):
        arrays[name][still & np.isfinite(arrays["prices"])] = 0.0
        arrays[name][generator.random(panel.prices.shape) < 0.02] = np.nan
    mask = panel.mask & np.isfinite(arrays["prices"])
    mask[panel.n_bars // 3 : panel.n_bars // 2, 2] = False  # priced, but no member
    return replace(panel, mask=mask, **arrays)


@lru_cache(maxsize=8)
def all_features(interval: str = "5m", sigma: int | None = None) -> FeatureSet:
    """Every feature that needs no cluster model."""
    config = HorizonsConfig(sigma_minutes=sigma)
    return choose_features(get_interval_spec(interval, None), frozenset(RAW), config, "XNYS")


def cluster_reader(**config: object) -> ClusterReader:
    """A small cluster model that has learned nothing."""
    settings = {"window": 12, "n_clusters": 2, "signal_window": 10, **config}
    return ClusterReader(ClusterModel(ClusterConfig.model_validate(settings), 0))


def on_dates(panel: Panel, first: str, last: str) -> np.ndarray:
    """Rows of the sessions from one date to another."""
    dates = panel.times.tz_convert("America/New_York").strftime("%Y-%m-%d")
    return np.flatnonzero((dates >= first) & (dates <= last))
