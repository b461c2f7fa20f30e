"""Folds cut at session boundaries, with labels purged by where they end in session time.

The history is on the complete session grid of its calendar, one row for every bar of every
session, so a span of session minutes is a fixed number of rows and a label taken five minutes
before the close ends after the next open. Purging rows therefore purges by session time: a purge
in clock minutes would miss the night, whose 17.5 hours hold no bar at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpa.errors import ConfigError, DataError
from dpa.validation.splits import Fold


@dataclass(frozen=True)
class PurgeSpec:
    """How far a training decision must stay away from the first test bar.

    A decision at bar t may train when ``t + label_bars + embargo_bars < test_start``.

    Parameters
    ----------
    label_bars : int
        Bars from a decision to the last bar its label reads.
    embargo_bars : int
        Further bars left out.
    """

    label_bars: int
    embargo_bars: int

    def __post_init__(self) -> None:
        if self.label_bars < 1 or self.embargo_bars < 0:
            raise ConfigError(
                f"a purge of {self.label_bars} label bars and {self.embargo_bars} embargo bars",
                "a label reads at least 1 bar, an embargo has at least 0",
            )

    @property
    def bars(self) -> int:
        """Bars left out before a test window."""
        return self.label_bars + self.embargo_bars


def make_purge_spec(
    horizon_bars: Sequence[int], execution_lag: int, embargo_bars: int
) -> PurgeSpec:
    """The purge that the longest label needs.

    Parameters
    ----------
    horizon_bars : sequence of int
        Bars of every horizon, and of the barriers' look-ahead.
    execution_lag : int
        Bars between a decision and its first return; the label of h bars taken at bar t ends at
        bar ``t + execution_lag - 1 + h``.
    embargo_bars : int
        Bars dropped beyond the purge.

    Raises
    ------
    ConfigError
        When there is no horizon, or a number is out of range.
    """
    if not horizon_bars or min(horizon_bars) < 1 or execution_lag < 1:
        raise ConfigError(
            f"horizons of {tuple(horizon_bars)} bars with execution_lag {execution_lag}",
            "give at least one horizon, each of 1 bar or more, and a lag of 1 or more",
        )
    return PurgeSpec(execution_lag - 1 + max(horizon_bars), embargo_bars)


def session_folds(
    session: NDArray[np.int64],
    train_sessions: int,
    test_sessions: int,
    purge: PurgeSpec,
    first_bar: int = 0,
) -> list[Fold]:
    """Walk-forward folds of whole sessions, in time order.

    Fold k tests `test_sessions` sessions and trains on the `train_sessions` sessions before them,
    less the purge; it slides by `test_sessions`. The last one may hold fewer test sessions and
    is then marked partial.

    Parameters
    ----------
    session : int64 ndarray of shape (n_bars,)
        Number of the session each bar belongs to, never decreasing.
    train_sessions, test_sessions : int
        Lengths, at least 1.
    purge : PurgeSpec
    first_bar : int
        Bars before it are context only; training starts with the first session that begins there
        or later.

    Raises
    ------
    ConfigError
        The purge swallows a training window, or a length is below 1.
    DataError
        Sessions out of order, or too few of them.
    """
    if train_sessions < 1 or test_sessions < 1 or first_bar < 0:
        raise ConfigError(
            f"train_sessions {train_sessions}, test_sessions {test_sessions}, "
            f"first_bar {first_bar}",
            "use at least 1 session to train, 1 to test, and no bar below 0",
        )
    edges = _session_edges(session, first_bar)
    found, needed = len(edges) - 1, train_sessions + 1
    if found < needed:
        raise DataError(
            f"{max(found, 0)} sessions are too few for one fold: {train_sessions} to train and 1 "
            f"to test make {needed}, after {first_bar} bars of context",
            "give more history, or shorten horizons.train_sessions",
        )
    folds = []
    for index, tested in enumerate(range(train_sessions, found, test_sessions)):
        last = min(tested + test_sessions, found)
        start, test_start = edges[tested - train_sessions], edges[tested]
        stop = test_start - purge.bars
        if stop <= start:
            raise ConfigError(
                f"purge and embargo of {purge.bars} bars leave nothing of a training window of "
                f"{test_start - start} bars",
                "lengthen horizons.train_sessions, or shorten the horizons or the embargo",
            )
        partial = last - tested < test_sessions
        folds.append(Fold(index, start, stop, test_start, edges[last], partial))
    return folds


def _session_edges(session: NDArray[np.int64], first_bar: int) -> list[int]:
    """First bars of the sessions that begin at `first_bar` or later, and the number of bars."""
    steps = np.diff(session)
    if (steps < 0).any():
        raise DataError(
            f"session numbers fall at bar {int(np.argmax(steps < 0)) + 1}", "sort the bars by time"
        )
    starts = np.flatnonzero(np.concatenate([[True], steps > 0])) if len(session) else steps
    return [int(start) for start in starts if start >= first_bar] + [len(session)]


def holdout(
    train_start: int, train_stop: int, fraction: float, purge: PurgeSpec
) -> tuple[int, int]:
    """Keep the tail of a training window for early stopping, purged from what is fitted.

    Parameters
    ----------
    train_start, train_stop : int
        Bars of the training window, stop exclusive.
    fraction : float
        Of the window's bars, in (0, 1); at least one bar.
    purge : PurgeSpec

    Returns
    -------
    fit_stop, validation_start : int
        Fit on ``[train_start, fit_stop)``, validate on ``[validation_start, train_stop)``.

    Raises
    ------
    ConfigError
        When nothing is left to fit.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"a holdout of {fraction}", "use a fraction between 0 and 1")
    n_bars = train_stop - train_start
    validation_start = train_stop - max(1, round(fraction * n_bars))
    fit_stop = validation_start - purge.bars
    if fit_stop <= train_start:
        raise ConfigError(
            f"a holdout of {fraction:g} and a purge of {purge.bars} bars leave nothing of a "
            f"training window of {n_bars} bars",
            "lengthen horizons.train_sessions, or lower horizons.holdout",
        )
    return fit_stop, validation_start
