"""Checks a run of predictors makes on itself: nothing that was fitted saw what it was tested on."""

import numpy as np
import pandas as pd

from dpa.horizons.dataset import BlockSpan, Dataset, make_block
from dpa.horizons.recipe import Recipe
from dpa.horizons.training import final_fold
from dpa.research.horizon_plan import HorizonPlan
from dpa.validation.purge import holdout
from dpa.validation.splits import Fold

SPOTS = 3  # bars at which features are computed again without a future
COLUMNS = ["check", "passed", "words"]


def leakage_checks(plan: HorizonPlan, recipe: Recipe, dataset: Dataset) -> pd.DataFrame:
    """Every check, one row each.

    Returns
    -------
    DataFrame
        Columns check, passed (bool), words (what was looked at).
    """
    rows = [
        _labels_end_before_tests(plan.folds, recipe),
        _holdout_is_purged(plan.folds, recipe),
        _nights(plan, recipe),
        _features_without_future(plan, recipe, dataset),
        _final_fit_has_no_test(plan, dataset),
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _labels_end_before_tests(folds: tuple[Fold, ...], recipe: Recipe) -> tuple[str, bool, str]:
    reach = recipe.purge.label_bars
    gaps = [fold.test_start - (fold.train_stop - 1 + reach) for fold in folds]
    words = (
        f"{len(folds)} folds: the last training label ends {min(gaps)} bar(s) or more before the "
        "first decision tested"
    )
    return "labels end before the test", min(gaps) > 0, words


def _holdout_is_purged(folds: tuple[Fold, ...], recipe: Recipe) -> tuple[str, bool, str]:
    reach = recipe.purge.label_bars
    gaps = []
    for fold in folds:
        stop, start = holdout(
            fold.train_start, fold.train_stop, recipe.settings.horizons.holdout, recipe.purge
        )
        gaps.append(start - (stop - 1 + reach))
    words = "labels fitted end before the first row that decides when to stop"
    return "early stopping is purged", min(gaps) > 0, words


def _nights(plan: HorizonPlan, recipe: Recipe) -> tuple[str, bool, str]:
    """Labels that span a night, one by one, in clock time."""
    reach, times = recipe.purge.label_bars, plan.times
    crossing, leaked = 0, 0
    for fold in plan.folds:
        decided = np.arange(fold.train_start, fold.train_stop)
        ends = times[decided + reach]
        nights = times[decided].normalize() != ends.normalize()
        crossing += int(nights.sum())
        leaked += int((nights & (ends >= times[fold.test_start])).sum())
    words = f"of {crossing:,} training labels that span a night, {leaked} meet a test window"
    return "labels over night", leaked == 0, words


def _features_without_future(
    plan: HorizonPlan, recipe: Recipe, dataset: Dataset
) -> tuple[str, bool, str]:
    """Features of some bars, computed from a history that ends there."""
    bars = np.linspace(plan.folds[0].test_start, dataset.n_bars - 1, SPOTS).astype(int)
    same = True
    for bar in bars:
        source = plan.source.window(max(0, bar - recipe.feature_set().reach), int(bar) + 1)
        span = BlockSpan(source.n_bars - 1, source.n_bars)
        fresh = make_block(source, recipe, span).features
        stored = dataset.dense("features", int(bar), int(bar) + 1)
        same &= bool(np.array_equal(fresh, stored, equal_nan=True))
    words = f"at {SPOTS} bars, history cut off behind them: the same features, bit for bit"
    return "features without a future", same, words


def _final_fit_has_no_test(plan: HorizonPlan, dataset: Dataset) -> tuple[str, bool, str]:
    final = final_fold(plan.folds, dataset)
    words = "the models of the bundle train on the last window; no figure here is theirs"
    return "the bundle's own fit is not scored", final.test_start == dataset.n_bars, words
