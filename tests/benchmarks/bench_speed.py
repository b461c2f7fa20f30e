"""One walk-forward trial, ours against the plain way: CPU seconds of the same work in one run.

    python tests/benchmarks/bench_speed.py --data us_daily_close.parquet

Both train the same folds for the same epochs from the same shapes on one thread, fold by fold in
turn, so that a machine whose speed drifts treats them alike. The positions must agree. Each fold
starts both from our shapes: Adam magnifies the last bit of float32, and the plain way in float32
and in float64 part as far from each other as either from ours.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from plain_reference import plain_train, plain_weights

from dpa.config import DataConfig, Settings
from dpa.market.panel import Panel
from dpa.market.readers import load_wide_data
from dpa.research.rolling import RollingTrainer
from dpa.validation.splits import Fold, walk_forward_folds

NAMES = 440


def history(path: str) -> Panel:
    """The first 440 names that have every bar of 2010-2013."""
    panel = load_wide_data(
        DataConfig(path=path, start="2010-01-01", end="2013-12-31", drop_empty_names=True)
    )
    whole = np.flatnonzero(np.isfinite(panel.prices).all(axis=0))[:NAMES]
    names = tuple(panel.names[i] for i in whole)
    prices = panel.prices[:, whole]
    return Panel(panel.times, names, prices, np.isfinite(prices), panel.interval, panel.calendar)


def matrix_product_peak(size: int = 1536, repeats: int = 8) -> float:
    """GFLOP/s of a large float32 matrix product on one thread: the machine's own ceiling."""
    a = torch.randn(size, size)
    _ = a @ a
    began = time.process_time()
    for _ in range(repeats):
        _ = a @ a
    return repeats * 2 * size**3 / (time.process_time() - began) / 1e9


def window_flops(n_names: int, bars: int, settings: Settings) -> float:
    """Floating-point operations of one epoch that no reformulation avoids.

    The similarity of every window with every shape, and its gradient: a multiply and an add each.
    """
    rows = bars - settings.model.window + 1
    return 2 * 2.0 * rows * n_names * settings.model.window * settings.model.n_clusters


class Plain:
    """The plain trial: shapes carried from fold to fold, like ours."""

    def __init__(self, settings: Settings, panel: Panel, bars_per_year: float) -> None:
        self.settings, self.panel, self.bars_per_year = settings, panel, bars_per_year
        self.shapes: torch.Tensor | None = None

    def step(self, fold: Fold) -> np.ndarray:
        """Train on a fold; weights of its test bars."""
        start, logs, returns = self._stretch(fold)
        lag = self.settings.walk_forward.execution_lag
        stop = fold.train_stop + lag - start
        fit = slice(fold.train_start + lag - start, stop)
        assert self.shapes is not None
        self.shapes = plain_train(
            logs[:stop], returns[:stop], self.shapes, fit, self.settings, self.bars_per_year
        )
        return self.weights(fold, self.shapes)

    def weights(self, fold: Fold, shapes: torch.Tensor) -> np.ndarray:
        """Weights of a fold's test bars at given shapes."""
        start, logs, _ = self._stretch(fold)
        with torch.no_grad():
            weights, _ = plain_weights(logs, shapes, self.settings)
        return weights[fold.test_start - start :].numpy()

    def _stretch(self, fold: Fold) -> tuple[int, torch.Tensor, torch.Tensor]:
        start = fold.train_start - self.settings.model.context_bars
        prices = torch.from_numpy(self.panel.prices[start : fold.test_stop].copy())
        logs = (prices.log() - prices[0].log()).float()
        returns = torch.zeros_like(prices)
        returns[1:] = prices[1:] / prices[:-1] - 1.0
        return start, logs, returns.float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="wide file of daily closes, 440+ names")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--learning-rate", type=float, default=0.001)
    parser.add_argument("--folds", type=int, default=None, help="only the first so many folds")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # imports for seconds, once a process
    settings = Settings.model_validate(
        {
            "model": {
                "window": 60,
                "n_clusters": 10,
                "features": "price_path",
                "centroids": "shape",
                "learn_thresholds": False,
            },
            "training": {
                "epochs": given.epochs,
                "learning_rate": given.learning_rate,
                "patience": given.epochs + 1,
                "validation_fraction": 0.0,
            },
        }
    )
    panel = history(given.data)
    folds = walk_forward_folds(panel.n_bars, settings.walk_forward, settings.model.context_bars)
    folds = folds[: given.folds]
    ours_cpu = plain_cpu = 0.0
    gaps, equal = [], []
    with tempfile.TemporaryDirectory() as scratch:
        ours = RollingTrainer(settings, panel, folds, Path(scratch))
        plain = Plain(settings, panel, ours.bars_per_year)
        first = folds[0]
        stretch = panel.window(first.train_start - settings.model.context_bars, first.test_stop)
        features = ours.model.prepare(stretch).features
        stop = first.train_stop - first.train_start + settings.model.context_bars
        ours.model.seed_shapes(features, stop)
        for fold in folds:
            plain.shapes = ours.model.shapes.detach().clone()
            began = time.process_time()
            ours.step()
            between = time.process_time()
            weights = plain.step(fold)
            plain_fold = time.process_time() - between
            ours_cpu += between - began
            plain_cpu += plain_fold
            written = pd.read_parquet(Path(scratch) / f"folds/{fold.index:04d}/weights.parquet")
            gaps.append(float(np.abs(written.to_numpy() - weights).max()))
            same = plain.weights(fold, ours.model.shapes.detach())
            equal.append(float(np.abs(written.to_numpy() - same).max()))
            print(
                f"fold {fold.index}: CPU s ours {between - began:.2f}, plain {plain_fold:.2f}, "
                f"positions differ by {equal[-1]:.1e} at equal shapes, {gaps[-1]:.1e} after "
                "training",
                flush=True,
            )
    peak = matrix_product_peak()
    bars = folds[0].train_stop + 1 - folds[0].train_start + settings.model.context_bars
    flops = window_flops(panel.n_assets, bars, settings) * (given.epochs + 1) * len(folds)
    print(
        f"\n{panel.n_assets} names, {panel.n_bars} bars, {len(folds)} folds, {given.epochs} epochs"
    )
    print("| trial | CPU s | ratio |\n|---|---|---|")
    print(f"| plain | {plain_cpu:.1f} | {plain_cpu / ours_cpu:.1f} |\n| dpa | {ours_cpu:.1f} | 1 |")
    print(
        f"largest difference of a position: {max(equal):.1e} of NAV at equal shapes, "
        f"{max(gaps):.1e} after training (median over folds {np.median(gaps):.1e})"
    )
    print(
        f"matrix-product peak {peak:.0f} GFLOP/s on one thread; the window products alone need "
        f"{flops / 1e9:.0f} GFLOP = {flops / 1e9 / peak:.1f} s, "
        f"{100 * flops / 1e9 / peak / ours_cpu:.0f} % of ours"
    )


if __name__ == "__main__":
    main()
