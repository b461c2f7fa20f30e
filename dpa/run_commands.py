"""``dpa runs``: list, show, promote, report and compare what runs left on disk."""

import argparse
import csv
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpa.clock import SystemClock
from dpa.errors import RunError
from dpa.options import settings_options, typed
from dpa.runs import RESULTS, RunDirectory, find_run, list_runs, promote
from dpa.stores.places import Storage
from dpa.text import columns

Row = Mapping[str, str]
HORIZONS = "horizons"  # the kind of a run of predictors
IC = "ic.csv"  # among its tables
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


def _found(reference: str, storage: Path | Storage) -> RunDirectory:
    """A run with what it has left so far."""
    run = find_run(reference, storage)
    run.refresh()
    return run


def list_all(arguments: argparse.Namespace) -> None:
    """One line a run, oldest first."""
    lines = []
    for run in list_runs(arguments.storage):
        run.fetch(RESULTS, f"{run.tables.name}/{IC}")
        manifest = run.read_manifest()
        predicts = manifest.kind == HORIZONS
        done = run.fits_done() if predicts else _trials_done(run)
        lines.append(
            (
                manifest.run_id,
                manifest.kind,
                run.status(),
                f"{done}/{manifest.n_trials}",
                _best_forecast(run) if predicts else _best_trial(run),
                manifest.data.source,
            )
        )
    if not lines:
        print(f"no runs under {arguments.storage}")
        return
    print(columns(("run", "kind", "status", "done", "best", "data"), lines))


def _trials_done(run: RunDirectory) -> int:
    return sum(row.get("status") == "done" for row in read_rows(run.results_csv))


def _best_trial(run: RunDirectory) -> str:
    best = best_row(run)
    return f"net Sharpe {shown(best, 'net_sharpe')}" if best is not None else "-"


def best_forecast(run: RunDirectory) -> Row | None:
    """The family and horizon with the largest t of its information coefficient."""
    rows = [row for row in read_rows(run.tables / IC) if not math.isnan(number(row, "t"))]
    return max(rows, key=lambda row: number(row, "t"), default=None)


def _best_forecast(run: RunDirectory) -> str:
    best = best_forecast(run)
    return f"{_named(best)} IC {measured(best)}" if best is not None else "-"


def _named(row: Row) -> str:
    return f"{row['family']} {row['horizon']}"


def measured(row: Row) -> str:
    """An information coefficient with its t: ``0.0312 (t 4.1)``."""
    ic, t = number(row, "ic"), number(row, "t")
    if math.isnan(ic):
        return "-"
    return f"{ic:.4f} (t {t:.1f})" if not math.isnan(t) else f"{ic:.4f} (no error)"


def show(arguments: argparse.Namespace) -> None:
    """What a run read, how far it is, its best trials and its baselines."""
    run = _found(arguments.run_name, arguments.storage)
    manifest = run.read_manifest()
    data = manifest.data
    print(f"run       {manifest.run_id}  ({run.status()})")
    print(f"directory {run.shown()}")
    print(
        f"data      {data.source}: {len(data.names)} names, {data.n_bars} bars of {data.interval}, "
        f"{data.first_bar:%Y-%m-%d} to {data.last_bar:%Y-%m-%d}"
    )
    print(f"tested    {len(manifest.folds)} folds, {_span(run)}")
    print(f"code      dpa {manifest.code_version} ({manifest.code_hash[:12]})")
    if manifest.kind == HORIZONS:
        _show_forecasts(run)
        return
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


def _show_forecasts(run: RunDirectory) -> None:
    """Families, folds, and the information coefficients of a run of predictors."""
    from dpa.research.horizon_report import verdict
    from dpa.research.horizon_report.results import read_horizon_run

    manifest = run.read_manifest()
    print(f"families  {', '.join(manifest.settings.horizons.families)}")
    print(f"fits      {run.fits_done()} of {manifest.n_trials} done")
    for fold in manifest.folds:
        trained = fold.train_stop - fold.train_start
        print(
            f"fold {fold.index:<4} {trained} bars trained, tested "
            f"{fold.first_test:%Y-%m-%d} to {fold.last_test:%Y-%m-%d}"
            + (" (cut short)" if fold.partial else "")
        )
    rows = read_rows(run.tables / IC)
    if rows:
        print()
        print(ic_text(rows))
    print()
    print(verdict(read_horizon_run(run.path)))


def ic_text(rows: Sequence[Row]) -> str:
    """Information coefficients: a line a family, a column a horizon."""
    horizons = list(dict.fromkeys(row["horizon"] for row in rows))
    cells = {(row["family"], row["horizon"]): measured(row) for row in rows}
    lines = [
        (family, *(cells.get((family, horizon), "-") for horizon in horizons))
        for family in dict.fromkeys(row["family"] for row in rows)
    ]
    return columns(("rank IC", *horizons), lines)


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
    run = _found(arguments.run_name, arguments.storage)
    if run.read_manifest().kind == HORIZONS:
        raise RunError(
            f"{run.path.name}: is a run of predictors, which has no trials",
            f"use 'dpa bundle promote {run.path.name}'",
        )
    trial = arguments.trial
    if trial is None:
        best = best_row(run)
        if best is None:
            raise RunError(f"{run.path.name}: no trial is finished", "resume the run first")
        trial = best["trial_id"]
    promoted = promote(run, trial, SystemClock())
    print(f"{trial} -> {run.shown(promoted.name)}")


def report(arguments: argparse.Namespace) -> None:
    """Write report.html again from what is on disk."""
    run = _found(arguments.run_name, arguments.storage)
    if run.read_manifest().kind == HORIZONS:
        from dpa.research.horizon_report import write_horizon_report

        written = write_horizon_report(run.path)
        run.publish(written.name)
    else:
        from dpa.research.closing import report_run

        written = report_run(run)
    print(run.shown(written.name))


def compare(arguments: argparse.Namespace) -> None:
    """What the runs found side by side, and the settings in which they differ.

    Raises
    ------
    RunError
        When some are runs of the grid and others of predictors.
    """
    runs = [_found(reference, arguments.storage) for reference in arguments.run_names]
    kinds = {str(run.read_manifest().kind): run.path.name for run in runs}
    if len(kinds) > 1:
        raise RunError(
            f"{kinds['grid']} is a run of the grid, {kinds[HORIZONS]} of predictors",
            "compare runs of one kind",
        )
    print(forecasts_compared(runs) if HORIZONS in kinds else trials_compared(runs))
    differing = differences(runs)
    if differing:
        print()
        print(columns(("differs in", *(run.path.name for run in runs)), differing))


def trials_compared(runs: Sequence[RunDirectory]) -> str:
    """The best trial of each run of the grid."""
    lines = []
    for run in runs:
        best = best_row(run)
        cells = ["-"] * (1 + len(MEASURES))
        if best is not None:
            cells = [best["trial_id"], *(shown(best, column) for column in MEASURES)]
        lines.append((run.path.name, run.status(), *cells))
    return columns(("run", "status", "best trial", *MEASURES), lines)


def forecasts_compared(runs: Sequence[RunDirectory]) -> str:
    """Information coefficients of runs of predictors: a line a family and horizon."""
    tables = [{_named(row): measured(row) for row in read_rows(run.tables / IC)} for run in runs]
    names = dict.fromkeys(itertools.chain.from_iterable(tables))
    lines = [("status", *(run.status() for run in runs))]
    lines += [(name, *(table.get(name, "-") for table in tables)) for name in names]
    return columns(("rank IC", *(run.path.name for run in runs)), lines)


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
