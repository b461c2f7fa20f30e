"""Peak memory of one trial when the history grows ten times.

    python tests/benchmarks/bench_memory.py

A random market of 200 names at 5 minutes is written to shards, streamed by Ray Data through a
small object store, and one rolling trainer works through every fold in a worker process of its
own. That a history larger than the object store streams through is a test,
tests/market/test_shard_store.py.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import ray

from dpa.config import DataConfig, Settings
from dpa.market.panel import BarSource
from dpa.market.shard_files import write_shards
from dpa.market.shards import open_shard_store
from dpa.simulation.planted import random_walks
from dpa.validation.splits import Fold, walk_forward_folds

SETTINGS = {
    "training": {"epochs": 2, "patience": 2},
    "model": {"window": 30, "n_clusters": 5},
    "walk_forward": {"test_bars": 252},
}


@ray.remote(num_cpus=1, max_calls=1)
def trial(settings: Settings, source: BarSource, folds: list[Fold]) -> dict[str, Any]:
    """One rolling trainer in a process of its own."""
    import torch

    from dpa.research.rolling import RollingTrainer

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = RollingTrainer(settings, source, folds, Path(scratch))
        while not trainer.done:
            trainer.step()
        return trainer.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bars", type=int, default=4000, help="bars of the shorter history")
    parser.add_argument("--names", type=int, default=200)
    parser.add_argument("--store-mb", type=int, default=100, help="object store, MiB")
    given = parser.parse_args()
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=given.store_mb * 2**20,
    )
    settings = Settings.model_validate(SETTINGS)
    print("| bars | history MiB | object store MiB | folds | peak MiB | CPU-bound seconds |")
    print("|---|---|---|---|---|---|")
    peaks = []
    for bars in (given.bars, 10 * given.bars):
        with tempfile.TemporaryDirectory() as scratch:
            shards = Path(scratch) / "shards"
            panel = random_walks(given.names, bars, 0.001, 0, interval="5m")
            size = (panel.prices.nbytes + panel.mask.nbytes) / 2**20
            write_shards(panel, shards)
            del panel
            source = open_shard_store(DataConfig(path=str(shards), interval="5m"))
            folds = walk_forward_folds(bars, settings.walk_forward, settings.model.context_bars)
            got = ray.get(trial.remote(settings, source, folds))
        peaks.append(got["peak_memory_mb"])
        print(
            f"| {bars} | {size:.0f} | {given.store_mb} | {got['folds']} "
            f"| {got['peak_memory_mb']:.0f} | {got['seconds']:.0f} |",
            flush=True,
        )
    print(f"\nratio of peaks {peaks[1] / peaks[0]:.2f}")


if __name__ == "__main__":
    main()
