"""``dpa runs``: list, show, promote, report and compare what runs left on disk."""

import argparse
import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpa.clock import SystemClock
from dpa.errors import RunError
from dpa.options import settings_options, typed
from dpa.runs import RunDirectory, find_run, list_runs, promote
from dpa.text import columns

Row = Mapping[str, str]
MEASURES = ("net_sharpe", "net_sharpe_se", "dsr", "annual_return", "max_drawdown", "turnover")


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a results table; none when the file is not there yet."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def number(row: Row, column: str) -> float:
    """A cell as a number, NaN when it is empty."""
    text = row.get(column) or "nan"
    return float(text)


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Finished trials, highest net Sharpe first, then the others."""
    return sorted(
        rows,
        key=lambda row: (
            row.get("status") == "done" and not math.isnan(number(row, "net_sharpe")),
            number(row, "net_sharpe") if row.get("net_sharpe") else -math.inf,
        ),
        reverse=True,
    )


def shown(row: Row, column: str) -> str:
    """A measure for a table: three decimals, a dash when it is not known."""
    value = number(row, column)
    return "-" if math.isnan(value) else f"{value:.3f}"


def best_row(run: RunDirectory) -> Row | None:
    """The finished trial with the highest net Sharpe."""
    rows = ranked([row for row in read_rows(run.results_csv) if row.get("status") == "done"])
    return rows[0] if rows else None


def list_all(arguments: argparse.Namespace) -> None:
    """One line a run, oldest first."""
    lines = []
    for run in list_runs(arguments.storage):
        manifest = run.read_manifest()
        rows = read_rows(run.results_csv)
        done = sum(row.get("status") == "done" for row in rows)
        best = best_row(run)
        sharpe = shown(best, "net_sharpe") if best is not None else "-"
        trials = f"{done}/{manifest.n_trials}"
        lines.append((manifest.run_id, run.status(), trials, sharpe, manifest.data.source))
    if not lines:
        print(f"no runs under {arguments.storage}")
        return
    print(columns(("run", "status", "trials done", "best net Sharpe", "data"), lines))


def show(arguments: argparse.Namespace) -> None:
    """What a run read, how far it is, its best trials and its baselines."""
    run = find_run(arguments.run_name, arguments.storage)
    manifest = run.read_manifest()
    data = manifest.data
    print(f"run       {manifest.run_id}  ({run.status()})")
    print(f"directory {run.path}")
    print(
        f"data      {data.source}: {len(data.names)} names, {data.n_bars} bars of {data.interval}, "
        f"{data.first_bar:%Y-%m-%d} to {data.last_bar:%Y-%m-%d}"
    )
    print(f"tested    {len(manifest.folds)} folds, {_span(run)}")
    print(f"code      dpa {manifest.code_version} ({manifest.code_hash[:12]})")
    for name, values in manifest.axes.items():
        print(f"axis      {name}: {typed(values)}")
    rows = ranked(read_rows(run.results_csv))
    if rows:
        print()
        print(results_table(rows[: arguments.rows]))
    baselines = read_rows(run.baselines_csv)
    if baselines:
        print()
        print(results_table(baselines, "baseline"))


def _span(run: RunDirectory) -> str:
    folds = run.read_manifest().folds
    return f"{folds[0].first_test:%Y-%m-%d} to {folds[-1].last_test:%Y-%m-%d}" if folds else ""


def results_table(rows: Sequence[Row], title: str = "trial") -> str:
    """Rows of a results table with the measures people compare first."""
    lines = [
        (row.get("trial_id", ""), *(shown(row, column) for column in MEASURES), row["status"])
        for row in rows
    ]
    return columns((title, *MEASURES, "status"), lines)


def promote_trial(arguments: argparse.Namespace) -> None:
    """Copy a trial's last model into best/."""
    run = find_run(arguments.run_name, arguments.storage)
    trial = arguments.trial
    if trial is None:
        best = best_row(run)
        if best is None:
            raise RunError(f"{run.path.name}: no trial is finished", "resume the run first")
        trial = best["trial_id"]
    print(f"{trial} -> {promote(run, trial, SystemClock())}")


def report(arguments: argparse.Namespace) -> None:
    """Write report.html again from what is on disk."""
    from dpa.research.report import write_report

    run = find_run(arguments.run_name, arguments.storage)
    print(write_report(run.path))


def compare(arguments: argparse.Namespace) -> None:
    """Best trials side by side, and the settings in which the runs differ."""
    runs = [find_run(reference, arguments.storage) for reference in arguments.run_names]
    lines = []
    for run in runs:
        best = best_row(run)
        cells = ["-"] * (1 + len(MEASURES))
        if best is not None:
            cells = [best["trial_id"], *(shown(best, column) for column in MEASURES)]
        lines.append((run.path.name, run.status(), *cells))
    print(columns(("run", "status", "best trial", *MEASURES), lines))
    differing = differences(runs)
    if differing:
        print()
        print(columns(("differs in", *(run.path.name for run in runs)), differing))


def differences(runs: Sequence[RunDirectory]) -> list[tuple[str, ...]]:
    """Settings, axes, data and code in which runs differ: name, then one text a run."""
    manifests = [run.read_manifest() for run in runs]

    def texts(name: str, values: Sequence[Any]) -> list[tuple[str, ...]]:
        cells = [typed(value) for value in values]
        return [(name, *cells)] if len(set(cells)) > 1 else []

    found: list[tuple[str, ...]] = []
    for name, option in settings_options().items():
        found += texts(
            name,
            [
                m.axes.get(name) or getattr(getattr(m.settings, option.section), name)
                for m in manifests
            ],
        )
    found += texts("data fingerprint", [m.data.fingerprint[:12] for m in manifests])
    found += texts("code", [f"{m.code_version} ({m.code_hash[:12]})" for m in manifests])
    return found
