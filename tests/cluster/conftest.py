"""Small markets and one thread for the tests of the cluster model."""

import numpy as np
import pytest
import torch

from dpa.market.panel import Panel
from dpa.simulation.planted import PlantedMarket, bar_times, simulate


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def rng():
    return np.random.default_rng(20)


@pytest.fixture(scope="session")
def market():
    """Five clusters of six names that all trade all the time, 600 bars."""
    return simulate(PlantedMarket(n_clusters=5, names_per_cluster=6, n_bars=600), 3)


@pytest.fixture(scope="session")
def messy():
    """Three clusters of five names; names list late, stop trading, and are missing at times."""
    config = PlantedMarket(
        n_clusters=3, names_per_cluster=5, n_bars=170, late_listings=0.3, delistings=0.2
    )
    panel = simulate(config, 1).panel
    prices, mask = panel.prices.copy(), panel.mask.copy()
    prices[70, 2], mask[70, 2] = np.nan, False
    mask[90:95, 4] = False  # a price, but not a member
    return Panel(panel.times, panel.names, prices, mask, panel.interval, panel.calendar)


@pytest.fixture(scope="session")
def make_panel():
    """Panel of prices (n_bars, n_assets), members wherever there is a price."""

    def make(prices, mask=None, dollar_volume=None):
        prices = np.asarray(prices, dtype=np.float64)
        mask = np.isfinite(prices) if mask is None else mask
        names = tuple(f"N{i}" for i in range(prices.shape[1]))
        times = bar_times("1d", "XNYS", "2010-01-04", len(prices))
        return Panel(times, names, prices, mask, "1d", "XNYS", dollar_volume)

    return make
