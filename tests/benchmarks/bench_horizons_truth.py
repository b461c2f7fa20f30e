"""Do the predictors find what was planted, and nothing where there is nothing?

    python tests/benchmarks/bench_horizons_truth.py                     # three seeds
    python tests/benchmarks/bench_horizons_truth.py --seeds 1 --only planted

Planted: the default IntradayMarket, 40 names in 5 clusters, 120 sessions of 5m bars, forecast by
four signals of known half-lives. ``tune/horizons.py`` trains all families on it, with its default
settings but for five clusters. Each family's out-of-sample IC is held against an oracle on the very
same bars: for ridge, gbdt and encoder the three signals that bars show, weighted by the true
coefficients; for cluster the s-score of 60 bars with the true clusters. The difference is paired
bar by bar, so its standard error is far below that of either IC. Placebo: the same with each name
holding the labels of another, to learn from and to be tested on.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpa.horizons.dataset import Dataset
from dpa.horizons.recipe import interval_spec
from dpa.horizons.training import FORECAST
from dpa.market.interval_specs import Horizon, parse_horizons
from dpa.market.shard_files import write_shards
from dpa.runs import RunDirectory, list_runs
from dpa.simulation.planted_bars import (
    SHOWN,
    IntradayMarket,
    PlantedBars,
    implied_ic,
    simulate_bars,
)
from dpa.text import columns
from dpa.validation.information import cross_sectional_ic, mean_ic

TUNE = Path(__file__).resolve().parents[2] / "tune" / "horizons.py"
SCORE_BARS = 60
FAMILIES = ("cluster", "ridge", "gbdt", "encoder")
Doubles = NDArray[np.float64]


def train(shards: Path, storage: Path, *more: str) -> RunDirectory:
    """One run of tune/horizons.py; its directory."""
    command = [sys.executable, str(TUNE), "--data", str(shards), "--storage", str(storage)]
    command += ["--n-clusters", "5", "--no-promote", "--no-dashboard", *more]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return list_runs(storage)[-1]


def true_score(planted: PlantedBars, start: int, stop: int) -> Doubles:
    """Minus the s-score of the return against the true cluster's other members."""
    logs = np.log(planted.panel.prices)
    steps = np.diff(logs, axis=0, prepend=logs[:1])
    residual = np.zeros_like(steps)
    for label in np.unique(planted.truth.labels):
        members = np.flatnonzero(planted.truth.labels == label)
        moves = steps[:, members]
        others = (moves.sum(axis=1, keepdims=True) - moves) / (len(members) - 1)
        residual[:, members] = moves - others
    level = np.cumsum(residual, axis=0)
    out = np.full_like(level, np.nan)
    for bar in range(start, stop):
        window = level[bar - SCORE_BARS + 1 : bar + 1]
        out[bar] = (window.mean(axis=0) - window[-1]) / window.std(axis=0)
    return out[start:stop]


def compared(
    run: RunDirectory, planted: PlantedBars, dataset: Dataset, horizons: tuple[Horizon, ...]
) -> pd.DataFrame:
    """IC of each family and of its oracle on the same bars, one row a family and horizon."""
    folds = run.read_manifest().folds
    start, stop = folds[0].test_start, folds[-1].test_stop
    targets = dataset.dense("targets", start, stop)
    sigma = dataset.dense("sigma", start, stop)
    score = true_score(planted, start, stop)
    ics = pd.read_csv(run.tables / "ic.csv").set_index(["family", "horizon"])
    rows = []
    for place, horizon in enumerate(horizons):
        parts = planted.truth.expected_parts(horizon.bars)
        shown = sum(parts[name][start:stop] for name in SHOWN) / sigma
        for family in FAMILIES:
            said = np.concatenate([forecasts(run, f"{f.index:03d}", family, horizon, place)
                                   for f in folds])  # fmt: skip
            own = cross_sectional_ic(said, targets[:, :, place])
            oracle = score if family == "cluster" else shown
            theirs = cross_sectional_ic(oracle, targets[:, :, place])
            apart = mean_ic(own - theirs, horizon.bars)
            known = np.isfinite(own) & np.isfinite(theirs)
            ic = ics.loc[(family, horizon.label)]
            rows.append((family, horizon.label, ic.ic, ic.se, theirs[known].mean(), apart.ic,
                         apart.se))  # fmt: skip
    names = ["family", "horizon", "ic", "se", "oracle", "difference", "difference_se"]
    return pd.DataFrame(rows, columns=names)


def forecasts(
    run: RunDirectory, fold: str, family: str, horizon: Horizon, place: int
) -> NDArray[np.float32]:
    """Forecasts of a fold's test window, (n_bars, n_assets)."""
    from safetensors.numpy import load_file

    folder = run.tasks / fold / family
    target = folder / horizon.label if (folder / horizon.label).is_dir() else folder / "all"
    return load_file(target / FORECAST)["returns"][:, :, place]


def over_seeds(tables: list[pd.DataFrame], keys: list[str]) -> pd.DataFrame:
    """Mean over seeds; standard errors of the mean from those of the seeds."""
    whole = pd.concat(tables)
    errors = [name for name in whole.columns if name.endswith("se")]
    grouped = whole.groupby(keys, sort=False)
    mean = grouped.mean(numeric_only=True)
    for name in errors:
        mean[name] = grouped[name].apply(lambda values: np.sqrt((values**2).sum()) / len(values))
    return mean.reset_index()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=("planted", "placebo"))
    arguments = parser.parse_args()
    market = IntradayMarket()
    spec = interval_spec(market.interval, market.calendar, None)
    horizons = parse_horizons(None, spec)
    planted_tables, stackers, placebos = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(arguments.seeds):
            planted = simulate_bars(market, seed)
            shards, storage = Path(scratch, f"shards{seed}"), Path(scratch, f"runs{seed}")
            write_shards(planted.panel, shards)
            if arguments.only != "placebo":
                run = train(shards, storage)
                dataset = Dataset(next((storage / ".cache" / "features").iterdir()))
                planted_tables.append(compared(run, planted, dataset, horizons))
                stackers.append(pd.read_csv(run.tables / "stacker_against_best.csv"))
            if arguments.only != "planted":
                placebo = train(shards, storage, "--placebo", "true")
                placebos.append(pd.read_csv(placebo.tables / "ic.csv"))
    if planted_tables:
        print_planted(over_seeds(planted_tables, ["family", "horizon"]), market, horizons)
        print_stacker(over_seeds(stackers, ["horizon"]))
    if placebos:
        print_placebo(placebos)


def print_planted(
    table: pd.DataFrame, market: IntradayMarket, horizons: tuple[Horizon, ...]
) -> None:
    implied = {h.label: implied_ic(market, h.bars)["shown"] for h in horizons}
    lines = [
        (row.family, row.horizon, "-" if row.family == "cluster" else f"{implied[row.horizon]:.4f}",
         f"{row.oracle:.4f}", f"{row.ic:.4f} ± {row.se:.4f}",
         f"{row.difference:+.4f} ± {row.difference_se:.4f}",
         "yes" if abs(row.difference) <= row.se else "no")
        for row in table.itertuples()
    ]  # fmt: skip
    heads = ("family", "horizon", "implied", "oracle, same bars", "IC", "IC - oracle",
             "within one s.e. of its IC")  # fmt: skip
    print("\nplanted: out-of-sample IC against what the generator implies\n")
    print(columns(heads, lines))


def print_stacker(table: pd.DataFrame) -> None:
    lines = [
        (row.horizon, f"{row.ic:.4f}", f"{row.best_ic:.4f}",
         f"{row.difference:+.4f} ± {row.se:.4f}", f"{row.linear_ic:.4f}",
         f"{row.best_linear_ic:.4f}")
        for row in table.itertuples()
    ]  # fmt: skip
    heads = ("horizon", "stacker IC", "best family's", "difference", "stacker linear IC",
             "best family's linear IC")  # fmt: skip
    print("\nstacker against the best family in hindsight, same bars (from the second fold on)\n")
    print(columns(heads, lines))


def print_placebo(tables: list[pd.DataFrame]) -> None:
    whole = pd.concat(tables)
    known = whole[np.isfinite(whole["t"])]
    pooled = over_seeds(tables, ["family", "horizon"])
    lines = [
        (row.family, row.horizon, f"{row.ic:+.4f} ± {row.se:.4f}", f"{row.ic / row.se:+.1f}")
        for row in pooled.itertuples()
    ]
    print("\nplacebo: each name holds the labels of another\n")
    print(columns(("family", "horizon", "IC, mean of the seeds", "t"), lines))
    beyond = int((known["t"].abs() > 2).sum())
    print(f"\n|t| > 2 in {beyond} of {len(known)} (family, horizon, seed); "
          f"largest {known['t'].abs().max():.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
