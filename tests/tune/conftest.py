"""A small planted market as a file; the modules of tune/ as ``python tune/grid.py`` has them."""

import sys
from pathlib import Path

import pandas as pd
import pytest

from dpa.simulation.planted import PlantedMarket, simulate

REPOSITORY = Path(__file__).resolve().parents[2]
TUNE = str(REPOSITORY / "tune")
if TUNE not in sys.path:
    sys.path.insert(0, TUNE)

POINTS = ["--window", "10,12", "--n-clusters", "2", "--similarity-threshold", "0.3"]
SMALL = ["--train-bars", "40", "--test-bars", "20", "--epochs", "2", "--no-dashboard"]


@pytest.fixture(scope="session")
def prices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide Parquet file: 230 daily bars of 8 names in 2 clusters."""
    planted = simulate(PlantedMarket(n_clusters=2, names_per_cluster=4, n_bars=230), 3).panel
    dates = planted.times.tz_convert("America/New_York").normalize().tz_localize(None)
    path = tmp_path_factory.mktemp("data") / "prices.parquet"
    frame = pd.DataFrame(planted.prices, dates.rename("date"), list(planted.names))
    frame.to_parquet(path)
    return path
