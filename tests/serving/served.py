"""Two small bundles of one invented market, and requests made of the bars after them."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dpa.clock import FixedClock
from dpa.config import Settings, load_settings
from dpa.horizons.bundle import HorizonBundle, write_bundle
from dpa.horizons.promotion import POINTER, promote_bundle
from dpa.market.panel import Panel
from dpa.serving.graph import Graph, LocalLinks, local_stages
from dpa.serving.market_stage import MarketStage
from dpa.serving.meters import NoMeters
from dpa.serving.types import Request
from dpa.simulation.planted_bars import IntradayMarket, simulate_bars
from tests.horizons.small_run import CLOCK, run_small, small_settings

MARKET = IntradayMarket(
    n_clusters=2,
    names_per_cluster=4,
    n_sessions=12,
    start="2024-06-24",
    fast_payoff=12.0,
    medium_payoff=34.0,
)
TRAINED = 7 * 78 + 42  # bars, a half day among them
BEGUN = TRAINED + 2 * 78  # bars on record to begin with
FAMILIES = ("ridge", "gbdt")
TREE: dict[str, dict[str, Any]] = {
    "standardise": {"score_samples": 20},
    "confidence": {"ic_prior_samples": 10.0},
    "online": {"online_warmup": 20},
    "arbitration": {"reserve_bps": 0.0, "timing_factor": 0.0},
    "costs": {"commission_bps": 0.0, "impact_coefficient": 0.0},
    "gates": {"barrier_block": 0.9, "barrier_exit": 0.95},
    "serving": {"warm_sessions": 2, "family_ms": 60000.0, "checkpoint_bars": 3},
}


@dataclass(frozen=True, eq=False)
class Bundles:
    """A market and the folders of two bundles trained on its first bars."""

    panel: Panel
    first: Path
    second: Path
    promoted: Path  # storage in which the first is promoted


def make_bundles(folder: Path) -> Bundles:
    """Train both; seconds."""
    panel = simulate_bars(MARKET, 5).panel
    folders = []
    for seed in (0, 1):
        settings = small_settings(families=FAMILIES, horizon_seed=seed)
        run = run_small(folder / f"run{seed}", settings, panel.window(0, TRAINED))
        parts = run.parts(folder / f"models{seed}")
        write_bundle(folder / f"bundle{seed}", parts, CLOCK)
        folders.append(folder / f"bundle{seed}")
    promote_bundle(folders[0], folder / "promoted", CLOCK, "hand")
    return Bundles(panel, *folders, folder / "promoted")


def served_settings(**sections: Mapping[str, Any]) -> Settings:
    """Settings under which eight names trade."""
    tree = {name: {**TREE.get(name, {}), **sections.get(name, {})} for name in {*TREE, *sections}}
    return load_settings(None, tree, {})


def open_graph(
    bundles: Bundles,
    storage: Path,
    settings: Settings,
    links: type[LocalLinks] = LocalLinks,
    begun: int = BEGUN,
    reference: str = "promoted",
) -> Graph:
    """A graph in this process over `storage`, which begins with a history."""
    clock = FixedClock(pd.Timestamp("2026-01-02", tz="UTC").to_pydatetime())
    if not (storage / POINTER).exists():
        storage.mkdir(parents=True, exist_ok=True)
        shutil.copy(bundles.promoted / POINTER, storage / POINTER)

    def history(bundle: HorizonBundle, n_bars: int) -> Panel:
        return bundles.panel.window(max(begun - n_bars, 0), begun)

    market = MarketStage(settings, storage, reference, (), clock, history)
    stages = local_stages(settings, storage, (), market)
    return Graph(links(stages), settings, storage, reference, NoMeters(), clock)


def make_request(panel: Panel, row: int, **changes: Any) -> Request:
    """What an engine would send after the bar numbered `row`."""
    close = panel.prices[row]
    n_symbols = panel.n_assets
    given = {
        "time": panel.times[row],
        "moment": panel.times[row] + pd.Timedelta(1, "s"),
        "account": "default",
        "nav_usd": 1e6,
        "prior_nav_usd": 1e6,
        "feed": "direct",
        "names": panel.names,
        "bars": {"close": close, **{name: a[row] for name, a in panel.extras().items()}},
        "member": np.ones(n_symbols, dtype=bool),
        "bid": close * (1 - 1e-5),
        "ask": close * (1 + 1e-5),
        "quote_age_ms": np.full(n_symbols, 50.0),
        "adv_usd": np.full(n_symbols, np.nan),
        "shares": np.zeros(n_symbols),
        "lot": np.ones(n_symbols),
    }
    return Request(**{**given, **changes})
