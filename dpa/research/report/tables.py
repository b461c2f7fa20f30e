"""Tables of the report: formatted from the same rows that the CSV files hold."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dpa.research.report.style import day, moment, number, percent, shown, whole
from dpa.research.results import RunResults

Format = Callable[[Any], str]


@dataclass(frozen=True)
class Table:
    """A table ready to print.

    Attributes
    ----------
    columns : titles, each with whether it holds numbers.
    rows : cells as text; the first `open_rows` are shown, the rest folded away.
    marked : number of the row to set off; -1 for none.
    """

    name: str
    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[str, ...], ...]
    open_rows: int
    marked: int = -1


def _two(value: Any) -> str:
    return number(float(value))


def _three(value: Any) -> str:
    return number(float(value), 3)


def _percent(value: Any) -> str:
    return percent(float(value))


RESULTS: dict[str, tuple[str, Format]] = {
    "net_sharpe": ("net Sharpe", _two),
    "net_sharpe_se": ("± s.e.", _two),
    "gross_sharpe": ("gross Sharpe", _two),
    "annual_return": ("return", _percent),
    "annual_volatility": ("volatility", _percent),
    "max_drawdown": ("max drawdown", _percent),
    "turnover": ("turnover", _percent),
    "cost": ("cost", _percent),
    "average_gross": ("mean gross", _percent),
    "hit_rate": ("hit rate", _percent),
    "psr": ("PSR", _three),
    "dsr": ("DSR", _three),
}
PROGRESS: dict[str, tuple[str, Format]] = {"folds": ("folds", whole), "status": ("status", str)}


def trial_table(run: RunResults, rows: pd.DataFrame) -> Table:
    """The grid, best net Sharpe first; failed and unmeasured trials last."""
    axes = tuple(run.manifest.axes)
    ordered = rows.sort_values("net_sharpe", ascending=False, na_position="last", kind="stable")
    figures = RESULTS if (rows["status"] == "done").all() else PROGRESS | RESULTS
    cells = [
        (*(shown(row[axis]) for axis in axes), *_figures(row, figures))
        for _, row in ordered.iterrows()
    ]
    best = run.best
    marked = list(ordered["trial_id"]).index(best.name) if best is not None else -1
    columns = [(axis.replace("_", " "), False) for axis in axes] + _titles(figures)
    return Table("grid", tuple(columns), tuple(cells), 12, marked)


def baseline_table(rows: pd.DataFrame, grid: pd.DataFrame, best: str | None) -> Table:
    """The best trial above the baselines."""
    picked = grid[grid["trial_id"] == best].assign(trial_id="best trial")
    both = [*picked.iterrows(), *rows.iterrows()]
    done = all(row["status"] == "done" for _, row in both)
    figures = RESULTS if done else PROGRESS | RESULTS
    cells = tuple((row["trial_id"], *_figures(row, figures)) for _, row in both)
    columns = (("", False), *_titles(figures))
    return Table("baselines", columns, cells, len(cells), 0 if len(picked) else -1)


def _titles(figures: dict[str, tuple[str, Format]]) -> list[tuple[str, bool]]:
    return [(title, form is not str) for title, form in figures.values()]


def _figures(row: pd.Series, figures: dict[str, tuple[str, Format]]) -> list[str]:
    return [form(row[name]) for name, (_, form) in figures.items()]


FOLDS: dict[str, tuple[str, Format]] = {
    "fold": ("fold", whole),
    "test_start": ("test from", day),
    "test_stop": ("to", day),
    "epochs": ("epochs", whole),
    "train_sharpe": ("training Sharpe", _two),
    "validation_sharpe": ("validation", _two),
    "net_sharpe": ("test, net", _two),
    "gross_sharpe": ("test, gross", _two),
    "turnover": ("turnover a bar", _percent),
    "average_gross": ("mean gross", _percent),
    "seconds": ("seconds", _two),
}


def fold_table(folds: pd.DataFrame) -> Table:
    """The folds of one trial; a fold with a cut-short test window carries an asterisk."""
    known = {name: how for name, how in FOLDS.items() if name in folds}
    cells = []
    for _, row in folds.iterrows():
        line = [form(row[name]) for name, (_, form) in known.items()]
        line[0] += "*" if row.get("partial", False) else ""
        cells.append(tuple(line))
    columns = tuple((title, form not in (day,)) for title, form in known.values())
    return Table("folds", columns, tuple(cells), 12)


def failure_table(run: RunResults) -> Table:
    """Failed trials and baselines with the last line of their error."""
    failed = [trial for trial in (*run.trials, *run.baselines) if trial.status == "failed"]
    cells = tuple((trial.name, trial.error) for trial in failed)
    return Table("failed", (("trial", False), ("error", False)), cells, 12)


def identity_table(run: RunResults) -> Table:
    """What names the run."""
    manifest, data = run.manifest, run.manifest.data
    axes = "; ".join(
        f"{name} {', '.join(shown(value) for value in values)}"
        for name, values in manifest.axes.items()
    )
    walk = manifest.settings.walk_forward
    rows = (
        ("run", manifest.run_id),
        ("created", f"{manifest.created_at:%Y-%m-%d %H:%M} UTC"),
        ("status", run.status),
        ("data", f"{data.source}: {len(data.names)} names, {data.n_bars:,} bars of "
                 f"{data.interval} ({data.calendar}), {moment(data.first_bar)} to "
                 f"{moment(data.last_bar)} UTC"),
        ("data fingerprint", data.fingerprint),
        ("walk-forward", f"train {walk.train_bars} bars, test {walk.test_bars}, embargo "
                         f"{walk.embargo_bars}, execution lag {walk.execution_lag}; "
                         f"{len(manifest.folds)} folds"),
        ("grid", axes or "one point"),
        ("run fingerprint", manifest.fingerprint()),
        ("code", f"dpa {manifest.code_version}, sources {manifest.code_hash[:16]}"),
        ("libraries", ", ".join(f"{k} {v}" for k, v in manifest.libraries.items())),
    )  # fmt: skip
    return Table("identity", (("", False), ("", False)), rows, len(rows))
