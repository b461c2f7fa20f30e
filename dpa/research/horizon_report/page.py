"""Puts the report of a run of predictors together: verdict, pictures and tables in one file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from dpa.research.horizon_report import pictures
from dpa.research.horizon_report.results import (
    STACKER,
    HorizonResults,
    expected_largest_t,
    passed,
    rarely_largest_t,
    read_horizon_run,
)
from dpa.research.horizon_report.tables import (
    barrier_table,
    check_table,
    fit_table,
    fit_totals,
    fold_table,
    horizon_table,
    ic_matrix,
    identity_table,
    missing_table,
    pair_table,
)
from dpa.research.horizon_report.words import caveats, verdict
from dpa.research.report.frame import Picture, Tile, render_page
from dpa.research.report.style import number, percent
from dpa.research.report.tables import Table
from dpa.runs import RunDirectory, write_atomically


@dataclass(frozen=True)
class Section:
    """A heading with its caption, a picture, tables, or both."""

    key: str
    title: str
    caption: str
    figure: go.Figure | None = None
    tables: tuple[Table, ...] = ()
    css: str = ""

    @property
    def picture(self) -> Picture | None:
        """The picture under its heading."""
        if self.figure is None:
            return None
        return Picture(self.key, self.title, self.caption, self.figure)


def write_horizon_report(run_dir: str | Path) -> Path:
    """Write ``report.html`` of a run of predictors from its tables, whatever the run's state.

    Parameters
    ----------
    run_dir : str or Path
        Directory of the run. Tables that are missing are said to be missing.

    Returns
    -------
    Path
        The file: self-contained, readable offline.

    Raises
    ------
    RunError
        When the manifest or a table cannot be read.
    """
    run = read_horizon_run(run_dir)
    target = RunDirectory(run.path).report
    write_atomically(target, render(run))
    return target


def render(run: HorizonResults) -> str:
    """The page of a run."""
    return render_page(
        "dpa.research.horizon_report",
        run=run,
        verdict=verdict(run),
        tiles=list(_tiles(run)),
        sections=[section for make in SECTIONS for section in make(run)],
        caveats=caveats(run),
        missing=missing_table(run),
        folds=fold_table(run),
        identity=identity_table(run),
    )


def _tiles(run: HorizonResults) -> Iterator[Tile]:
    largest = run.largest
    if largest is not None:
        n = len(run.judged)
        yield Tile("largest |t|", number(largest.t, 1), f"{largest.family} at {largest.horizon}")
        yield Tile("luck alone", number(expected_largest_t(n), 1),
                   f"expected of {n}; {number(rarely_largest_t(n), 1)} once in 20")  # fmt: skip
        primary = run.manifest.settings.horizons.primary_horizon or run.horizons[0]
        stacked = run.pair(STACKER, primary)
        if stacked is not None:
            yield Tile(f"stacker at {primary}", number(stacked.ic, 4),
                       f"rank IC, ± {number(stacked.se, 4)}")  # fmt: skip
    yield from _barrier_tiles(run)
    checks = run.tables.get("checks")
    if checks is not None:
        good = f"{int(passed(checks).sum())} of {len(checks)}"
        yield Tile("leakage checks", good, "passed")
    fits = run.tables.get("fits")
    if fits is not None:
        yield Tile("fits", f"{run.done} of {run.manifest.n_trials}",
                   f"{fits['seconds'].sum():,.0f} seconds of fitting")  # fmt: skip


def _barrier_tiles(run: HorizonResults) -> Iterator[Tile]:
    rows = run.tables.get("barriers")
    if rows is not None:
        for row in rows[rows["family"] == pictures.CALIBRATED].to_dict("records"):
            yield Tile(f"Brier skill, {row['barrier']}", percent(row["skill"], 2),
                       "calibrated, against the base rate")  # fmt: skip


def _horizons(run: HorizonResults) -> Iterator[Section]:
    if run.pairs:
        yield Section(
            "horizons",
            "Horizon by horizon",
            "Evidence is a positive IC whose chance of luck over all pairs looked at is below 5%.",
            tables=(horizon_table(run),),
            css="wide",
        )


def _coefficients(run: HorizonResults) -> Iterator[Section]:
    if run.pairs:
        yield Section(
            "ic",
            "Rank IC by family and horizon",
            "Mean Spearman correlation across names of forecast and return, out of sample; "
            "whiskers are two standard errors that allow for overlapping labels. The diamond is "
            "the stacker. Whiskers that cross zero are no evidence; where there is nothing to "
            "find, one in twenty misses zero by luck.",
            pictures.ic_dots(run.pairs, pictures.family_colours(run.families)),
            (ic_matrix(run), pair_table(run)),
        )


def _decay(run: HorizonResults) -> Iterator[Section]:
    rows = run.tables.get("decay")
    if rows is not None:
        yield Section(
            "decay",
            "Rank-IC decay",
            "The forecast of one horizon (row) against the return over another (column). A row "
            "that fades to the right is a signal that is soon used up; a diagonal no better than "
            "the rest of its column says that the horizons forecast the same thing.",
            pictures.decay(rows, run.families),
        )


def _months(run: HorizonResults) -> Iterator[Section]:
    rows = run.tables.get("months")
    if rows is not None:
        yield Section(
            "months",
            "Rank IC by month",
            "One good month can carry a mean: look for rows of one colour. A single month of long "
            "horizons holds few independent labels, so that strong colours there mean little. "
            "The scale ends at the 98th percentile.",
            pictures.months(rows, run.families),
        )


def _barriers(run: HorizonResults) -> Iterator[Section]:
    curves, scores = run.tables.get("reliability"), run.tables.get("barriers")
    title = "Barrier heads"
    if curves is None and scores is None:
        return
    settings = run.manifest.settings.horizons
    words = (
        f"Now is a peak when within {settings.barrier_minutes} session minutes the price falls by "
        f"{settings.barrier_width:g} sigmas before it rises as far; a valley is the mirror. "
    )
    if curves is not None:
        words += (
            "A calibrated head lies on the dashed line: what it calls 30% happens 30% of the time. "
            "Bars are Wilson's 95% intervals of the frequency, which take rows as independent and "
            "are too narrow. "
        )
    words += (
        "Skill is the part of the base rate's Brier score that is taken off: 0 is what saying the "
        "base rate always would get, and below 0 is worse than that."
    )
    yield Section(
        "reliability",
        title,
        words,
        None
        if curves is None
        else pictures.reliability(curves, pictures.family_colours(run.families)),
        () if scores is None else (barrier_table(scores),),
    )


def _correlations(run: HorizonResults) -> Iterator[Section]:
    rows = run.tables.get("correlations")
    if rows is not None:
        yield Section(
            "correlations",
            "Correlation between families",
            "Mean rank correlation across names of two families' forecasts. Families near 1 say "
            "the same thing twice, and stacking them gains little.",
            pictures.correlations(rows, run.families),
        )


def _importance(run: HorizonResults) -> Iterator[Section]:
    rows = run.tables.get("importance")
    if rows is None:
        return
    figure = pictures.importance(rows, run.families, pictures.family_colours(run.families))
    if figure is not None:
        yield Section(
            "importance",
            "Feature importance",
            f"The first {pictures.MOST_FEATURES} features of each family, as shares of all, mean "
            "over folds. What a share measures differs by family (coefficients, gain of the "
            "splits, gradient times input): compare within a panel only. Related features share "
            "their credit arbitrarily, and importance is no evidence of skill.",
            figure,
        )


def _curves(run: HorizonResults) -> Iterator[Section]:
    rows = run.tables.get("curves")
    if rows is not None:
        for family in pictures.curve_families(rows):
            yield Section(
                f"curves-{family}",
                f"Training curves: {family}",
                "Loss by step (a tree, or a pass over the rows), a line a fold. Validation that "
                "turns up while training falls is overfitting; fitting stops there. A validation "
                "loss that never falls found nothing to learn.",
                pictures.training_curves(rows, family),
            )


def _stacker(run: HorizonResults) -> Iterator[Section]:
    rows = run.tables.get("stacker")
    if rows is not None:
        yield Section(
            "stacker",
            "Weights of the stacker",
            "How the forecast of each horizon (row) is put together from those of every family "
            "and horizon (column), each divided by its usual size. No weight is negative, and an "
            "empty cell is zero. A row that is spread evenly follows the prior, not the data.",
            pictures.stacker_weights(rows, run.families),
        )


def _checks(run: HorizonResults) -> Iterator[Section]:
    rows = run.tables.get("checks")
    if rows is not None:
        yield Section(
            "checks",
            "Leakage checks",
            "What was done to see that no forecast knew its future. A cross makes every figure "
            "above worthless.",
            tables=(check_table(rows),),
            css="wide",
        )


def _fits(run: HorizonResults) -> Iterator[Section]:
    rows: pd.DataFrame | None = run.tables.get("fits")
    if rows is not None:
        yield Section(
            "fits",
            "Fits",
            "Time, memory and rows of each fit; 'final' fits are those of the bundle and have no "
            "test.",
            tables=(fit_totals(rows), fit_table(rows)),
        )


SECTIONS = (
    _horizons,
    _coefficients,
    _decay,
    _months,
    _barriers,
    _correlations,
    _importance,
    _curves,
    _stacker,
    _checks,
    _fits,
)
