"""Tables of how good forecasts were: information coefficients, decay, agreement, barriers.

Everything is dense arrays of test windows, in time order; the stacker is judged like a family.
Errors respect overlap: the label of h bars at lag L spans ``L - 1 + h`` bars, see
:func:`dpa.validation.information.mean_ic`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpa.errors import DataError
from dpa.horizons.calibration import brier_score, brier_skill
from dpa.horizons.types import BARRIERS, Doubles
from dpa.market.calendars import nanoseconds, utc_index
from dpa.market.interval_specs import Horizon
from dpa.validation.information import cross_sectional_ic, ic_by_month, mean_ic

LEAST_NAMES = 5  # fewest names for a rank correlation


@dataclass(frozen=True, eq=False)
class ForecastWindow:
    """Forecasts of one test window and what came of them.

    Parameters
    ----------
    times : DatetimeIndex of shape (n_bars,)
        UTC, increasing.
    first_bar : int
        Number of the first bar in the whole history.
    forecasts : mapping of str to ndarray of shape (n_bars, n_assets, n_horizons)
        Scaled forward return forecast, by family; NaN where it says nothing.
    outcomes : ndarray of shape (n_bars, n_assets, n_horizons)
        Scaled forward return, NaN where unknown.
    probabilities : mapping of str to ndarray of shape (n_bars, n_assets, 2)
        Probability of peak and valley, by family; NaN where it says nothing.
    labels : ndarray of shape (n_bars, n_assets, 2), optional
        Peak and valley, 0 or 1, NaN where unknown.

    Raises
    ------
    DataError
        When the shapes do not fit together.
    """

    times: pd.DatetimeIndex
    first_bar: int
    forecasts: Mapping[str, NDArray[Any]]
    outcomes: NDArray[Any]
    probabilities: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    labels: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        shape = self.outcomes.shape
        if len(shape) != 3 or shape[0] != len(self.times):
            raise DataError(
                f"test window: outcomes {shape} at {len(self.times)} times",
                "give (n_bars, n_assets, n_horizons)",
            )
        barriers = (*shape[:2], len(BARRIERS))
        found = [(name, values, shape) for name, values in self.forecasts.items()]
        found += [(name, values, barriers) for name, values in self.probabilities.items()]
        if self.labels is not None:
            found.append(("labels", self.labels, barriers))
        for name, values, wanted in found:
            if values.shape != wanted:
                raise DataError(f"test window: {name} is {values.shape}, not {wanted}")


def _families(windows: Sequence[ForecastWindow]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for window in windows for name in window.forecasts))


def _along_history(windows: Sequence[ForecastWindow], parts: Sequence[Doubles | None]) -> Doubles:
    """Values by bar, each window's at its place in history, NaN between and where none."""
    start = min(window.first_bar for window in windows)
    stop = max(window.first_bar + len(window.times) for window in windows)
    out = np.full(stop - start, np.nan)
    for window, values in zip(windows, parts, strict=True):
        if values is not None:
            place = window.first_bar - start
            out[place : place + len(values)] = values
    return out


def _times_along_history(windows: Sequence[ForecastWindow]) -> pd.DatetimeIndex:
    start = min(window.first_bar for window in windows)
    stop = max(window.first_bar + len(window.times) for window in windows)
    out = np.full(stop - start, pd.NaT.value, dtype=np.int64)
    for window in windows:
        place = window.first_bar - start
        out[place : place + len(window.times)] = nanoseconds(window.times)
    return utc_index(out)


def ic_series(
    windows: Sequence[ForecastWindow], family: str, horizon: int, outcome: int | None = None
) -> Doubles:
    """Cross-sectional Spearman IC at every bar of a stretch of history.

    Parameters
    ----------
    windows : sequence of ForecastWindow
        In time order.
    family : str
    horizon : int
        Position of the horizon forecast.
    outcome : int, optional
        Position of the horizon it is judged by; none: the same.

    Returns
    -------
    float64 ndarray of shape (n_bars,)
        From the first window's first bar to the last window's last; NaN between windows, and
        where fewer than 5 names have both.
    """
    judged = horizon if outcome is None else outcome
    parts = [
        cross_sectional_ic(
            window.forecasts[family][:, :, horizon], window.outcomes[:, :, judged], LEAST_NAMES
        )
        if family in window.forecasts
        else None
        for window in windows
    ]
    return _along_history(windows, parts)


def _overlap(horizon: Horizon, lag: int) -> int:
    return lag - 1 + horizon.bars


def _mean_names(windows: Sequence[ForecastWindow], family: str, horizon: int) -> float:
    """Mean number of names with forecast and outcome, over the bars with enough of them."""
    counts = [
        (
            np.isfinite(window.forecasts[family][:, :, horizon])
            & np.isfinite(window.outcomes[:, :, horizon])
        ).sum(axis=1)
        for window in windows
        if family in window.forecasts
    ]
    count = np.concatenate([np.zeros(0, dtype=np.int64), *counts])
    enough = count[count >= LEAST_NAMES]
    return float(enough.mean()) if len(enough) else float("nan")


def ic_table(
    windows: Sequence[ForecastWindow], horizons: Sequence[Horizon], lag: int
) -> pd.DataFrame:
    """Information coefficient of every family at every horizon.

    Parameters
    ----------
    windows : sequence of ForecastWindow
        In time order.
    horizons : sequence of Horizon
    lag : int
        Execution lag.

    Returns
    -------
    DataFrame
        Columns family, horizon, ic, se, t, n_bars, mean_names.
    """
    rows = []
    for family in _families(windows):
        for place, horizon in enumerate(horizons):
            found = mean_ic(ic_series(windows, family, place), _overlap(horizon, lag))
            rows.append(
                (
                    family,
                    horizon.label,
                    found.ic,
                    found.se,
                    found.t,
                    found.n_bars,
                    _mean_names(windows, family, place),
                )
            )
    columns = ["family", "horizon", "ic", "se", "t", "n_bars", "mean_names"]
    return pd.DataFrame(rows, columns=columns)


def decay_table(
    windows: Sequence[ForecastWindow], horizons: Sequence[Horizon], lag: int
) -> pd.DataFrame:
    """Forecasts of every horizon judged by the returns of every horizon.

    Parameters are those of :func:`ic_table`.

    Returns
    -------
    DataFrame
        Columns family, horizon (forecast), outcome (horizon realised), ic, se, t, n_bars.
    """
    rows = []
    for family in _families(windows):
        for place, horizon in enumerate(horizons):
            for judged, outcome in enumerate(horizons):
                series = ic_series(windows, family, place, judged)
                found = mean_ic(series, _overlap(outcome, lag))
                numbers = (found.ic, found.se, found.t, found.n_bars)
                rows.append((family, horizon.label, outcome.label, *numbers))
    columns = ["family", "horizon", "outcome", "ic", "se", "t", "n_bars"]
    return pd.DataFrame(rows, columns=columns)


def month_table(
    windows: Sequence[ForecastWindow], horizons: Sequence[Horizon], lag: int
) -> pd.DataFrame:
    """Information coefficient by calendar month (UTC).

    Parameters are those of :func:`ic_table`.

    Returns
    -------
    DataFrame
        Columns family, horizon, month, ic, se, t, n_bars, n_effective.
    """
    times = _times_along_history(windows)
    tables = []
    for family in _families(windows):
        for place, horizon in enumerate(horizons):
            series = ic_series(windows, family, place)
            table = ic_by_month(series, times, _overlap(horizon, lag))
            table.insert(0, "horizon", horizon.label)
            table.insert(0, "family", family)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def family_correlations(
    windows: Sequence[ForecastWindow], horizons: Sequence[Horizon]
) -> pd.DataFrame:
    """How alike families rank names: mean rank correlation of their forecasts across names.

    Parameters
    ----------
    windows : sequence of ForecastWindow
    horizons : sequence of Horizon

    Returns
    -------
    DataFrame
        Columns horizon, family, other, correlation, n_bars; each pair once.
    """
    rows = []
    for place, horizon in enumerate(horizons):
        for family, other in combinations(_families(windows), 2):
            parts = [
                cross_sectional_ic(
                    window.forecasts[family][:, :, place],
                    window.forecasts[other][:, :, place],
                    LEAST_NAMES,
                )
                for window in windows
                if family in window.forecasts and other in window.forecasts
            ]
            by_bar = np.concatenate([np.zeros(0), *parts])
            known = by_bar[np.isfinite(by_bar)]
            mean = float(known.mean()) if len(known) else float("nan")
            rows.append((horizon.label, family, other, mean, len(known)))
    return pd.DataFrame(rows, columns=["horizon", "family", "other", "correlation", "n_bars"])


def barrier_rows(
    windows: Sequence[ForecastWindow], family: str, barrier: int
) -> tuple[Doubles, Doubles]:
    """Probabilities and labels of one barrier, all windows and names in one row each.

    Parameters
    ----------
    windows : sequence of ForecastWindow
    family : str
    barrier : int
        0 for peak, 1 for valley.

    Returns
    -------
    probability, label : float64 ndarray of shape (n_rows,)
        Rows where both are known.
    """
    probability, label = [np.zeros(0)], [np.zeros(0)]
    for window in windows:
        if family in window.probabilities and window.labels is not None:
            probability.append(window.probabilities[family][:, :, barrier].ravel())
            label.append(window.labels[:, :, barrier].ravel())
    given = np.concatenate(probability).astype(np.float64)
    seen = np.concatenate(label).astype(np.float64)
    known = np.isfinite(given) & np.isfinite(seen)
    return given[known], seen[known]


def barrier_table(windows: Sequence[ForecastWindow]) -> pd.DataFrame:
    """Brier score of the barrier heads.

    Parameters
    ----------
    windows : sequence of ForecastWindow

    Returns
    -------
    DataFrame
        Columns family, barrier (peak or valley), brier, skill (against the base rate),
        base_rate, n (rows); families without a known row are left out.
    """
    families = dict.fromkeys(name for window in windows for name in window.probabilities)
    rows = []
    for family in families:
        for place, barrier in enumerate(BARRIERS):
            given, seen = barrier_rows(windows, family, place)
            if len(seen):
                score, skill = brier_score(given, seen), brier_skill(given, seen)
                rows.append((family, barrier, score, skill, float(seen.mean()), len(seen)))
    return pd.DataFrame(rows, columns=["family", "barrier", "brier", "skill", "base_rate", "n"])
