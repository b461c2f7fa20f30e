"""One new bar through a bundle of predictors: what it costs, and whether it is what a batch says.

    python tests/benchmarks/bench_inference.py

Everything runs on one thread. The bundle is trained in this process on a planted market; its trees
are grown without a holdout, so that every boosted model has all the trees the defaults allow.
"""

import os

for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"

import argparse  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from contextlib import ExitStack, contextmanager  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402
from unittest.mock import patch  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from horizon_runs import Run  # noqa: E402

from dpa.horizons.bundle import HorizonBundle  # noqa: E402
from dpa.horizons.calibration import Calibrator  # noqa: E402
from dpa.horizons.clusters import ClusterReader  # noqa: E402
from dpa.horizons.families.gbdt import GbdtFamily  # noqa: E402
from dpa.horizons.feature_set import FeatureSet  # noqa: E402
from dpa.horizons.inference import predict_batch, start  # noqa: E402
from dpa.horizons.stacker import CrossHorizonStacker  # noqa: E402
from dpa.horizons.training import FINAL, final_fold, task_seed  # noqa: E402
from dpa.horizons.types import Rows  # noqa: E402
from dpa.horizons.views import LiveView  # noqa: E402
from dpa.market.panel import Panel  # noqa: E402
from dpa.market.shard_files import write_shards  # noqa: E402
from dpa.simulation.planted_bars import IntradayMarket, simulate_bars  # noqa: E402

TARGET_MS, TARGET_GAP = 50.0, 1e-6
TRAINED_SESSIONS = 17  # ten of them are the features' look-back
START = "2024-10-28"  # the half day of 29 November lies in the month compared
ARRAYS = ("returns", "stacked", "confidence", "barriers", "sigma")


def trained_bundle(panel: Panel, folder: Path, seed: int = 0) -> HorizonBundle:
    """A bundle of all four families at their default sizes, saved and loaded."""
    write_shards(panel, folder / "shards")
    sections = {
        "training": {"epochs": 1},
        "horizons": {"train_sessions": 4, "test_sessions": 2, "horizon_seed": seed},
    }
    run = Run.begin(folder / "shards", folder / "runs", sections)
    dataset = run.make_features()
    final = final_fold(run.plan.folds, dataset)
    rows = dataset.rows(final.train_start, final.train_stop)
    nothing = Rows(*(getattr(rows, n)[:0] for n in Rows.__dataclass_fields__))
    for task in run.tasks():
        run.fit(task, dataset)
        if task.fold == FINAL and task.family == "gbdt":
            whole = GbdtFamily(run.recipe.schema(), run.recipe.settings.families)
            whole.fit(rows, nothing, task_seed(task, 0), (task.target,))
            whole.save(run.run.tasks / task.key / "model")
    run.close(dataset)
    return HorizonBundle.load(run.run.bundle)


def sizes(bundle: HorizonBundle) -> str:
    """How large the models are, in words."""
    gbdt = bundle.families["gbdt"]
    heads = [head for target in gbdt._targets.values() for head in target.heads.values()]
    trees = sorted({head.booster.num_trees() for head in heads})
    network = bundle.families["encoder"]._fitted.network
    weights = sum(parameter.numel() for parameter in network.parameters())
    return (
        f"{len(bundle.manifest.names)} names, {len(bundle.manifest.horizons)} horizons, "
        f"{len(bundle.features.names)} features, families {', '.join(bundle.families)}; "
        f"gbdt: {len(heads)} models of {'-'.join(map(str, trees))} trees; "
        f"encoder: {weights} weights; tail: {bundle.manifest.tail_bars} bars"
    )


class Parts:
    """Processor seconds of some methods, added up while they are watched."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    def timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            out = method(*args, **kwargs)
            self.spent[name] = self.spent.get(name, 0.0) + time.process_time() - began
            return out

        return watched

    @contextmanager
    def watching(self, bundle: HorizonBundle) -> Iterator[None]:
        places = [
            ("cluster reader", ClusterReader, "step"),
            ("advance", LiveView, "advance"),
            ("features", FeatureSet, "compute"),
            *((f"family {n}", type(f), "predict") for n, f in bundle.families.items()),
            ("stacker", CrossHorizonStacker, "predict"),
            ("calibration", Calibrator, "__call__"),
        ]
        with ExitStack() as stack:
            for name, owner, method in places:
                stack.enter_context(
                    patch.object(owner, method, self.timed(name, getattr(owner, method)))
                )
            yield


def speed(given: argparse.Namespace, folder: Path) -> None:
    """Processor time of one bar after another."""
    market = IntradayMarket(
        n_clusters=20,
        names_per_cluster=-(-given.names // 20),
        n_sessions=TRAINED_SESSIONS + 1 + -(-given.bars // 78),
        start=START,
        missing=0.002,
    )
    panel = simulate_bars(market, 1).panel
    began = time.perf_counter()
    first = TRAINED_SESSIONS * 78
    bundle = trained_bundle(panel.window(0, first), folder)
    trained = time.perf_counter() - began
    print(f"## One new bar\n\n{sizes(bundle)} (trained in {trained:.0f} s)\n")
    live = start(bundle, panel.window(0, first))
    for bar in range(first, first + 10):  # imports and caches
        live.update(panel.window(bar, bar + 1))
    bars = [panel.window(k, k + 1) for k in range(first + 10, first + 10 + given.bars)]
    cpu, wall, parts = [], [], Parts()
    with parts.watching(bundle):
        for bar in bars:
            before, clock = time.process_time(), time.perf_counter()
            forecast = live.update(bar)
            cpu.append(time.process_time() - before)
            wall.append(time.perf_counter() - clock)
    assert np.isfinite(forecast.stacked).mean() > 0.95
    before = time.process_time()
    again = bundle.predict(panel.window(0, first + 10 + given.bars))
    whole = time.process_time() - before
    before = time.process_time()
    low = first + 10 + given.bars - bundle.manifest.tail_bars
    again = bundle.predict(panel.window(low, first + 10 + given.bars))
    recomputed = time.process_time() - before
    gap = largest(again.stacked, forecast.stacked)
    print(f"| one bar of {len(bars)} | ms |\n|---|---|")
    milliseconds = 1e3 * np.array([cpu, wall])
    print(f"| CPU, mean | {milliseconds[0].mean():.1f} (target {TARGET_MS:.0f}) |")
    print(f"| CPU, median | {np.median(milliseconds[0]):.1f} |")
    print(f"| CPU, 95th percentile | {np.percentile(milliseconds[0], 95):.1f} |")
    print(f"| wall, median | {np.median(milliseconds[1]):.1f} |")
    print(f"| wall, 95th percentile | {np.percentile(milliseconds[1], 95):.1f} |")
    print(f"| from a tail of {bundle.manifest.tail_bars} bars instead | {1e3 * recomputed:.0f} |")
    print(f"| from all {first + 10 + given.bars} bars instead | {1e3 * whole:.0f} |\n")
    spent = {name: 1e3 * seconds / len(bars) for name, seconds in parts.spent.items()}
    spent["rings and series"] = spent.pop("advance") - spent["cluster reader"]
    spent["the rest"] = milliseconds[0].mean() - sum(spent.values())
    print("| part | CPU ms a bar |\n|---|---|")
    for name, value in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"| {name} | {value:.2f} |")
    print(f"\nfrom the tail and bar by bar differ by {gap:.1e}\n", flush=True)


def largest(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest absolute difference; infinite where only one is known."""
    if (np.isfinite(found) != np.isfinite(wanted)).any():
        return float("inf")
    return float(np.nanmax(np.abs(found - wanted), initial=0.0))


def truth(given: argparse.Namespace, folder: Path) -> None:
    """Bar by bar against a batch over a month with gaps, a late listing and a half day."""
    market = IntradayMarket(
        n_clusters=5,
        names_per_cluster=8,
        n_sessions=TRAINED_SESSIONS + given.sessions,
        start=START,
        missing=0.01,
        late_listings=0.05,
    )
    panel = with_a_gap(simulate_bars(market, 2).panel, TRAINED_SESSIONS * 78)
    first = TRAINED_SESSIONS * 78
    bundle = trained_bundle(panel.window(0, first), folder)
    low = first - bundle.manifest.tail_bars
    live = start(bundle, panel.window(low, first))
    batch = predict_batch(bundle, panel.window(low, panel.n_bars))
    gaps, said = dict.fromkeys(ARRAYS, 0.0), 0
    for bar in range(first, panel.n_bars):
        forecast = live.update(panel.window(bar, bar + 1))
        for name in ARRAYS:
            gap = largest(getattr(forecast, name), getattr(batch, name)[bar - low])
            gaps[name] = max(gaps[name], gap)
        said += int(np.isfinite(forecast.stacked).any(axis=0).sum())
    n_bars = panel.n_bars - first
    days = np.unique(panel.times[first:].date, return_counts=True)
    listed = np.isfinite(panel.prices).argmax(axis=0)
    print(f"## Bar by bar against a batch\n\n{sizes(bundle)}\n")
    print(
        f"{given.sessions} sessions, {n_bars} bars, {(days[1] < 78).sum()} half day, "
        f"{(listed > first).sum()} names listed in the month, "
        f"{1 - np.isfinite(panel.prices[first:]).mean():.1%} of name-bars without a price, "
        f"{said / n_bars / panel.n_assets:.1%} forecast\n"
    )
    print(f"| array | largest difference (target {TARGET_GAP:.0e}) |\n|---|---|")
    for name, gap in gaps.items():
        print(f"| {name} | {gap:.1e} |")
    print(
        "\nNaN are where they are in the batch" if max(gaps.values()) < np.inf else "\nNaN differ"
    )


def with_a_gap(panel: Panel, first: int) -> Panel:
    """Two names lose an hour, one half a session, one lists in the second week, all after
    `first`."""
    lost = np.zeros(panel.prices.shape, bool)
    lost[first + 100 : first + 112, :2] = True
    lost[first + 200 : first + 240, 2] = True
    lost[: first + 500, 3] = True

    def cut(values: np.ndarray) -> np.ndarray:
        return np.where(lost, np.nan, values)

    extras = {name: cut(values) for name, values in panel.extras().items()}
    where = panel.interval, panel.calendar
    mask = panel.mask & ~lost
    return Panel(panel.times, panel.names, cut(panel.prices), mask, *where, **extras)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", type=int, default=500, help="of the speed, a multiple of 20")
    parser.add_argument("--bars", type=int, default=200, help="timed")
    parser.add_argument("--sessions", type=int, default=22, help="of the comparison")
    parser.add_argument("--only", choices=("speed", "truth"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name, part in {"speed": speed, "truth": truth}.items():
        if given.only in (None, name):
            with tempfile.TemporaryDirectory() as scratch:
                part(given, Path(scratch))


if __name__ == "__main__":
    main()
