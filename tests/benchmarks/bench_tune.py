"""What Ray Tune, checkpoints and files cost per trial beside the work itself.

    python tests/benchmarks/bench_tune.py

The grid's real command line runs twice on a small planted market, with few and with many trials.
The slope of wall time in trials, times the CPUs, less the seconds that the trials say they worked,
is what a trial costs beyond its work; what is left at zero trials is start-up and report.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from dpa.simulation.planted import PlantedMarket, simulate

ROOT = Path(__file__).resolve().parents[2]


def run(data: Path, storage: Path, trials: int, cpus: int) -> tuple[float, float, int]:
    """Wall seconds of one grid, seconds of work its trials report, and folds done."""
    scales = ",".join(f"{0.5 + 0.05 * i:.2f}" for i in range(trials))
    command = [
        sys.executable, str(ROOT / "tune" / "grid.py"), "--data", str(data),
        "--storage", str(storage), "--num-cpus", str(cpus), "--no-dashboard",
        "--window", "20", "--n-clusters", "3", "--similarity-threshold", "0.3",
        "--signal-scale", scales, "--epochs", "3",
    ]  # fmt: skip
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall = time.perf_counter() - began
    (table,) = storage.glob("*/grid_search_results.csv")
    rows = pd.read_csv(table)
    return wall, float(rows["seconds"].sum()), int(rows["folds"].sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, nargs=2, default=(4, 24))
    parser.add_argument("--num-cpus", type=int, default=2)
    given = parser.parse_args()
    few, many = given.trials
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        market = PlantedMarket(n_clusters=3, names_per_cluster=5, n_bars=800)
        panel = simulate(market, 0).panel
        frame = pd.DataFrame(panel.prices, panel.times.date, list(panel.names))
        frame.rename_axis("date").to_csv(folder / "prices.csv")
        print("| trials | folds | wall s | work of the trials s |\n|---|---|---|---|")
        results = {}
        for trials in (few, many):
            results[trials] = run(
                folder / "prices.csv", folder / f"runs{trials}", trials, given.num_cpus
            )
            wall, work, folds = results[trials]
            print(f"| {trials} | {folds} | {wall:.1f} | {work:.1f} |", flush=True)
    more = many - few
    wall, work, folds = (b - a for a, b in zip(results[few], results[many], strict=True))
    beyond = (wall * given.num_cpus - work) / more
    print(
        f"\nper trial: {wall * given.num_cpus / more:.2f} CPU-slot seconds, of which work "
        f"{work / more:.2f}, beyond it {beyond:.2f} ({beyond / (folds / more):.3f} per fold)"
    )


if __name__ == "__main__":
    main()
