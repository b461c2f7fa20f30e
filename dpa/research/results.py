"""What a run has on disk, and its figures: finished, interrupted or still running."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import norm

from dpa.errors import RunError
from dpa.market.calendars import TradingCalendar
from dpa.market.panel import Floats
from dpa.runs import Manifest, RunDirectory, trial_id
from dpa.validation import statistics

COST_COLUMNS = ("spread", "commission", "impact", "borrow")
RESULT_COLUMNS = (
    "net_sharpe",
    "net_sharpe_se",
    "gross_sharpe",
    "annual_return",
    "annual_volatility",
    "max_drawdown",
    "turnover",
    "cost",
    "average_gross",
    "hit_rate",
    "psr",
    "dsr",
    "folds",
    "bars",
    "seconds",
    "peak_memory_mb",
    "status",
    "error",
)
LEAST_BARS = 20  # fewer out-of-sample bars say nothing about a trial

TrialStatus = Literal["done", "failed", "incomplete"]


@dataclass(frozen=True, eq=False)
class TrialResults:
    """One trial or baseline as it lies on disk.

    Attributes
    ----------
    name : str
        Trial id, or the baseline's name.
    path : Path
        Its directory; may not exist yet.
    parameters : mapping
        Value of each grid axis; empty for a baseline.
    status : "done", "failed" or "incomplete"
    error : str
        The last line of what went wrong; empty unless failed.
    returns : DataFrame (n_bars, 10)
        ``returns.parquet``, or the folds written so far; no rows when there is none.
    folds : DataFrame
        ``folds.csv``, or the folds reported so far.
    summary : mapping of str to number or str
        Its row of the table, from the returns; NaN where there are too few.
    """

    name: str
    path: Path
    parameters: Mapping[str, Any]
    status: TrialStatus
    error: str
    returns: pd.DataFrame
    folds: pd.DataFrame
    summary: Mapping[str, Any] = field(repr=False)

    @property
    def measured(self) -> bool:
        """Whether there are returns to judge."""
        return self.status != "failed" and math.isfinite(self.summary["net_sharpe"])

    def frame(self, kind: Literal["weights", "clusters"]) -> pd.DataFrame | None:
        """Target weights or cluster ids, (n_bars, n_assets); None where none were written."""
        files = _part_files(self.path, kind)
        return pd.concat([pd.read_parquet(file) for file in files]) if files else None


@dataclass(frozen=True, eq=False)
class RunResults:
    """Everything known about a run.

    Attributes
    ----------
    path : Path
    manifest : Manifest
    status : str
        Of the run: "running", "interrupted" or "complete".
    periods_per_year : float
        Bars per year of the data's calendar and interval.
    trials, baselines : tuple of TrialResults
        Every point of the grid, in grid order, started or not; every baseline.
    """

    path: Path
    manifest: Manifest
    status: str
    periods_per_year: float
    trials: tuple[TrialResults, ...]
    baselines: tuple[TrialResults, ...]

    @property
    def judged(self) -> tuple[TrialResults, ...]:
        """Trials that compete: the finished ones; all measured ones while none is finished."""
        measured = tuple(trial for trial in self.trials if trial.measured)
        done = tuple(trial for trial in measured if trial.status == "done")
        return done or measured

    @property
    def best(self) -> TrialResults | None:
        """The judged trial with the highest net Sharpe ratio."""
        return max(self.judged, key=lambda trial: trial.summary["net_sharpe"], default=None)

    @property
    def measured_baselines(self) -> tuple[TrialResults, ...]:
        """Baselines with returns."""
        return tuple(baseline for baseline in self.baselines if baseline.measured)

    def net_returns(self) -> pd.DataFrame:
        """Net returns of the judged trials over the bars they share, (n_bars, n_trials)."""
        columns = {trial.name: trial.returns["net"] for trial in self.judged}
        return pd.concat(columns, axis=1, join="inner") if columns else pd.DataFrame()


@dataclass(frozen=True)
class Comparison:
    """The picked trial against one baseline, over the bars both have.

    Attributes
    ----------
    baseline : str
    sharpe_difference : float
        Annual net Sharpe ratio of the trial less the baseline's.
    standard_error : float
        Of that difference, annual: Jobson & Korkie (1981) as corrected by Memmel (2003).
    probability : float
        That the trial is better, once the Sharpe ratio that the best of as many skill-less
        trials shows has been taken off; NaN where it cannot be told.
    """

    baseline: str
    sharpe_difference: float
    standard_error: float
    probability: float


@dataclass(frozen=True, eq=False)
class SearchStatistics:
    """What picking the best of a grid does to its Sharpe ratio.

    Attributes
    ----------
    n_trials : int
        All trials of the run, failed and unfinished ones included: each was a try.
    judged_trials : int
        Those with results to compare.
    effective_trials : float
        Independent trials that the judged ones amount to, from their mean correlation.
    expected_max_sharpe : float
        Annual net Sharpe ratio that the best of `n_trials` skill-less trials shows.
    dsr : mapping of str to float
        Trial to its deflated Sharpe ratio, counting all `n_trials`.
    overfitting : BacktestOverfitting or None
        None with fewer than 2 trials, or too few bars.
    comparisons : tuple of Comparison
        The best trial against each baseline.
    """

    n_trials: int
    judged_trials: int
    effective_trials: float
    expected_max_sharpe: float
    dsr: Mapping[str, float]
    overfitting: statistics.BacktestOverfitting | None
    comparisons: tuple[Comparison, ...]


def summarise_trial(returns: pd.DataFrame, periods_per_year: float) -> dict[str, float]:
    """The figures of one trial's row of ``grid_search_results.csv``.

    Parameters
    ----------
    returns : DataFrame (n_bars, ...)
        Columns of ``returns.parquet``; fractions of NAV per bar.
    periods_per_year : float
        Bars per year, from the calendar.

    Returns
    -------
    dict
        Sharpe ratios annual, the standard error Lo's (2002) with Newey-West lags; `turnover` and
        `average_gross` means per bar, `cost` per year, all fractions of NAV; `psr` against 0.
        NaN with fewer than 20 bars.
    """
    if len(returns) < LEAST_BARS:
        unknown = RESULT_COLUMNS[: RESULT_COLUMNS.index("dsr")]
        return dict.fromkeys(unknown, math.nan) | {"bars": float(len(returns))}
    net = returns["net"].to_numpy()
    found = statistics.summary(net, periods_per_year)
    cost = float(returns[list(COST_COLUMNS)].to_numpy().sum(axis=1).mean())
    return {
        "net_sharpe": found["sharpe"],
        "net_sharpe_se": found["sharpe_se_robust"],
        "gross_sharpe": statistics.sharpe_ratio(returns["gross"], periods_per_year),
        "annual_return": found["annual_return"],
        "annual_volatility": found["annual_volatility"],
        "max_drawdown": found["max_drawdown"],
        "turnover": float(returns["turnover"].mean()),
        "cost": cost * periods_per_year,
        "average_gross": float(returns["gross_exposure"].mean()),
        "hit_rate": found["hit_rate"],
        "psr": found["psr"],
        "bars": float(len(returns)),
    }


def read_run(run_dir: str | Path | RunDirectory) -> RunResults:
    """Everything a run has on disk, whatever its state; of a run in a store, what was got here.

    Raises
    ------
    RunError
        Naming the file that is missing or cannot be read.
    """
    run = run_dir if isinstance(run_dir, RunDirectory) else RunDirectory(Path(run_dir))
    manifest = run.read_manifest()
    year = TradingCalendar(manifest.data.calendar).bars_per_year(manifest.data.interval)
    trials = []
    for values in itertools.product(*manifest.axes.values()):
        parameters = dict(zip(manifest.axes, values, strict=True))
        name = trial_id(parameters)
        trials.append(_read_trial(name, run.trial(name), parameters, year))
    baselines = [_read_trial(name, run.baseline(name), {}, year) for name in manifest.baselines]
    return RunResults(run.path, manifest, run.status(), year, tuple(trials), tuple(baselines))


def _read_trial(
    name: str, path: Path, parameters: Mapping[str, Any], periods_per_year: float
) -> TrialResults:
    error_file = path / "error.txt"
    error = _last_line(error_file.read_text(encoding="utf-8")) if error_file.is_file() else ""
    stored = _read_json(path / "summary.json")
    status: TrialStatus = "failed" if error else "done" if stored else "incomplete"
    returns = _read_frames(_part_files(path, "returns"))
    folds = _read_folds(path)
    judged = returns.iloc[:0] if error else returns  # half a trial is not to be compared
    summary: dict[str, Any] = summarise_trial(judged, periods_per_year)
    summary |= {
        "folds": int(returns["fold"].nunique()) if "fold" in returns else 0,
        "seconds": float(folds["seconds"].sum()) if "seconds" in folds else math.nan,
        "peak_memory_mb": stored.get("peak_memory_mb", math.nan),
        "status": status,
        "error": error,
    }
    return TrialResults(name, path, parameters, status, error, returns, folds, summary)


def _part_files(path: Path, kind: str) -> list[Path]:
    """The joined file, else the files of the folds written so far."""
    joined = path / f"{kind}.parquet"
    if joined.is_file():
        return [joined]
    return sorted((path / "folds").glob(f"[0-9]*/{kind}.parquet"))


def _read_frames(files: Sequence[Path]) -> pd.DataFrame:
    if not files:
        return pd.DataFrame(columns=["net", "gross", *COST_COLUMNS], dtype=float)
    try:
        return pd.concat([pd.read_parquet(file) for file in files])
    except (OSError, ValueError) as e:
        raise RunError(f"{files[0].parent}: returns cannot be read ({e})", "resume the run") from e


def _read_folds(path: Path) -> pd.DataFrame:
    """``folds.csv``; while running, the reports inside the newest saved state."""
    if (path / "folds.csv").is_file():
        return pd.read_csv(path / "folds.csv")
    states = sorted((path / "state").glob("[0-9]*/progress.json"))
    return pd.DataFrame(_read_json(states[-1])["reports"] if states else [])


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise RunError(f"{path}: is not valid JSON", "resume the run, or delete the trial") from e
    return content


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "unknown error"


def search_statistics(run: RunResults) -> SearchStatistics | None:
    """Deflation, overfitting and comparisons of a run; None while nothing is measured."""
    best = run.best
    if best is None:
        return None
    per_bar = np.array([statistics.sharpe_ratio(trial.returns["net"], 1.0) for trial in run.judged])
    # one trial alone has no spread: then that of ratios measured over so many bars without skill
    variance = float(per_bar.var(ddof=1)) if len(per_bar) > 1 else 1.0 / len(best.returns)
    n_trials = run.manifest.n_trials
    noise = statistics.expected_max_sharpe(variance, n_trials)
    dsr = {
        trial.name: statistics.probabilistic_sharpe_ratio(trial.returns["net"], noise)
        for trial in run.judged
    }
    shared = run.net_returns().to_numpy()
    enough = shared.shape[1] > 1 and len(shared) >= LEAST_BARS
    compared = [
        compare(best, baseline, noise, run.periods_per_year) for baseline in run.measured_baselines
    ]
    return SearchStatistics(
        n_trials,
        len(per_bar),
        statistics.effective_number_of_trials(shared) if len(shared) else float(len(per_bar)),
        noise * math.sqrt(run.periods_per_year),
        dsr,
        statistics.probability_of_backtest_overfitting(shared) if enough else None,
        tuple(compared),
    )


def compare(
    trial: TrialResults, baseline: TrialResults, noise_per_bar: float, periods_per_year: float
) -> Comparison:
    """One trial against one baseline; `noise_per_bar` is the Sharpe ratio to take off first."""
    both = pd.concat([trial.returns["net"], baseline.returns["net"]], axis=1, join="inner")
    ours, theirs = both.to_numpy().T if len(both) else (np.empty(0), np.empty(0))
    if len(both) < LEAST_BARS or not (np.ptp(ours) > 0 and np.ptp(theirs) > 0):
        return Comparison(baseline.name, math.nan, math.nan, math.nan)
    a, b = (statistics.sharpe_ratio(x, 1.0) for x in (ours, theirs))
    error = sharpe_difference_error(ours, theirs)
    year = math.sqrt(periods_per_year)
    better = float(norm.cdf((a - b - noise_per_bar) / error)) if error > 0 else math.nan
    return Comparison(baseline.name, (a - b) * year, error * year, better)


def sharpe_difference_error(a: Floats, b: Floats) -> float:
    """Standard error of the difference of two Sharpe ratios, per bar.

    Jobson & Korkie (1981) with the correction of Memmel (2003):
    ``sqrt((2 - 2 r + (A^2 + B^2 - 2 A B r^2) / 2) / n)``, r the correlation of the two series,
    A and B their ratios per bar; both (n_bars,).
    """
    correlation = float(np.corrcoef(a, b)[0, 1])
    first, second = (statistics.sharpe_ratio(x, 1.0) for x in (a, b))
    moments = 0.5 * (first**2 + second**2 - 2.0 * first * second * correlation**2)
    return math.sqrt(max(0.0, 2.0 - 2.0 * correlation + moments) / len(a))


def grid_rows(run: RunResults, search: SearchStatistics | None) -> pd.DataFrame:
    """The rows of ``grid_search_results.csv``, in grid order."""
    return _table(run.trials, tuple(run.manifest.axes), search.dsr if search else {})


def baseline_rows(run: RunResults) -> pd.DataFrame:
    """The rows of ``baselines.csv``: no `dsr`, for no baseline was picked among several."""
    return _table(run.baselines, tuple(run.manifest.axes), {})


def _table(
    trials: Sequence[TrialResults], axes: tuple[str, ...], dsr: Mapping[str, float]
) -> pd.DataFrame:
    rows = [
        {"trial_id": trial.name, **trial.parameters, **trial.summary}
        | {"dsr": dsr.get(trial.name, math.nan)}
        for trial in trials
    ]
    return pd.DataFrame(rows, columns=["trial_id", *axes, *RESULT_COLUMNS])


def write_grid_csv(run: RunResults, search: SearchStatistics | None = None) -> pd.DataFrame:
    """Write ``grid_search_results.csv`` and ``baselines.csv``; the grid's rows."""
    search = search or search_statistics(run)
    directory = RunDirectory(run.path)
    grid = grid_rows(run, search)
    _write_csv(grid, directory.results_csv)
    _write_csv(baseline_rows(run), directory.baselines_csv)
    return grid


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    whole = table.astype({"bars": "Int64", "folds": "Int64"})
    staging = path.with_name(f".{path.name}")
    whole.to_csv(staging, index=False)
    staging.replace(path)
