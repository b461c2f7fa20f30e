"""The baselines leave the files of a trial, and do what their names say."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from dpa.clock import FixedClock
from dpa.config import load_settings
from dpa.errors import ConfigError
from dpa.market.costs import CostModel
from dpa.market.panel import Panel
from dpa.research.backtest import RETURN_COLUMNS, Backtest
from dpa.research.baselines import BASELINES, run_baseline
from dpa.simulation.planted import PlantedMarket, random_walks, simulate
from dpa.validation.splits import walk_forward_folds

SETTINGS = load_settings(
    overrides={
        "model": {"window": 20, "n_clusters": 5},
        "walk_forward": {"train_bars": 120, "test_bars": 60},
    },
    environ={},
)


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(datetime(2026, 1, 5, tzinfo=UTC))


@pytest.fixture(scope="module")
def market() -> Panel:
    return simulate(PlantedMarket(n_bars=500, late_listings=0.1, delistings=0.1), seed=7).panel


@pytest.fixture(scope="module")
def folds(market):
    return walk_forward_folds(market.n_bars, SETTINGS.walk_forward, SETTINGS.model.context_bars)


@pytest.fixture(scope="module")
def last_bar(market):
    return np.array([np.flatnonzero(np.isfinite(column))[-1] for column in market.prices.T])


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_files_of_a_trial(name, market, folds, last_bar, tmp_path, clock):
    summary = run_baseline(name, SETTINGS, market, folds, tmp_path / name, last_bar, clock)
    returns = pd.read_parquet(tmp_path / name / "returns.parquet")
    weights = pd.read_parquet(tmp_path / name / "weights.parquet")
    rows = pd.read_csv(tmp_path / name / "folds.csv")
    bars = market.times[folds[0].test_start : folds[-1].test_stop]
    assert list(returns.columns) == [*RETURN_COLUMNS, "fold"]
    assert returns.index.equals(bars.rename("time").as_unit(returns.index.unit))
    assert weights.shape == (len(bars), market.n_assets)
    assert len(rows) == len(folds)
    assert summary["bars"] == len(bars)
    assert returns["gross_exposure"].iloc[-1] == 0.0  # liquidated, and paid for
    held = weights.to_numpy() != 0
    assert not held[np.isnan(market.prices[folds[0].test_start : folds[-1].test_stop])].any()
    np.testing.assert_allclose(
        rows["cost"], (returns["gross"] - returns["net"]).groupby(returns["fold"]).mean()
    )


def test_equal_weight_is_the_mean_growth_of_its_members(market, folds, tmp_path):
    one = folds[:1]
    free = SETTINGS.model_copy(
        update={
            "costs": SETTINGS.costs.model_copy(
                update={"half_spread_bps": 0.0, "commission_bps": 0.0}
            )
        }
    )
    run_baseline("equal_weight", free, market, one, tmp_path)
    returns = pd.read_parquet(tmp_path / "returns.parquet")
    start, stop = one[0].test_start, one[0].test_stop
    prices = pd.DataFrame(market.prices[start:stop, market.mask[start]]).ffill().to_numpy()
    assert (1 + returns["net"]).prod() == pytest.approx((prices[-1] / prices[0]).mean())
    assert (returns["turnover"].iloc[1:-1] == 0).all()


def test_equal_weight_trades_at_the_start_of_each_fold_only(market, folds, last_bar, tmp_path):
    run_baseline("equal_weight", SETTINGS, market, folds, tmp_path, last_bar)
    returns = pd.read_parquet(tmp_path / "returns.parquet")
    traded = np.flatnonzero(returns["turnover"])
    starts = [fold.test_start - folds[0].test_start for fold in folds]
    assert traded.tolist() == [*starts, len(returns) - 1]


def test_pca_finds_planted_reversion_and_nothing_in_random_walks(tmp_path):
    planted = simulate(PlantedMarket(n_bars=700), seed=3).panel
    walks = random_walks(n_assets=50, n_bars=700, volatility=0.02, seed=3)
    sharpe = {}
    for name, panel in (("planted", planted), ("walks", walks)):
        folds = walk_forward_folds(panel.n_bars, SETTINGS.walk_forward, 132)
        summary = run_baseline("pca_sscore", SETTINGS, panel, folds, tmp_path / name)
        sharpe[name] = summary["gross_sharpe"]
    assert sharpe["planted"] > 3.0
    assert abs(sharpe["walks"]) < 2.5


def test_returns_are_those_of_the_weights(market, folds, last_bar, tmp_path):
    run_baseline("pca_sscore", SETTINGS, market, folds, tmp_path, last_bar)
    weights = pd.read_parquet(tmp_path / "weights.parquet").to_numpy(dtype=float)
    first, stop = folds[0].test_start, folds[-1].test_stop
    backtest = Backtest(CostModel(SETTINGS.costs), market.calendar, market.interval, 1)
    again, _ = backtest.run(
        weights, market.window(first, stop), backtest.warm_up(market.window(0, first)),
        last_bar=last_bar, first_bar=first, liquidate=True,
    )  # fmt: skip
    stored = pd.read_parquet(tmp_path / "returns.parquet")["net"]
    np.testing.assert_allclose(again.net, stored, atol=1e-8)  # weights are stored as float32


def test_an_unknown_baseline_names_the_ones_there_are(market, folds, tmp_path):
    with pytest.raises(ConfigError, match=r"'momentum'.*equal_weight, kmeans_fixed, pca_sscore"):
        run_baseline("momentum", SETTINGS, market, folds, tmp_path / "x")
    assert not (tmp_path / "x").exists()
