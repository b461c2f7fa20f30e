"""A run directory made of random numbers, with everything a real run leaves on disk."""

import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpa.clock import FixedClock
from dpa.config import Settings
from dpa.runs import DataDescription, FoldRecord, RunDirectory, new_manifest, trial_id

AXES = {
    "window": (30, 60, 90),
    "n_clusters": (5, 10, 20),
    "similarity_threshold": (0.3, 0.5, 0.7),
}
BASELINES = ("equal_weight", "kmeans_fixed", "pca_sscore")
TEST_BARS = 63


def _returns(rng, times, mean, common):
    gross = mean / 252 + 0.004 * (0.7 * common + 0.7 * rng.normal(size=len(times)))
    turnover = np.abs(rng.normal(0.2, 0.05, len(times)))
    costs = {
        "spread": turnover * 4e-4,
        "commission": turnover * 1e-4,
        "impact": turnover**1.5 * 2e-4,
        "borrow": np.full(len(times), 0.5 * 50e-4 / 252),
    }
    frame = pd.DataFrame({"net": gross - sum(costs.values()), "gross": gross, **costs}, times)
    frame["turnover"] = turnover
    frame["gross_exposure"] = np.clip(rng.normal(0.8, 0.05, len(times)), 0, 1)
    frame["net_exposure"] = rng.normal(0, 0.01, len(times))
    frame["fold"] = np.arange(len(times)) // TEST_BARS
    return frame.rename_axis("time")


def _clusters(rng, times, names, n_clusters):
    home = rng.integers(0, n_clusters, len(names))
    block = np.repeat(np.arange(len(times) // 21 + 1), 21)[: len(times)]
    roams = rng.random((block[-1] + 1, len(names))) < 0.1
    away = rng.integers(-1, n_clusters, roams.shape)
    ids = np.where(roams, away, home)[block]
    ids[rng.random(ids.shape) < 0.05] = -1
    return pd.DataFrame(ids.astype(np.int16), times, list(names)).rename_axis("time")


def _fold_rows(rng, returns, folds):
    rows = []
    for fold, part in returns.groupby("fold"):
        window = folds[fold]
        rows.append(
            {
                "fold": fold,
                "train_start": "2009-01-02T21:00:00+00:00",
                "train_stop": "2009-12-31T21:00:00+00:00",
                "test_start": window.first_test.isoformat(),
                "test_stop": window.last_test.isoformat(),
                "partial": window.partial,
                "epochs": int(rng.integers(3, 30)),
                "train_sharpe": rng.normal(2, 0.5),
                "validation_sharpe": rng.normal(1, 0.7),
                "net_sharpe": part["net"].mean() / part["net"].std() * 252**0.5,
                "gross_sharpe": part["gross"].mean() / part["gross"].std() * 252**0.5,
                "net_sharpe_so_far": 0.0,
                "turnover": part["turnover"].mean(),
                "cost": (part["gross"] - part["net"]).mean(),
                "average_gross": part["gross_exposure"].mean(),
                "seconds": rng.uniform(1, 3),
                "entry_threshold": 1.25 + 0.02 * fold + rng.normal(0, 0.02),
                "stop_threshold": 4.0 - 0.05 * fold,
                "signal_scale": 1.0 + 0.01 * fold,
                "temperature": 0.1,
                "similarity_threshold": 0.5 + rng.normal(0, 0.01),
            }
        )
    return pd.DataFrame(rows)


def _write_done(folder, rng, returns, clusters, folds):
    folder.mkdir(parents=True)
    returns.to_parquet(folder / "returns.parquet")
    rows = _fold_rows(rng, returns, folds)
    rows.to_csv(folder / "folds.csv", index=False)
    (folder / "summary.json").write_text(json.dumps({"folds": len(rows), "peak_memory_mb": 512.0}))
    if clusters is not None:
        clusters.to_parquet(folder / "clusters.parquet")


def _write_incomplete(folder, rng, returns, clusters, folds, n_folds):
    for fold in range(n_folds):
        part = folder / "folds" / f"{fold:04d}"
        part.mkdir(parents=True)
        returns[returns["fold"] == fold].to_parquet(part / "returns.parquet")
        clusters.loc[returns["fold"] == fold].to_parquet(part / "clusters.parquet")
    state = folder / "state" / f"{n_folds:05d}"
    state.mkdir(parents=True)
    rows = _fold_rows(rng, returns[returns["fold"] < n_folds], folds)
    (state / "progress.json").write_text(json.dumps({"reports": rows.to_dict("records")}))


def write_run(
    storage: Path,
    *,
    axes=AXES,
    n_bars=630,
    n_names=24,
    skill=0.0,
    failed=(),
    incomplete=(),
    absent=(),
    baselines=BASELINES,
    status="complete",
    source="prices.parquet",
    seed=0,
) -> RunDirectory:
    """A run whose trials earn noise, `skill` annual mean return apart for the middle one.

    `failed`, `incomplete` and `absent` are positions in the grid.
    """
    rng = np.random.default_rng(seed)
    times = pd.date_range("2010-01-04", periods=n_bars, freq="B", tz="UTC") + pd.Timedelta("21h")
    names = tuple(f"NAME{i:03d}" for i in range(n_names))
    edges = range(0, n_bars, TEST_BARS)
    folds = tuple(
        FoldRecord(
            index=i, train_start=e, train_stop=e + 251, test_start=e + 252,
            test_stop=e + 252 + min(TEST_BARS, n_bars - e), partial=n_bars - e < TEST_BARS,
            first_test=times[e], last_test=times[min(e + TEST_BARS, n_bars) - 1],
        )
        for i, e in enumerate(edges)
    )  # fmt: skip
    data = DataDescription(
        source=source, fingerprint="ab" * 32, shards="shards", n_bars=n_bars + 252, names=names,
        interval="1d", calendar="XNYS", first_bar=datetime(2009, 1, 2, 21, tzinfo=UTC),
        last_bar=times[-1],
    )  # fmt: skip
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    clock = FixedClock(datetime(2026, 1, 5, 12, tzinfo=UTC))
    run = RunDirectory.create(
        storage, new_manifest(Settings(), axes, data, folds, len(points), tuple(baselines), clock)
    )
    common = rng.normal(size=n_bars)
    for number, point in enumerate(points):
        folder = run.trial(trial_id(point))
        returns = _returns(rng, times, skill if number == len(points) // 2 else 0.02, common)
        clusters = _clusters(rng, times, names, int(point.get("n_clusters", 10)))
        if number in absent:
            continue
        if number in failed:
            folder.mkdir(parents=True)
            trace = "Traceback (most recent call last):\n  ...\n"
            (folder / "error.txt").write_text(trace + "ValueError: <planted> & fatal\n")
        elif number in incomplete:
            _write_incomplete(folder, rng, returns, clusters, folds, 4)
        else:
            _write_done(folder, rng, returns, clusters, folds)
    for name in baselines:
        returns = _returns(
            rng, times, {"equal_weight": 0.1}.get(name, 0.0), rng.normal(size=n_bars)
        )
        _write_done(run.baseline(name), rng, returns, None, folds)
    run.set_status(status)
    return run


@pytest.fixture
def make_run(tmp_path) -> Callable[..., RunDirectory]:
    """:func:`write_run` into a temporary folder."""

    storages = (tmp_path / f"runs{number}" for number in itertools.count())

    def make(**options):
        return write_run(next(storages), **options)

    return make


@pytest.fixture(scope="session")
def full_run(tmp_path_factory) -> RunDirectory:
    """A finished run of 27 trials; only to be read."""
    return write_run(tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="session")
def partial_run(tmp_path_factory) -> RunDirectory:
    """A run of 27 trials interrupted in the seventh: one failed, two half done; only to be read."""
    return write_run(
        tmp_path_factory.mktemp("partial"),
        failed=(1,),
        incomplete=(3, 5),
        absent=range(7, 27),
        status="interrupted",
    )
