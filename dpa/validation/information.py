"""Information coefficient: how well forecasts rank outcomes, with errors that respect overlap.

Labels of h bars taken at neighbouring bars share returns, so the information coefficients (IC) of
up to h - 1 neighbours are correlated; an error that takes bars as independent is too small by up
to ``sqrt(h)``.

The errors here are Newey & West's (1987) with Bartlett weights. For a forecast that hardly moves
the autocorrelation of the IC at lag k is ``1 - k / h``, its sum over all lags h, and Bartlett
weights with L lags see ``h (1 - h / (3 L))`` of it: with L = h a third of the variance is lost
and the error is 18 % too small, with L = 3 h 6 %. Hence L = 3 h (:data:`LAGS_PER_OVERLAP`). More
would lose less, but the estimate rests on about ``1.5 n / L`` degrees of freedom, so that the
noise of the error itself grows. Two errors cover noise in about 95 % of samples where the bars
hold 80 labels or more, and in about 88 % where they hold 20, such as a month of day-long labels
of a forecast that hardly moves. Independent labels get the data-determined floor of Newey & West,
:func:`~dpa.validation.statistics.newey_west_lags`.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from dpa.errors import ConfigError, DataError
from dpa.validation.statistics import newey_west_lags

Doubles = NDArray[np.float64]
LAGS_PER_OVERLAP = 3
LEAST_SPANS = 4  # label lengths a series must cover before its error means anything
ROWS_AT_ONCE = 2**20  # bounds the memory of ranking a long history


@dataclass(frozen=True)
class ICEstimate:
    """A mean information coefficient and how sure it is.

    Parameters
    ----------
    ic : float
        In [-1, 1]; NaN where there is none.
    se : float
        Standard error; NaN where the bars cover fewer than four labels.
    t : float
        ``ic / se``.
    n_bars : int
        Bars with an information coefficient.
    n_effective : float
        Independent bars that would give the same error, at most `n_bars`; NaN where `se` is.
    """

    ic: float
    se: float
    t: float
    n_bars: int
    n_effective: float


def _paired(forecast: ArrayLike, outcome: ArrayLike) -> tuple[NDArray, NDArray]:  # type: ignore[type-arg]
    first, second = np.asarray(forecast), np.asarray(outcome)
    if first.shape != second.shape or first.ndim != 2:
        raise DataError(
            f"forecasts of shape {first.shape} and outcomes of shape {second.shape}",
            "give both as (n_bars, n_assets)",
        )
    return first, second


def cross_sectional_ic(forecast: ArrayLike, outcome: ArrayLike, least: int = 5) -> Doubles:
    """Spearman rank correlation across names, bar by bar; ties share their mean rank.

    Parameters
    ----------
    forecast, outcome : array-like of shape (n_bars, n_assets)
        A name counts at the bars where both are finite.
    least : int
        Fewest names for a correlation.

    Returns
    -------
    float64 ndarray of shape (n_bars,)
        NaN where fewer than `least` names count, or where either side is constant.

    Raises
    ------
    DataError
        When the shapes differ.
    """
    first, second = _paired(forecast, outcome)
    n_bars, n_assets = first.shape
    out = np.full(n_bars, np.nan)
    step = max(1, ROWS_AT_ONCE // max(n_assets, 1))
    for start in range(0, n_bars, step):
        part = slice(start, start + step)
        out[part] = _rank_correlation(first[part], second[part], least)
    return out


def _rank_correlation(first: NDArray, second: NDArray, least: int) -> Doubles:  # type: ignore[type-arg]
    both = np.isfinite(first) & np.isfinite(second)
    count = both.sum(axis=1)
    ranks = []
    for side in (first, second):
        rank = stats.rankdata(np.where(both, side, np.nan), axis=1, nan_policy="omit")
        # the mean of average ranks is (count + 1) / 2 exactly
        ranks.append(np.where(both, rank - 0.5 * (count[:, None] + 1), 0.0))
    covariance = np.einsum("ta,ta->t", *ranks)
    spread = np.sqrt(np.prod([np.einsum("ta,ta->t", r, r) for r in ranks], axis=0))
    good = (count >= max(least, 2)) & (spread > 0)
    out: Doubles = np.where(good, covariance / np.where(good, spread, 1.0), np.nan)
    return out


def linear_ic(forecast: ArrayLike, outcome: ArrayLike, least: int = 5) -> Doubles:
    """Pearson correlation across names, bar by bar; parameters as :func:`cross_sectional_ic`."""
    first, second = _paired(forecast, outcome)
    both = np.isfinite(first) & np.isfinite(second)
    count = both.sum(axis=1)
    sides = []
    for side in (first, second):
        filled = np.where(both, side, 0.0).astype(np.float64)
        mean = filled.sum(axis=1) / np.maximum(count, 1)
        sides.append(np.where(both, filled - mean[:, None], 0.0))
    covariance = np.einsum("ta,ta->t", *sides)
    spread = np.sqrt(np.prod([np.einsum("ta,ta->t", s, s) for s in sides], axis=0))
    good = (count >= max(least, 2)) & (spread > 0)
    out: Doubles = np.where(good, covariance / np.where(good, spread, 1.0), np.nan)
    return out


def newey_west_se(values: ArrayLike, lags: int) -> float:
    """Standard error of a mean, robust to autocorrelation (Newey & West 1987).

    ``sqrt(sum_k w_k sum_t e_t e_{t+k}) / n`` over lags -`lags` to `lags` with Bartlett weights
    ``w_k = 1 - |k| / (lags + 1)``; e is the deviation from the mean. NaN values are gaps: they
    count in no sum, and the values around them stay at their true distance (Parzen 1963).

    Parameters
    ----------
    values : array-like of shape (n_bars,)
    lags : int
        At least 0; more than there are bars adds nothing.

    Returns
    -------
    float
        NaN for fewer than two values.
    """
    series, there = _series(values)
    n = int(there.sum())
    if n < 2:
        return float("nan")
    return float(np.sqrt(max(_long_run(_deviation(series, there), lags), 0.0)) / n)


def _series(values: ArrayLike) -> tuple[Doubles, NDArray[np.bool_]]:
    series = np.asarray(values, dtype=np.float64)
    if series.ndim != 1:
        raise DataError(f"a series of shape {series.shape}", "give one value per bar, (n_bars,)")
    return series, np.isfinite(series)


def _deviation(series: Doubles, there: NDArray[np.bool_]) -> Doubles:
    out: Doubles = np.where(there, series - series[there].mean(), 0.0)
    return out


def _long_run(values: Doubles, lags: int) -> float:
    """``sum_k w_k sum_t v_t v_{t+k}`` with Bartlett weights, k from -lags to lags."""
    if lags < 0:
        raise ConfigError(f"lags {lags}", "use at least 0")
    total = float(values @ values)
    for lag in range(1, min(lags, len(values) - 1) + 1):
        total += 2.0 * (1.0 - lag / (lags + 1.0)) * float(values[lag:] @ values[:-lag])
    return total


def overlap_lags(overlap: int, n_bars: int) -> int:
    """Lags of the error of a series whose labels overlap: three label lengths, or the floor.

    Parameters
    ----------
    overlap : int
        Bars from a decision to the end of its label, at least 1; 1 means no overlap.
    n_bars : int
    """
    if overlap < 1:
        raise ConfigError(f"overlap {overlap}", "use the bars of a label, at least 1")
    return max(LAGS_PER_OVERLAP * overlap if overlap > 1 else 0, newey_west_lags(n_bars))


def _overlap_se(series: Doubles, there: NDArray[np.bool_], overlap: int) -> float:
    """:func:`newey_west_se`, corrected for the share of the variance that the mean took away."""
    n = int(there.sum())
    if n < max(LEAST_SPANS * overlap, 2):
        return float("nan")
    lags = overlap_lags(overlap, n)
    taken = _long_run(there.astype(np.float64), lags) / n**2
    if taken >= 1.0:
        return float("nan")
    return newey_west_se(np.where(there, series, np.nan), lags) / float(np.sqrt(1.0 - taken))


def mean_ic(ic_by_bar: ArrayLike, overlap: int) -> ICEstimate:
    """Mean of the information coefficients by bar, with an error that respects overlap.

    Newey & West's error with :func:`overlap_lags`. The deviations are from the estimated mean,
    which takes ``sum_k w_k (1 - |k| / n) / n`` of the variance away, about L / n: it is given
    back.

    Parameters
    ----------
    ic_by_bar : array-like of shape (n_bars,)
        Such as :func:`cross_sectional_ic`; NaN bars are gaps and keep their place in time.
    overlap : int
        Bars from a decision to the end of its label, ``lag - 1 + bars``; 1 means no overlap.
    """
    series, there = _series(ic_by_bar)
    n = int(there.sum())
    ic = float(series[there].mean()) if n else float("nan")
    return _estimate(ic, series, there, overlap)


def _estimate(ic: float, influence: Doubles, there: NDArray[np.bool_], overlap: int) -> ICEstimate:
    n = int(there.sum())
    se = _overlap_se(influence, there, overlap)
    if not se > 0:
        return ICEstimate(ic, se, float("nan"), n, float("nan"))
    independent = float(influence[there].var(ddof=1)) / se**2
    return ICEstimate(ic, se, ic / se, n, min(independent, float(n)))


def pooled_ic(forecast: ArrayLike, outcome: ArrayLike, overlap: int) -> ICEstimate:
    """Spearman rank correlation of all rows at once, every name at every bar.

    It credits a forecast for the level of the whole market too, which
    :func:`cross_sectional_ic` does not. The error sums the influence of the rows (Croux & Dehon
    2010) at each bar, so that names that move together count as one, and treats these sums as
    :func:`mean_ic` does; Bartlett weights are the limit of moving blocks (Künsch 1989).

    Parameters
    ----------
    forecast, outcome : array-like of shape (n_bars, n_assets)
        A row counts where both are finite.
    overlap : int
        Bars from a decision to the end of its label.

    Returns
    -------
    ICEstimate
        NaN for fewer than two rows or a constant side.
    """
    first, second = _paired(forecast, outcome)
    both = np.isfinite(first) & np.isfinite(second)
    n_rows = int(both.sum())
    there = both.any(axis=1)
    nothing = ICEstimate(float("nan"), float("nan"), float("nan"), int(there.sum()), float("nan"))
    if n_rows < 2:
        return nothing
    x, y = (
        stats.rankdata(side[both].astype(np.float64)) / n_rows - 0.5 * (n_rows + 1) / n_rows
        for side in (first, second)
    )
    spread = float(np.sqrt((x @ x) * (y @ y))) / n_rows
    if spread == 0:
        return nothing
    ic = float(x @ y) / n_rows / spread
    influence = (x * y + _mean_above(x, y) + _mean_above(y, x)) / spread
    by_bar = np.bincount(np.nonzero(both)[0], influence - influence.mean(), len(first))
    scaled = by_bar * there.sum() / n_rows  # its mean over bars moves as the correlation does
    return _estimate(ic, scaled, there, overlap)


def _mean_above(by: Doubles, values: Doubles) -> Doubles:
    """Sum of `values` at the rows where `by` is at least a row's own, over the number of rows."""
    order = np.argsort(by)
    sorted_ = by[order]
    above = np.cumsum(values[order][::-1])[::-1] / len(values)
    starts = np.concatenate([[True], sorted_[1:] > sorted_[:-1]])  # ties share the first one's
    out = np.empty(len(by))
    out[order] = above[starts][np.cumsum(starts) - 1]
    return out


def ic_by_month(ic_by_bar: ArrayLike, times: pd.DatetimeIndex, overlap: int) -> pd.DataFrame:
    """:func:`mean_ic` of every calendar month (UTC).

    Parameters
    ----------
    ic_by_bar : array-like of shape (n_bars,)
    times : DatetimeIndex of shape (n_bars,)
        UTC, increasing; NaT where nothing is known of a bar.
    overlap : int
        Bars from a decision to the end of its label.

    Returns
    -------
    DataFrame
        Columns month (such as ``"2024-05"``), ic, se, t, n_bars and n_effective; months without
        an information coefficient are left out.
    """
    series, _ = _series(ic_by_bar)
    if len(series) != len(times):
        raise DataError(f"{len(series)} values at {len(times)} times", "give one value per time")
    months = times.year.to_numpy() * 12 + times.month.to_numpy() - 1
    rows = []
    for number in np.unique(months[np.isfinite(months)]):
        bars = np.flatnonzero(months == number)
        found = mean_ic(series[bars[0] : bars[-1] + 1], overlap)
        if found.n_bars:
            month = f"{int(number) // 12:04d}-{int(number) % 12 + 1:02d}"
            rows.append({"month": month, **vars(found)})
    return pd.DataFrame(rows, columns=["month", "ic", "se", "t", "n_bars", "n_effective"])
