"""A small run of predictors done in this process, without Ray."""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from dpa.clock import FixedClock
from dpa.config import Settings, load_settings
from dpa.horizons.dataset import Dataset, make_block, write_block
from dpa.horizons.recipe import Recipe
from dpa.horizons.training import run_task
from dpa.market.panel import Panel
from dpa.market.shard_files import write_shards
from dpa.research.history import open_history
from dpa.research.horizon_plan import (
    HorizonPlan,
    dataset_folder,
    plan_horizons,
    prepare_cluster,
    run_directory,
)
from dpa.runs import RunDirectory
from dpa.simulation.planted_bars import IntradayMarket, simulate_bars

CLOCK = FixedClock(datetime(2026, 1, 2, tzinfo=UTC))
FEATURES = ("return_scaled_5m", "close_location_5m", "range_surprise_5m", "reversal_30m")
CLUSTER = ("cluster_score", "cluster_gate", "cluster_active")


@lru_cache(maxsize=1)
def bars() -> Panel:
    """Ten sessions of 8 names on 5m bars, the clock change among them."""
    market = IntradayMarket(
        n_clusters=2, names_per_cluster=4, n_sessions=10, start="2024-10-28", missing=0.01
    )
    return simulate_bars(market, 6).panel


def small_settings(shards: Path, **sections: dict[str, object]) -> Settings:
    tree = {
        "data": {"path": str(shards)},
        "model": {"window": 12, "n_clusters": 2, "signal_window": 12},
        "training": {"epochs": 1},
        "horizons": {
            "horizons": ("5m", "30m"),
            "feature_list": FEATURES,
            "families": ("ridge", "gbdt"),
            "cluster": "absent",
            "sigma_minutes": 390,
            "train_sessions": 4,
            "test_sessions": 2,
            "sessions_per_block": 3,
        },
        "families": {"gbdt_trees": 5, "gbdt_min_rows": 50},
    }
    for section, fields in sections.items():
        tree[section] = tree.get(section, {}) | fields
    return load_settings(None, tree, {})


def small_plan(folder: Path, **sections: dict[str, object]) -> HorizonPlan:
    """The plan of a run under ``folder/runs``; its shards are in ``folder/shards``."""
    if not (folder / "shards").is_dir():
        write_shards(bars(), folder / "shards")
    settings = small_settings(folder / "shards", **sections)
    return plan_horizons(settings, open_history(settings.data), folder / "runs")


@dataclass(frozen=True)
class Done:
    """A run whose fits are all there."""

    plan: HorizonPlan
    run: RunDirectory
    recipe: Recipe
    dataset: Dataset
    storage: Path


def small_run(folder: Path, **sections: dict[str, object]) -> Done:
    plan, storage = small_plan(folder, **sections), folder / "runs"
    run = run_directory(plan, 0, storage, CLOCK)
    recipe = plan.recipe(prepare_cluster(plan, run))
    features = dataset_folder(plan, recipe, storage)
    features.mkdir(parents=True)
    for span in plan.spans():
        write_block(features, make_block(plan.source, recipe, span), span)
    dataset = Dataset.finish(features, plan.spans())
    for task in plan.tasks(recipe):
        run_task(task, plan.folds, dataset, recipe, run.tasks)
    return Done(plan, run, recipe, dataset, storage)
