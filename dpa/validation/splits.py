"""Walk-forward folds: train on the past, test on what comes next, slide by the test window.

The cut is López de Prado's (2018, ch. 7): training decisions whose label ends at or after the
first test bar are purged, and an embargo widens the gap. ``skfolio.model_selection.WalkForward``
gives the same windows and is the oracle in the tests; it is not wrapped, because it is only an
extra of this project and knows neither a context before the first fold nor a least test window.
"""

from dataclasses import dataclass

from dpa.config import WalkForwardConfig
from dpa.errors import ConfigError, DataError


@dataclass(frozen=True)
class Fold:
    """One training window and the test window after it, in bar numbers of the whole history.

    Parameters
    ----------
    index : int
        Number of the fold, from 0.
    train_start, train_stop : int
        Bars at which a training decision may be taken, stop exclusive. Purged and embargoed
        bars are left out: every label of a training decision ends before `test_start`.
    test_start, test_stop : int
        Bars at which a test decision is taken, stop exclusive.
    partial : bool
        Whether the history ended before the test window was full.
    """

    index: int
    train_start: int
    train_stop: int
    test_start: int
    test_stop: int
    partial: bool


def _check(config: WalkForwardConfig, context_bars: int, longest_window: int | None) -> None:
    gap = config.execution_lag + config.embargo_bars
    if context_bars < 0:
        raise ConfigError(f"context_bars {context_bars}", "use at least 0")
    if gap >= config.train_bars:
        raise ConfigError(
            f"walk_forward: execution_lag {config.execution_lag} + embargo_bars "
            f"{config.embargo_bars} leave nothing of train_bars {config.train_bars}",
            "lengthen train_bars or shorten the embargo",
        )
    if longest_window is not None and longest_window > config.train_bars:
        raise ConfigError(
            f"model.window: {longest_window} bars are longer than the training span, "
            f"walk_forward.train_bars {config.train_bars}",
            "shorten the window or lengthen train_bars",
        )


def walk_forward_folds(
    n_bars: int,
    config: WalkForwardConfig,
    context_bars: int,
    longest_window: int | None = None,
) -> list[Fold]:
    """Folds of a history of `n_bars` bars, in time order.

    Fold k tests ``test_bars`` bars from ``context_bars + train_bars + k * test_bars`` on, and
    trains on the ``train_bars`` bars before them, less the purge (``execution_lag`` bars, the
    reach of a label) and the embargo. Test windows touch and never overlap. The last, partial
    one is kept and flagged, or dropped where it has fewer than ``min_test_bars`` bars.

    Parameters
    ----------
    n_bars : int
        Bars of the history.
    config : WalkForwardConfig
        Lengths in bars.
    context_bars : int
        Bars before the first training decision. Give every point of a grid the largest look-back
        among them, and all are tested on the same dates.
    longest_window : int, optional
        Longest feature window, bars; refused where it is longer than the training span.

    Raises
    ------
    ConfigError
        The gap swallows the training window, or `longest_window` exceeds it.
    DataError
        Too few bars for one fold.
    """
    _check(config, context_bars, longest_window)
    least = min(config.min_test_bars, config.test_bars)
    needed = context_bars + config.train_bars + least
    if n_bars < needed:
        raise DataError(
            f"{n_bars} bars are too few for one fold: {context_bars} of context, "
            f"{config.train_bars} to train and {least} to test make {needed}",
            "give more history, or shorten model.window or walk_forward.train_bars",
        )
    folds = []
    gap = config.execution_lag + config.embargo_bars
    first_test = context_bars + config.train_bars
    for index, start in enumerate(range(first_test, n_bars - least + 1, config.test_bars)):
        stop = min(start + config.test_bars, n_bars)
        partial = stop - start < config.test_bars
        folds.append(Fold(index, start - config.train_bars, start - gap, start, stop, partial))
    return folds
