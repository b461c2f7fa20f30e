"""The predictors on real 5-minute bars, as it is.

    python tests/benchmarks/bench_horizons_real.py --data us_5min_bars.parquet

``tune/horizons.py`` with its default settings on purged walk-forward, then ridge and gbdt once more
with an execution lag of two bars: what is left of the shortest horizon when the price the forecast
was made from can no longer be had. Prints the IC of every family and horizon with its standard
error, the stacker beside the best single family, and the barrier heads.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from dpa.research.horizon_closing import ic_words
from dpa.runs import RunDirectory, list_runs

TUNE = Path(__file__).resolve().parents[2] / "tune" / "horizons.py"


def train(data: str, storage: Path, *more: str) -> RunDirectory:
    """One run of tune/horizons.py; its directory."""
    command = [sys.executable, str(TUNE), "--data", data, "--stamps", "start"]
    command += ["--storage", str(storage), "--no-promote", "--no-dashboard", *more]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return list_runs(storage)[-1]


def show(run: RunDirectory, title: str, *names: str) -> None:
    """Print tables of a run."""
    print(f"\n== {title}\n")
    print(ic_words(pd.read_csv(run.tables / "ic.csv")))
    for name in names:
        print(f"\n{name}\n")
        print(pd.read_csv(run.tables / f"{name}.csv").round(4).to_string(index=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="us_5min_bars.parquet")
    parser.add_argument("--storage", type=Path, help="keep the runs here; none: a scratch folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        storage = arguments.storage or Path(scratch)
        run = train(arguments.data, storage)
        show(run, "default settings", "stacker_against_best", "barriers", "checks")
        later = train(arguments.data, storage, "--execution-lag", "2", "--families", "ridge,gbdt")
        show(later, "execution lag of two bars")


if __name__ == "__main__":
    main()
