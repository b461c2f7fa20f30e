"""Performance statistics of one series of returns, and what selection does to them.

Returns are simple returns per bar, fractions of NAV, net of whatever the caller has taken off.
They must be finite: a NaN or infinity, or an empty series, is a :class:`dpa.errors.DataError`.
A series that never moves off zero has Sharpe and Sortino ratio 0; where a ratio is not defined
(one bar, a constant return other than zero) it is NaN. "Annual" figures take `periods_per_year`
from the calendar (:meth:`dpa.market.calendars.TradingCalendar.bars_per_year`); a name that says
`per_bar` is not annualised. The formulas and what they do not tell are in docs/statistics.md.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from dpa.errors import ConfigError, DataError
from dpa.validation.checks import (
    Floats,
    is_constant,
    positive_periods,
    return_matrix,
    return_series,
)
from dpa.validation.overfitting import (
    BacktestOverfitting,
    effective_number_of_trials,
    probability_of_backtest_overfitting,
)

__all__ = [
    "BacktestOverfitting",
    "annual_return",
    "annual_volatility",
    "autocorrelation_adjusted_sharpe",
    "deflated_sharpe_ratio",
    "deflated_sharpe_ratios",
    "drawdowns",
    "effective_number_of_trials",
    "expected_max_sharpe",
    "hit_rate",
    "max_drawdown",
    "newey_west_lags",
    "probabilistic_sharpe_ratio",
    "probability_of_backtest_overfitting",
    "sharpe_confidence",
    "sharpe_ratio",
    "sharpe_standard_error",
    "sortino_ratio",
    "summary",
]


@dataclass(frozen=True)
class _Moments:
    """Per bar: Sharpe ratio, skewness, kurtosis (3 for a normal law), number of bars."""

    sharpe: float
    skewness: float
    kurtosis: float
    n_bars: int


def _moments(values: Floats) -> _Moments:
    sharpe = sharpe_ratio(values, 1.0)
    if is_constant(values):  # the limit of a position that shrinks to nothing
        return _Moments(sharpe, 0.0, 3.0, len(values))
    return _Moments(
        sharpe,
        float(stats.skew(values)),
        float(stats.kurtosis(values, fisher=False)),
        len(values),
    )


def sharpe_ratio(returns: ArrayLike, periods_per_year: float) -> float:
    """Annual Sharpe ratio, ``mean / sd * sqrt(periods_per_year)``, sd with n - 1 (Sharpe 1994).

    Parameters
    ----------
    returns : array-like of shape (n_bars,)
        Simple return per bar in excess of the financing rate.
    periods_per_year : float
        Bars per year; 1 gives the ratio per bar.

    Returns
    -------
    float
        0 for a series of zeros; NaN for one bar or a constant return other than zero.
    """
    values = return_series(returns)
    scale = np.sqrt(positive_periods(periods_per_year))
    if not values.any():
        return 0.0
    if is_constant(values):
        return float("nan")
    return float(values.mean() / values.std(ddof=1) * scale)


def newey_west_lags(n_bars: int) -> int:
    """``floor(4 (n / 100) ** (2 / 9))`` lags for :func:`sharpe_standard_error` (Newey & West)."""
    return int(4 * (n_bars / 100) ** (2 / 9))


def _checked_lags(lags: int, n_bars: int) -> int:
    if not 0 <= lags < max(n_bars, 1):
        raise ConfigError(f"lags {lags}", f"use 0 to {n_bars - 1}, the bars there are less one")
    return lags


def sharpe_standard_error(
    returns: ArrayLike, periods_per_year: float, lags: int | None = None
) -> float:
    """Standard error of the annual Sharpe ratio (Lo 2002).

    Parameters
    ----------
    returns : array-like of shape (n_bars,)
    periods_per_year : float
        Bars per year.
    lags : int, optional
        None: independent normal returns, ``sqrt((1 + SR ** 2 / 2) / n_bars)`` per bar. A number:
        Lo's GMM error, robust to skewness, fat tails and, with Newey-West weights, to
        autocorrelation up to so many lags; 0 gives the error of Mertens (2002).

    Returns
    -------
    float
        In units of the annual ratio. It leaves the annualisation itself aside: with
        autocorrelation see :func:`autocorrelation_adjusted_sharpe`. NaN where the ratio is.
    """
    values = return_series(returns)
    scale = np.sqrt(positive_periods(periods_per_year) / len(values))
    sharpe = sharpe_ratio(values, 1.0)
    if lags is None or is_constant(values):
        return float(np.sqrt(1.0 + 0.5 * sharpe**2) * scale)
    deviation = values - values.mean()
    variance = float(deviation @ deviation) / len(values)
    ratio = values.mean() / np.sqrt(variance)
    influence = deviation / np.sqrt(variance) - 0.5 * ratio * (deviation**2 / variance - 1.0)
    long_run = float(influence @ influence)
    for lag in range(1, _checked_lags(lags, len(values)) + 1):
        weight = 1.0 - lag / (lags + 1.0)
        long_run += 2.0 * weight * float(influence[lag:] @ influence[:-lag])
    return float(np.sqrt(long_run / len(values)) * scale)


def autocorrelation_adjusted_sharpe(
    returns: ArrayLike, periods_per_year: float, lags: int
) -> float:
    """Annual Sharpe ratio of autocorrelated returns (Lo 2002, time aggregation).

    The ratio per bar times ``eta(q) = q / sqrt(q + 2 sum_k (q - k) rho_k)`` with q bars a year
    and the autocorrelations rho of the first `lags` lags; further ones are taken as zero. With
    no autocorrelation eta is ``sqrt(q)``, the usual factor.

    Returns
    -------
    float
        NaN where the ratio is, or where the estimated variance of a year is not positive.
    """
    values = return_series(returns)
    periods = positive_periods(periods_per_year)
    sharpe = sharpe_ratio(values, 1.0)
    if is_constant(values):
        return sharpe
    deviation = values - values.mean()
    total = float(deviation @ deviation)
    spread = periods
    for lag in range(1, min(_checked_lags(lags, len(values)), int(periods) - 1) + 1):
        spread += 2.0 * (periods - lag) * float(deviation[lag:] @ deviation[:-lag]) / total
    return float(sharpe * periods / np.sqrt(spread)) if spread > 0 else float("nan")


def sortino_ratio(returns: ArrayLike, periods_per_year: float) -> float:
    """Annual Sortino ratio against zero (Sortino & Price 1994).

    ``mean / sqrt(mean(min(r, 0) ** 2)) * sqrt(periods_per_year)``: the downside deviation counts
    every bar, gains as zero. 0 for a series of zeros; NaN where nothing was ever lost.
    """
    values = return_series(returns)
    scale = np.sqrt(positive_periods(periods_per_year))
    if not values.any():
        return 0.0
    downside = np.sqrt(np.mean(np.minimum(values, 0.0) ** 2))
    return float(values.mean() / downside * scale) if downside > 0 else float("nan")


def drawdowns(returns: ArrayLike) -> Floats:
    """Loss from the highest wealth so far, shape (n_bars,), fractions in [0, 1].

    Wealth starts at 1 and compounds; a return of -1 or less is ruin, and stays a loss of 1.
    """
    wealth = np.cumprod(np.maximum(1.0 + return_series(returns), 0.0))
    peak = np.maximum(np.maximum.accumulate(wealth), 1.0)
    out: Floats = 1.0 - wealth / peak
    return out


def max_drawdown(returns: ArrayLike) -> float:
    """Largest of :func:`drawdowns`, a fraction in [0, 1]."""
    return float(drawdowns(returns).max())


def annual_return(returns: ArrayLike, periods_per_year: float) -> float:
    """Compounded annual growth, ``prod(1 + r) ** (periods_per_year / n_bars) - 1``; -1 on ruin."""
    values = return_series(returns)
    years = len(values) / positive_periods(periods_per_year)
    if (values <= -1.0).any():
        return -1.0
    with np.errstate(over="ignore"):  # a few good bars of a fast clock: infinity says it
        return float(np.expm1(np.log1p(values).sum() / years))


def annual_volatility(returns: ArrayLike, periods_per_year: float) -> float:
    """Standard deviation (n - 1) per bar times ``sqrt(periods_per_year)``; NaN for one bar."""
    values = return_series(returns)
    scale = np.sqrt(positive_periods(periods_per_year))
    return float(values.std(ddof=1) * scale) if len(values) > 1 else float("nan")


def hit_rate(returns: ArrayLike) -> float:
    """Fraction of gains among the bars that gained or lost; NaN where none did."""
    values = return_series(returns)
    moved = np.count_nonzero(values)
    return float(np.count_nonzero(values > 0) / moved) if moved else float("nan")


def sharpe_confidence(
    sharpe_per_bar: float,
    benchmark_sharpe_per_bar: float,
    n_bars: int,
    skewness: float,
    kurtosis: float,
) -> float:
    """Probability that the true Sharpe ratio exceeds a benchmark (Bailey & López de Prado 2012).

    ``Phi((SR - SR*) sqrt(n - 1) / sqrt(1 - g3 SR + (g4 - 1) / 4 SR ** 2))``. Both ratios are per
    bar; `kurtosis` is 3 for a normal law. NaN for fewer than 2 bars or a variance that is not
    positive (a law on two points).
    """
    variance = 1.0 - skewness * sharpe_per_bar + 0.25 * (kurtosis - 1.0) * sharpe_per_bar**2
    if n_bars < 2 or not variance > 0:
        return float("nan")
    distance = (sharpe_per_bar - benchmark_sharpe_per_bar) * np.sqrt(n_bars - 1)
    return float(stats.norm.cdf(distance / np.sqrt(variance)))


def probabilistic_sharpe_ratio(returns: ArrayLike, benchmark_sharpe_per_bar: float = 0.0) -> float:
    """Probability that the true Sharpe ratio of `returns` exceeds a benchmark.

    Parameters
    ----------
    returns : array-like of shape (n_bars,)
    benchmark_sharpe_per_bar : float
        Per bar: an annual ratio divided by ``sqrt(periods_per_year)``.

    Returns
    -------
    float
        See :func:`sharpe_confidence`. A series of zeros counts as Sharpe 0 with normal moments.
    """
    seen = _moments(return_series(returns))
    return sharpe_confidence(
        seen.sharpe, benchmark_sharpe_per_bar, seen.n_bars, seen.skewness, seen.kurtosis
    )


def expected_max_sharpe(sharpe_variance: float, n_trials: float) -> float:
    """Sharpe ratio that the best of `n_trials` skill-less trials shows (Bailey & L. de Prado 2014).

    ``sqrt(V) ((1 - g) Z(1 - 1 / N) + g Z(1 - 1 / (N e)))``, g Euler's constant, Z the normal
    quantile: the expected maximum of N independent normal draws.

    Parameters
    ----------
    sharpe_variance : float
        Variance V of the trials' Sharpe ratios; the result is in the same unit as its root, per
        bar or annual.
    n_trials : float
        Number of independent trials, at least 1; may be an effective number. 1 gives 0.
    """
    if not 0 <= sharpe_variance < np.inf:
        raise ConfigError(f"sharpe_variance {sharpe_variance}", "use a finite number >= 0")
    if not 1 <= n_trials < np.inf:
        raise ConfigError(f"n_trials {n_trials}", "use at least 1")
    if n_trials == 1:
        return 0.0
    typical = stats.norm.ppf(1.0 - 1.0 / n_trials)
    extreme = stats.norm.ppf(1.0 - 1.0 / (n_trials * np.e))
    quantile = (1.0 - np.euler_gamma) * typical + np.euler_gamma * extreme
    return float(np.sqrt(sharpe_variance) * max(quantile, 0.0))


def deflated_sharpe_ratio(
    returns: ArrayLike, trial_sharpes_per_bar: ArrayLike, n_trials: float | None = None
) -> float:
    """Probability that `returns` has skill, given that it was picked among trials.

    The :func:`probabilistic_sharpe_ratio` against :func:`expected_max_sharpe` (Bailey & López de
    Prado 2014).

    Parameters
    ----------
    returns : array-like of shape (n_bars,)
        Returns of the trial that was picked.
    trial_sharpes_per_bar : array-like of shape (n_trials,)
        Sharpe ratio of every trial, *per bar*, the picked one among them: annual ratios here
        would be wrong by ``sqrt(periods_per_year)``. :func:`deflated_sharpe_ratios` computes
        them itself.
    n_trials : float, optional
        Number of independent trials; none: as many as there are Sharpe ratios. Trials that were
        tried and thrown away count too. :func:`effective_number_of_trials` allows for
        correlation between trials.
    """
    sharpes = return_series(trial_sharpes_per_bar)
    variance = float(sharpes.var(ddof=1)) if len(sharpes) > 1 else 0.0
    count = float(len(sharpes)) if n_trials is None else n_trials
    return probabilistic_sharpe_ratio(returns, expected_max_sharpe(variance, count))


def deflated_sharpe_ratios(trial_returns: ArrayLike, n_trials: float | None = None) -> Floats:
    """:func:`deflated_sharpe_ratio` of every trial of a grid.

    Parameters
    ----------
    trial_returns : array-like of shape (n_bars, n_trials)
        Simple return per bar of each trial, over the same bars.
    n_trials : float, optional
        Number of independent trials; none: the number of columns.

    Returns
    -------
    float64 ndarray of shape (n_trials,)

    Raises
    ------
    DataError
        When a trial's Sharpe ratio is not defined (a constant return other than zero).
    """
    matrix = return_matrix(trial_returns)
    sharpes = np.array([sharpe_ratio(column, 1.0) for column in matrix.T])
    if np.isnan(sharpes).any():
        raise DataError(
            f"trial returns: column {int(np.isnan(sharpes).argmax())} has no Sharpe ratio",
            "leave that trial out",
        )
    return np.array([deflated_sharpe_ratio(column, sharpes, n_trials) for column in matrix.T])


def summary(returns: ArrayLike, periods_per_year: float) -> dict[str, float]:
    """Every statistic of one series, by name; units as in the functions above.

    Keys: bars, total_return, annual_return, annual_volatility, sharpe, sharpe_se (independent
    returns), sharpe_se_robust (Newey-West), sortino, max_drawdown, hit_rate, skewness, kurtosis,
    psr (against 0).
    """
    values = return_series(returns)
    seen = _moments(values)
    lags = min(newey_west_lags(len(values)), len(values) - 1)
    return {
        "bars": float(len(values)),
        "total_return": annual_return(values, float(len(values))),
        "annual_return": annual_return(values, periods_per_year),
        "annual_volatility": annual_volatility(values, periods_per_year),
        "sharpe": sharpe_ratio(values, periods_per_year),
        "sharpe_se": sharpe_standard_error(values, periods_per_year),
        "sharpe_se_robust": sharpe_standard_error(values, periods_per_year, lags),
        "sortino": sortino_ratio(values, periods_per_year),
        "max_drawdown": max_drawdown(values),
        "hit_rate": hit_rate(values),
        "skewness": seen.skewness,
        "kurtosis": seen.kurtosis,
        "psr": probabilistic_sharpe_ratio(values),
    }
