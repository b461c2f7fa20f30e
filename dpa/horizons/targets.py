"""What the predictors learn: scaled forward returns, and which barrier the path touches first.

With execution lag L a decision at bar t enters at the close of bar ``t + L - 1`` and the label of
h bars ends at bar ``t + L - 1 + h``. Forward returns are simple returns. Barriers are measured in
log returns, so that a fall and the rise that undoes it are equally far and peak and valley are
exact mirrors. Prices are on the complete session grid, missing ones NaN, so bars are session time.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpa.errors import ConfigError, DataError
from dpa.horizons.arithmetic import ratio
from dpa.horizons.types import Doubles, Singles
from dpa.market.interval_specs import Horizon

BPS = 1e4
DOWN, UP = 1, 2
LEAST_NAMES = 3  # for a mean over names to mean anything


def _check(prices: Doubles, bars: int, lag: int) -> None:
    if bars < 1 or lag < 1:
        raise ConfigError(f"a label of {bars} bars with lag {lag}", "use at least 1 of each")
    if bool((prices <= 0).any()):
        bar, asset = np.argwhere(prices <= 0)[0]
        raise DataError(
            f"price {prices[bar, asset]} at bar {bar}, column {asset} is not positive",
            "leave it missing (NaN)",
        )


def _ahead(prices: Doubles, bars: int) -> Doubles:
    """``prices[t + bars]`` at row t; NaN beyond the last bar."""
    out = np.full(prices.shape, np.nan)
    if bars < len(prices):
        out[: len(prices) - bars] = prices[bars:]
    return out


def forward_returns(prices: Doubles, bars: int, lag: int) -> Doubles:
    """Simple return from bar ``t + lag - 1`` to bar ``t + lag - 1 + bars``.

    Parameters
    ----------
    prices : float64 ndarray of shape (n_bars, n_assets)
        Adjusted closes, positive; NaN where missing.
    bars : int
        Length of the horizon.
    lag : int
        Execution lag, at least 1.

    Returns
    -------
    float64 ndarray of shape (n_bars, n_assets)
        bps; NaN where either price is missing or beyond the history.

    Raises
    ------
    DataError
        For a price that is not positive.
    """
    _check(prices, bars, lag)
    returns: Doubles = BPS * (_ahead(prices, lag - 1 + bars) / _ahead(prices, lag - 1) - 1.0)
    return returns


def _volatility(sigma: Doubles, minutes: int) -> Doubles:
    """bps over `minutes` session minutes; NaN where `sigma` is missing or not positive."""
    out: Doubles = np.where(sigma > 0, sigma, np.nan) * np.sqrt(minutes)
    return out


def excess(returns: Doubles, member: NDArray[np.bool_]) -> Doubles:
    """Returns less the mean over the names that were members at the decision.

    What moves all names alike is most of the variance of a return and cannot be earned by holding
    one name against another; left in a target it hides what can be learned.

    Parameters
    ----------
    returns : float64 ndarray of shape (n_bars, n_assets)
        Forward returns, NaN where unknown.
    member : bool ndarray of shape (n_bars, n_assets)
        Membership at the decision.

    Returns
    -------
    float64 ndarray of shape (n_bars, n_assets)
        NaN where the return is, and at bars with fewer than 3 known members.
    """
    known = np.isfinite(returns) & member
    count = known.sum(axis=1, keepdims=True)
    total = np.where(known, returns, 0.0).sum(axis=1, keepdims=True)
    mean = ratio(total, count, count >= LEAST_NAMES)
    return returns - mean


def centred(forecasts: NDArray[Any]) -> NDArray[Any]:
    """Forecasts of one bar's names less their mean: what is said of all names alike is no excess.

    Parameters
    ----------
    forecasts : ndarray of shape (..., n_assets)
        NaN where nothing is said, which it stays.
    """
    known = np.isfinite(forecasts)
    count = known.sum(axis=-1, keepdims=True)
    total = np.where(known, forecasts, 0.0).sum(axis=-1, keepdims=True, dtype=np.float64)
    mean = np.divide(total, count, out=np.zeros(total.shape), where=count > 0)
    return np.where(known, forecasts - mean, np.nan).astype(forecasts.dtype)


def scaled_targets(
    prices: Doubles,
    sigma: Doubles,
    horizons: Sequence[Horizon],
    lag: int,
    member: NDArray[np.bool_] | None = None,
) -> Singles:
    """Forward returns in units of what the name usually moves, ``sigma * sqrt(minutes)``.

    Parameters
    ----------
    prices : float64 ndarray of shape (n_bars, n_assets)
        Adjusted closes, positive; NaN where missing.
    sigma : float64 ndarray of shape (n_bars, n_assets)
        Volatility known at the decision, bps per sqrt(session minute).
    horizons : sequence of Horizon
    lag : int
        Execution lag, at least 1.
    member : bool ndarray of shape (n_bars, n_assets), optional
        Membership at the decision: the target is then the return in :func:`excess` of the mean.

    Returns
    -------
    float32 ndarray of shape (n_bars, n_assets, n_horizons)
        NaN where a price at either end, or sigma, is missing; sigma <= 0 counts as missing.
    """
    out = np.full((*prices.shape, len(horizons)), np.nan, dtype=np.float32)
    for place, horizon in enumerate(horizons):
        returns = forward_returns(prices, horizon.bars, lag)
        if member is not None:
            returns = excess(returns, member)
        out[:, :, place] = returns / _volatility(sigma, horizon.minutes)
    return out


def barrier_labels(
    prices: Doubles, sigma: Doubles, minutes: int, bars: int, width: float, lag: int
) -> Singles:
    """Which of two barriers the path of closes touches first (López de Prado 2018, ch. 3).

    From the entry price at bar ``t + lag - 1`` on, the barriers are ``-width * sigma *
    sqrt(minutes)`` and ``+width * sigma * sqrt(minutes)`` away in log return. Peak is 1 where one
    of the next `bars` closes reaches the lower one before any reaches the upper one: prices fall
    first, so now is a peak. Valley is the mirror. Where neither is reached both are 0.

    Parameters
    ----------
    prices : float64 ndarray of shape (n_bars, n_assets)
        Adjusted closes, positive; NaN where missing. A missing close touches nothing.
    sigma : float64 ndarray of shape (n_bars, n_assets)
        Volatility known at the decision, bps per sqrt(session minute).
    minutes : int
        Session minutes of the look-ahead.
    bars : int
        The same in bars.
    width : float
        k of the barriers, above 0.
    lag : int
        Execution lag, at least 1.

    Returns
    -------
    float32 ndarray of shape (n_bars, n_assets, 2)
        Peak and valley, 0 or 1. NaN where the entry price, sigma or the last close of the path is
        missing, touched or not: labels kept there would be only those that were reached early.
    """
    _check(prices, bars, lag)
    if not width > 0 or minutes < 1:
        raise ConfigError(f"barriers of width {width} over {minutes} minutes", "use more than 0")
    path = np.log(prices)
    entry = _ahead(path, lag - 1)
    distance = width * _volatility(sigma, minutes) / BPS
    first = np.zeros(prices.shape, dtype=np.int8)
    for ahead in range(lag, lag + bars):
        moved = _ahead(path, ahead) - entry
        untouched = first == 0
        first[untouched & (moved <= -distance)] = DOWN
        first[untouched & (moved >= distance)] = UP
    ended = np.isfinite(_ahead(path, lag - 1 + bars))
    known = ended & np.isfinite(entry) & np.isfinite(distance)
    labels = np.stack([first == DOWN, first == UP], axis=-1)
    out: Singles = np.where(known[:, :, None], labels, np.float32(np.nan)).astype(np.float32)
    return out
