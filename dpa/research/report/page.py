"""Puts a report together: verdict, pictures, tables, statistics, into one HTML file."""

from pathlib import Path

import pandas as pd

from dpa.research.report import grid_pictures, trial_pictures
from dpa.research.report.frame import FRAME, Picture, Tile, render_page
from dpa.research.report.style import number, percent, short
from dpa.research.report.tables import (
    baseline_table,
    failure_table,
    fold_table,
    identity_table,
    trial_table,
)
from dpa.research.report.words import (
    caveats,
    probability,
    statistics_in_words,
    verdict,
)
from dpa.research.results import (
    RunResults,
    SearchStatistics,
    TrialResults,
    baseline_rows,
    grid_rows,
    read_run,
    search_statistics,
)
from dpa.runs import RunDirectory, write_atomically


def write_report(run_dir: str | Path) -> Path:
    """Write ``report.html`` of a run from its files, whatever the run's state.

    Parameters
    ----------
    run_dir : str or Path
        Directory of the run.

    Returns
    -------
    Path
        The file: self-contained, readable offline.

    Raises
    ------
    RunError
        When the run's files cannot be read.
    """
    run = read_run(run_dir)
    target = RunDirectory(run.path).report
    write_atomically(target, render(run))
    return target


def render(run: RunResults) -> str:
    """The page of a run."""
    search = search_statistics(run)
    best = run.best
    rows = grid_rows(run, search)
    return render_page(
        FRAME,
        run=run,
        verdict=verdict(run, search),
        tiles=_tiles(best, search) if best is not None and search is not None else [],
        pictures=_pictures(run, best, search) if best is not None and search is not None else [],
        baselines=baseline_table(baseline_rows(run), rows, best.name if best else None),
        statistics=statistics_in_words(run, search) if search is not None else [],
        caveats=caveats(run),
        folds=fold_table(best.folds) if best is not None else None,
        trials=trial_table(run, rows),
        failures=failure_table(run),
        identity=identity_table(run),
        best_name=short(best.parameters) if best is not None else "",
    )


def _tiles(best: TrialResults, search: SearchStatistics) -> list[Tile]:
    summary = best.summary
    overfitting = search.overfitting.probability if search.overfitting else float("nan")
    return [
        Tile("net Sharpe, best", number(summary["net_sharpe"]),
             f"± {number(summary['net_sharpe_se'])} standard error"),
        Tile("luck alone", number(search.expected_max_sharpe),
             _luck_note(search.n_trials)),
        Tile("deflated Sharpe", probability(search.dsr[best.name]),
             "probability of skill; 0.95 is evidence"),
        Tile("overfitting (PBO)", number(overfitting), "0.5 is what noise gives"),
        Tile("return a year", percent(summary["annual_return"]),
             f"volatility {percent(summary['annual_volatility'])}"),
        Tile("max drawdown", percent(summary["max_drawdown"]), "from the highest value"),
        Tile("cost a year", percent(summary["cost"]),
             f"turnover {percent(summary['turnover'])} a bar"),
    ]  # fmt: skip


def _luck_note(n_trials: int) -> str:
    if n_trials < 2:
        return "one trial: nothing was picked"
    return f"expected best of {n_trials} without skill"


def _pictures(run: RunResults, best: TrialResults, search: SearchStatistics) -> list[Picture]:
    clusters = best.frame("clusters")
    candidates = [
        ("wealth", "Wealth and drawdown",
         "Out of sample, after all costs; every fold's test window joined to the next.",
         trial_pictures.wealth_and_drawdown(run, best)),
        ("risk", "The same at equal risk",
         "Each track scaled to 10% volatility a year, in hindsight and for comparison only: its "
         "slope is its net Sharpe ratio.",
         trial_pictures.wealth_at_equal_risk(run, best)),
        ("grid", "The grid",
         "Net Sharpe ratio of every point. A good point among poor neighbours is likely luck."
         + (" Cells are means over the other axes." if len(grid_pictures.open_axes(run)) > 3
            else ""),
         grid_pictures.heat_maps(run)),
        ("noise", "Trials against luck",
         "Each trial with its standard error. The dashed line is what the best of as many "
         "trials would show if none had skill.",
         grid_pictures.trials_against_noise(run, search)),
        ("slices", "One parameter at a time",
         "Dots are trials, the line their mean: a real effect is smooth.",
         grid_pictures.slices(run)),
        ("costs", "Where the return goes",
         f"Best trial ({short(best.parameters)}): mean return a year before costs, each cost, "
         "and what is left.",
         trial_pictures.cost_attribution(run, best)),
        ("exposure", "Exposure and turnover",
         "Best trial. Gross and net exposure after trading; turnover counts purchases and "
         "sales, away from the drifted holdings.",
         trial_pictures.exposure_and_turnover(best)),
        ("clusters", "Clusters over time", _cluster_caption(clusters),
         None if clusters is None else trial_pictures.cluster_strip(clusters)),
        ("learned", "Learned parameters",
         "Best trial, after each fold. Values that wander were not learned from anything "
         "lasting.",
         trial_pictures.learned_parameters(best)),
        ("folds", "Fold by fold",
         "Best trial. Training far above test is what overfitting looks like.",
         trial_pictures.fold_by_fold(best)),
        ("stability", "Stability across folds",
         f"Net Sharpe ratio of trials (best on top, at most {grid_pictures.MOST_ROWS}) in each "
         "fold. Columns of one colour are the market; rows of one colour would be skill.",
         grid_pictures.stability(run)),
    ]  # fmt: skip
    return [Picture(*candidate) for candidate in candidates if candidate[-1] is not None]


def _cluster_caption(clusters: pd.DataFrame | None) -> str:
    words = "Best trial: each row a name, each colour a cluster, grey where it is in none."
    drawn = trial_pictures.MOST_NAMES
    if clusters is not None and clusters.shape[1] > drawn:
        words += f" {drawn} of {clusters.shape[1]} names, taken evenly from all clusters."
    return words
