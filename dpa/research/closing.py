"""What ends a run, finished or interrupted: tables, promoted model, report, closing words."""

import math
from collections.abc import Mapping
from pathlib import Path

from dpa.clock import Clock
from dpa.research.grid import label
from dpa.research.report import verdict, write_report
from dpa.research.results import (
    RunResults,
    SearchStatistics,
    TrialResults,
    read_run,
    search_statistics,
    write_grid_csv,
)
from dpa.runs import BASELINES, REPORT, RESULTS, RunDirectory, promote, promoted_by_hand
from dpa.text import columns

BEST_SHOWN = 5
MEASURES = (
    ("net Sharpe", "net_sharpe", "{:.2f}"),
    ("s.e.", "net_sharpe_se", "{:.2f}"),
    ("gross Sharpe", "gross_sharpe", "{:.2f}"),
    ("return", "annual_return", "{:.1%}"),
    ("drawdown", "max_drawdown", "{:.1%}"),
    ("turnover", "turnover", "{:.3f}"),
    ("cost", "cost", "{:.1%}"),
)


def close_run(run: RunDirectory, clock: Clock) -> int:
    """Write the tables and the report of `run`, and promote its best finished trial.

    Everything is made from the files of the run, so it can be repeated at any time. A run in a
    store is read from there, and what was made is kept there.

    Returns
    -------
    int
        Number of finished trials.
    """
    run.refresh()
    results = read_run(run)
    write_grid_csv(results)
    run.publish(RESULTS, BASELINES)
    best = results.best
    if best is not None and best.status == "done" and not promoted_by_hand(run):
        promote(run, best.name, clock, by="rank")
    report_run(run)
    return sum(trial.status == "done" for trial in results.trials)


def report_run(run: RunDirectory) -> Path:
    """Write the report of a run from what is here, and keep it; its file here."""
    best = read_run(run).best if run.store is not None else None
    if best is not None:
        run.mirror(f"trials/{best.name}").pull()  # its pictures need all of it
    path = write_report(run.path)
    run.publish(REPORT)
    return path


def closing_words(run: RunDirectory) -> str:
    """The end of a run in a terminal: best trials, baselines, statistics, verdict, paths."""
    results = read_run(run)
    search = search_statistics(results)
    parts = [_counts(results), _best(results, search), _overfitting(search)]
    judgement = verdict(results, search)
    parts.append("\n".join(line for line in (judgement.answer, judgement.reason) if line))
    paths = [f"report  {run.shown(REPORT)}", f"table   {run.shown(RESULTS)}"]
    if run.best.is_dir():
        paths.append(f"model   {run.shown('best')}")
    return "\n\n".join(part for part in [*parts, "\n".join(paths)] if part)


def _counts(results: RunResults) -> str:
    states = [trial.status for trial in results.trials]
    words = [f"{states.count('done')} of {len(states)} trials finished"]
    words += [f"{states.count(s)} {s}" for s in ("failed", "incomplete") if s in states]
    lines = [f"run {results.path.name} {results.status}: {', '.join(words)}"]
    failed = [t for t in (*results.trials, *results.baselines) if t.status == "failed"]
    lines += [f"failed: {trial.name}: {trial.error}" for trial in failed[:BEST_SHOWN]]
    return "\n".join(lines)


def _best(results: RunResults, search: SearchStatistics | None) -> str:
    """The best trials, then the baselines, in one table."""
    deflated = search.dsr if search is not None else {}
    best = sorted(results.judged, key=lambda trial: -trial.summary["net_sharpe"])[:BEST_SHOWN]
    rows = [_row(label(trial.parameters), trial, deflated) for trial in best]
    rows += [_row(trial.name, trial, {}) for trial in results.measured_baselines]
    header = ["best trials, baselines", *(title for title, _, _ in MEASURES), "DSR"]
    return columns(header, rows) if rows else ""


def _row(name: str, trial: TrialResults, deflated: Mapping[str, float]) -> list[str]:
    cells = [_number(form, trial.summary[key]) for _, key, form in MEASURES]
    return [name, *cells, _number("{:.2f}", deflated.get(trial.name, math.nan))]


def _number(form: str, value: float) -> str:
    return form.format(value) if math.isfinite(value) else "-"


def _overfitting(search: SearchStatistics | None) -> str:
    if search is None or search.n_trials < 2:
        return ""
    luck = f"the best of {search.n_trials} skill-less trials: {search.expected_max_sharpe:.2f}"
    if search.overfitting is None:
        return luck
    return (
        f"probability of backtest overfitting (PBO): {search.overfitting.probability:.2f}; {luck}"
    )
