"""Is the truth recovered? Planted markets against their oracle, and random walks against nothing.

    python tests/benchmarks/bench_truth.py            # both tables
    python tests/benchmarks/bench_truth.py --only planted --seeds 3

Planted: 5 clusters of 10 names, residual half-life 10 bars, 2,000 daily bars, 10 bps a side. The
oracle knows the true clusters and its thresholds are tuned on the very bars it is judged on.
Random walks: 50 names, 2,000 bars, a grid of three windows a seed; nothing is there to be found.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import adjusted_rand_score

from dpa.config import Settings
from dpa.market.calendars import TradingCalendar
from dpa.market.panel import Panel
from dpa.research.rolling import RollingTrainer
from dpa.research.single import last_price_bars
from dpa.runs import seeded
from dpa.simulation.oracle import tuned_oracle
from dpa.simulation.planted import Planted, PlantedMarket, random_walks, simulate
from dpa.validation.splits import walk_forward_folds
from dpa.validation.statistics import deflated_sharpe_ratios

COSTS = {"half_spread_bps": 9.0, "commission_bps": 1.0, "borrow_bps_per_year": 0.0}
MODELS: dict[str, dict[str, Any]] = {
    "returns + comovement (default)": {},
    "returns + comovement, hard": {"mode": "anneal"},
    "returns + shape": {"centroids": "shape"},
    "price_path + comovement": {"features": "price_path"},
    "price_path + shape": {"features": "price_path", "centroids": "shape"},
    "no learning": {"learn": False},
}
MARKETS: dict[str, dict[str, Any]] = {
    "plain": {},
    "jumps, late listings, delistings": {
        "jump_rate": 0.002,
        "jump_size": 0.1,
        "late_listings": 0.2,
        "delistings": 0.2,
    },
    "half the names move at bar 1,000": {"regime_change_bar": 1000},
}


def settings_for(seed: int, model: Mapping[str, Any]) -> Settings:
    """The default settings with five clusters and 10 bps a side."""
    chosen = dict(model)
    training = {"seed": seed, "mode": chosen.pop("mode", "soft")}
    tree = {"model": {"n_clusters": 5} | chosen, "training": training, "costs": COSTS}
    return seeded(Settings.model_validate(tree))


def walk(panel: Panel, settings: Settings, context: int, folder: Path) -> dict[str, Any]:
    """One rolling trainer over all folds; its summary."""
    folds = walk_forward_folds(panel.n_bars, settings.walk_forward, context)
    trainer = RollingTrainer(settings, panel, folds, folder, last_price_bars(panel))
    while not trainer.done:
        trainer.step()
    return trainer.finish() | {"first": folds[0].test_start, "last": folds[-1].test_stop}


def recovered(folder: Path, planted: Planted, first: int) -> tuple[float, float]:
    """Mean adjusted Rand index over the out-of-sample bars, and the share of names inside."""
    found = pd.read_parquet(folder / "clusters.parquet").to_numpy()
    scores, inside = [], []
    for row, labels in enumerate(found):
        truth = planted.labels[first + row]
        listed = truth >= 0
        kept = listed & (labels >= 0)
        inside.append(kept.sum() / listed.sum())
        if kept.sum() > 1:
            scores.append(adjusted_rand_score(truth[kept], labels[kept]))
    return float(np.mean(scores)) if scores else float("nan"), float(np.mean(inside))


def planted_table(seeds: int) -> None:
    """Sharpe and adjusted Rand index against the oracle."""
    print("| market | model | seed | ARI | inside | net Sharpe | oracle | share | gross exposure |")
    print("|---|---|---|---|---|---|---|---|---|")
    for market, changes in MARKETS.items():
        models = MODELS if market == "plain" else {"returns + comovement (default)": {}}
        for seed in range(seeds):
            planted = simulate(PlantedMarket(**changes), seed)
            for name, model in models.items():
                settings = settings_for(seed, model)
                with tempfile.TemporaryDirectory() as scratch:
                    folder = Path(scratch)
                    got = walk(planted.panel, settings, settings.model.context_bars, folder)
                    ari, inside = recovered(folder, planted, got["first"])
                bars = slice(got["first"], got["last"])
                oracle = oracle_sharpe(planted, bars)
                print(
                    f"| {market} | {name} | {seed} | {ari:.3f} | {inside:.2f} "
                    f"| {got['net_sharpe']:.2f} | {oracle:.2f} "
                    f"| {got['net_sharpe'] / oracle:.2f} | {got['average_gross']:.2f} |",
                    flush=True,
                )


def oracle_sharpe(planted: Planted, bars: slice) -> float:
    """Net Sharpe of the tuned rule on the true labels over the same bars and costs."""
    per_year = TradingCalendar(planted.panel.calendar).bars_per_year(planted.panel.interval)
    return tuned_oracle(planted, per_year, bars=bars, cost_bps=10.0).net_sharpe


def random_table(seeds: int) -> None:
    """A grid of three windows on each random market."""
    print("| seed | best net Sharpe | its DSR | its gross exposure | annual return | annual cost |")
    print("|---|---|---|---|---|---|")
    passed, exposures, beyond = 0, [], []
    for seed in range(seeds):
        panel = random_walks(n_assets=50, n_bars=2000, volatility=0.02, seed=seed)
        rows, returns = [], []
        for window in (30, 60, 90):
            settings = settings_for(seed, {"window": window})
            with tempfile.TemporaryDirectory() as scratch:
                rows.append(walk(panel, settings, 180, Path(scratch)))
                frame = pd.read_parquet(Path(scratch) / "returns.parquet")
            returns.append(frame["net"].to_numpy())
        dsr = deflated_sharpe_ratios(np.column_stack(returns))
        best = int(np.argmax([row["net_sharpe"] for row in rows]))
        row = rows[best]
        passed += bool(dsr[best] >= 0.95)
        exposures.extend(r["average_gross"] for r in rows)
        beyond.extend(r["annual_return"] + r["cost"] for r in rows)
        print(
            f"| {seed} | {row['net_sharpe']:.2f} | {dsr[best]:.3f} | {row['average_gross']:.3f} "
            f"| {row['annual_return']:.4f} | {row['cost']:.4f} |",
            flush=True,
        )
    print(
        f"\n{seeds} seeds: DSR >= 0.95 in {passed}; gross exposure median "
        f"{np.median(exposures):.3f}, largest {max(exposures):.3f} of NAV; return before costs "
        f"{np.mean(beyond):+.4f} a year on average, {min(beyond):+.4f} at worst"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["planted", "random"])
    parser.add_argument("--seeds", type=int, help="default: 5 planted, 20 random")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.only != "random":
        planted_table(given.seeds or 5)
    if given.only != "planted":
        random_table(given.seeds or 20)


if __name__ == "__main__":
    main()
