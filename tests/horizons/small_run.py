"""A small real run of predictors in this process, without Ray."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from dpa.clock import FixedClock
from dpa.cluster.model import ClusterModel
from dpa.cluster.storage import save_model
from dpa.config import Settings, load_settings
from dpa.horizons.bundle import BundleParts
from dpa.horizons.calibration import Calibrator, barrier_mean
from dpa.horizons.dataset import Dataset, make_block, plan_blocks, session_of, write_block
from dpa.horizons.recipe import Recipe, make_recipe
from dpa.horizons.stacker import CrossHorizonStacker
from dpa.horizons.training import load_final, plan_tasks, read_forecast, run_task
from dpa.market.fingerprints import panel_fingerprint
from dpa.market.panel import Panel
from dpa.simulation.planted_bars import IntradayMarket
from dpa.validation.purge import session_folds
from dpa.validation.splits import Fold

MARKET = IntradayMarket(
    n_clusters=2, names_per_cluster=4, n_sessions=9, start="2024-06-24", missing=0.01
)
FEATURES = (
    "return_scaled_5m",
    "residual_market_30m",
    "return_rank_30m",
    "momentum_60m",
    "reversal_30m",
    "close_location_5m",
    "range_surprise_5m",
    "volume_surprise_5m",
    "vwap_distance_session",
    "overnight_gap",
    "session_left",
    "cluster_score",
    "cluster_gate",
    "cluster_active",
)
FAMILIES = ("cluster", "ridge", "gbdt", "encoder")
CLOCK = FixedClock(datetime(2026, 1, 2, tzinfo=UTC))


def small_settings(**horizons: object) -> Settings:
    """Short look-backs and tiny families."""
    tree = {
        "model": {"window": 12, "n_clusters": 2, "signal_window": 12},
        "horizons": {
            "horizons": ("5m", "30m", "60m"),
            "feature_list": FEATURES,
            "families": FAMILIES,
            "sigma_minutes": 390,
            "train_sessions": 3,
            "test_sessions": 2,
            "sessions_per_block": 2,
            **horizons,
        },
        "families": {
            "gbdt_trees": 5,
            "gbdt_min_rows": 50,
            "encoder_width": 8,
            "encoder_layers": 1,
            "encoder_epochs": 2,
        },
    }
    return load_settings(None, tree, {})


@dataclass(frozen=True, eq=False)
class SmallRun:
    """Everything a run leaves that a bundle is made from."""

    panel: Panel
    recipe: Recipe
    dataset: Dataset
    folds: list[Fold]
    tasks: Path

    def families(self, into: Path) -> dict[str, Path]:
        """Final models of each family, each in a folder of its own."""
        folders = {name: into / name for name in self.recipe.settings.horizons.families}
        for name, folder in folders.items():
            load_final(self.tasks, name, self.recipe, folder)
        return folders

    def parts(self, into: Path) -> BundleParts:
        """What a bundle is made from; models are put together in `into`."""
        recipe, families = self.recipe, self.recipe.settings.horizons.families
        schema = recipe.schema()
        stacked, raw, labels = [], [], []
        for fold in self.folds:
            said = [read_forecast(self.tasks, f"{fold.index:03d}", n, schema) for n in families]
            forecasts = np.stack([f.returns for f in said], axis=-1)  # bars, assets, horizons, ..
            targets = self.dataset.dense("targets", fold.test_start, fold.test_stop)
            n_horizons = targets.shape[2]
            columns = forecasts.reshape(-1, n_horizons, len(families)).transpose(1, 2, 0)
            stacked.append((columns, targets.reshape(-1, n_horizons).T))
            mean = barrier_mean([f.barriers for f in said if f.barriers is not None])
            if mean is not None:
                raw.append(mean.ravel())
                seen = self.dataset.dense("barriers", fold.test_start, fold.test_stop)
                labels.append(seen.ravel())
        stacker = CrossHorizonStacker(recipe.horizons, families, recipe.settings.stacking)
        last, times = self.dataset.spans[-1], self.panel.times
        return BundleParts(
            recipe,
            self.families(into),
            stacker.fit_parts(stacked),
            (Calibrator.fit("platt", np.concatenate(raw), np.concatenate(labels)),) * 2
            if raw
            else (),
            self.dataset.rows(last.start, last.stop),
            self.panel.window(times.size - recipe.feature_set().reach - 1, times.size),
            "20260102-000000-00000000",
            panel_fingerprint(self.panel),
            times[self.folds[0].train_start].to_pydatetime(),
            times[-1].to_pydatetime(),
            {f"{name} {label}": 0.01 for name in families for label in schema.labels},
        )


def run_small(
    folder: Path, settings: Settings, panel: Panel, n_fits: int | None = None
) -> SmallRun:
    """Blocks and fits of a run; `n_fits` limits the folds, the final fit is always there."""
    cluster = folder / "cluster"
    save_model(
        ClusterModel(settings.model, settings.training.seed),
        cluster,
        panel.names,
        {"interval": panel.interval, "seen_until": panel.times[0].isoformat()},
    )
    extras = tuple(panel.extras())
    recipe = make_recipe(settings, panel.names, panel.interval, panel.calendar, extras, cluster)
    session = session_of(panel.times, panel.interval, panel.calendar)
    blocks = folder / "features"
    blocks.mkdir(parents=True)
    spans = plan_blocks(session, settings.horizons.sessions_per_block)
    for span in spans:
        write_block(blocks, make_block(panel, recipe, span), span)
    dataset = Dataset.finish(blocks, spans)
    folds = session_folds(
        session,
        settings.horizons.train_sessions,
        settings.horizons.test_sessions,
        recipe.purge,
        recipe.feature_set().reach,
    )[:n_fits]
    tasks = folder / "tasks"
    for task in plan_tasks(len(folds), settings.horizons.families, recipe.schema().labels):
        run_task(task, folds, dataset, recipe, tasks)
    return SmallRun(panel, recipe, dataset, folds, tasks)
