"""Peak memory of a run of predictors when its history grows ten times.

    python tests/benchmarks/bench_horizons_memory.py

A planted market of 5-minute bars is written to shards in pieces. Then every stage of the run, its
features, its fits and its closing, has a process of its own that does all of it without Ray, and
says how much memory it has held at most.
"""

import os

for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"

import argparse  # noqa: E402
import resource  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

STAGES = ("imports", "features", "fits", "closing")
CLUSTERS = 5
SECTIONS = {
    "horizons": {
        "families": ("ridge", "gbdt"),
        "cluster": "absent",
        "horizons": ("5m", "30m", "60m"),
        "train_sessions": 20,
        "test_sessions": 20,
        "feature_list": (
            "return_scaled_5m",
            "return_scaled_30m",
            "reversal_60m",
            "momentum_390m",
            "volatility_60m",
            "close_location_5m",
            "range_surprise_5m",
            "volume_surprise_5m",
            "residual_market_60m",
            "session_left",
        ),
    },
    "families": {"gbdt_trees": 10},
}


def simulate(folder: Path, names: int, sessions: int) -> None:
    """Shards of a market."""
    from dpa.market.shard_files import write_shards
    from dpa.simulation.planted_bars import IntradayMarket, simulate_bars

    market = IntradayMarket(
        n_clusters=CLUSTERS,
        names_per_cluster=names // CLUSTERS,
        n_sessions=sessions,
        start="2020-01-02",
        missing=0.01,
    )
    panel = simulate_bars(market, 0).panel
    write_shards(panel, folder / "shards")
    size = panel.prices.nbytes + panel.mask.nbytes
    size += sum(values.nbytes for values in panel.extras().values())
    print(panel.n_bars, size / 2**20)


def stage(name: str, folder: Path) -> None:
    """One stage of the run in `folder`."""
    from horizon_runs import Run

    from dpa.horizons.dataset import Dataset
    from dpa.horizons.training import FINAL

    folds, said = 0, 0
    if name != "imports":
        run = Run.begin(folder / "shards", folder / "runs", SECTIONS)
        if name == "features":
            run.make_features()
        else:
            dataset = Dataset(run.features)
            if name == "fits":
                for task in run.tasks():
                    run.fit(task, dataset)
                    folds += task.fold != FINAL
            else:
                run.close(dataset)
        said = len(run.plan.folds)
    print(said, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def child(*arguments: object) -> list[str]:
    """Words a fresh process of this script prints last."""
    command = [sys.executable, __file__, *map(str, arguments)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return out.strip().splitlines()[-1].split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=60, help="of the shorter history")
    parser.add_argument("--names", type=int, default=40, help=f"a multiple of {CLUSTERS}")
    given = parser.parse_args()
    print("| sessions | bars | history MiB | folds | stage | peak MiB | wall s |")
    print("|---|---|---|---|---|---|---|", flush=True)
    peaks: dict[str, list[float]] = {name: [] for name in STAGES}
    for sessions in (given.sessions, 10 * given.sessions):
        with tempfile.TemporaryDirectory() as scratch:
            bars, size = child("--simulate", scratch, given.names, sessions)
            for name in STAGES:
                began = time.perf_counter()
                folds, peak = child("--stage", scratch, name)
                spent = time.perf_counter() - began
                peaks[name].append(float(peak))
                print(
                    f"| {sessions} | {bars} | {float(size):.0f} | {folds} | {name} "
                    f"| {float(peak):.0f} | {spent:.0f} |",
                    flush=True,
                )
    print("\n| stage | ratio of peaks |\n|---|---|")
    for name, (short, long) in peaks.items():
        print(f"| {name} | {long / short:.2f} |")
    worst = [max(values[k] for values in peaks.values()) for k in (0, 1)]
    print(f"| the whole run | {worst[1] / worst[0]:.2f} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--simulate"]:
        simulate(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1:2] == ["--stage"]:
        stage(sys.argv[3], Path(sys.argv[2]))
    else:
        main()
