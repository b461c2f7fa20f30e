"""What a search over many trials does to the best of them: how many trials, how overfitted."""

from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpa.errors import ConfigError, DataError
from dpa.validation.checks import Floats, return_matrix

MAX_BLOCKS = 16
MIN_BARS_PER_BLOCK = 5
COMBINATIONS_AT_ONCE = 1024  # bounds the memory of a wide grid
FLAT = 1e-12  # variance over squared mean below which a trial did not move


@dataclass(frozen=True, eq=False)
class BacktestOverfitting:
    """Outcome of combinatorially symmetric cross-validation (Bailey et al. 2015).

    Parameters
    ----------
    probability : float
        Fraction of splits in which the trial best in sample ranks at or below the median out of
        sample. About 0.5 where the trials are noise, near 0 where one is truly better.
    logits : float64 ndarray of shape (n_splits,)
        ``ln(w / (1 - w))`` of the relative rank w out of sample of the best in sample.
    in_sample_sharpe, out_of_sample_sharpe : float64 ndarrays of shape (n_splits,)
        Sharpe ratio per bar of the best in sample, in and out of sample.
    slope, intercept, r_squared : float
        Performance degradation: least squares of out of sample on in sample; NaN where either
        is the same in every split. The halves of a split complete each other, so pure noise
        has a negative slope, about -0.5, not 0.
    probability_of_loss : float
        Fraction of splits in which the best in sample loses out of sample.
    n_blocks : int
        Number of blocks the bars were cut into.
    """

    probability: float
    logits: Floats
    in_sample_sharpe: Floats
    out_of_sample_sharpe: Floats
    slope: float
    intercept: float
    r_squared: float
    probability_of_loss: float
    n_blocks: int


def _block_count(n_bars: int, n_blocks: int | None) -> int:
    if n_blocks is None:
        count = min(MAX_BLOCKS, n_bars // MIN_BARS_PER_BLOCK // 2 * 2)
        if count < 2:
            raise DataError(
                f"{n_bars} bars are too few for cross-validation",
                f"give at least {2 * MIN_BARS_PER_BLOCK}",
            )
        return count
    if n_blocks < 2 or n_blocks % 2 or n_blocks > MAX_BLOCKS or n_blocks * 2 > n_bars:
        raise ConfigError(
            f"n_blocks {n_blocks}",
            f"use an even number from 2 to {min(MAX_BLOCKS, n_bars // 2)}",
        )
    return n_blocks


def _sharpes(chosen: NDArray[np.bool_], counts: Floats, sums: Floats, squares: Floats) -> Floats:
    """Sharpe ratio per bar over the chosen blocks, (n_splits, n_trials); 0 where flat."""
    pick = chosen.astype(np.float64)
    bars = (pick @ counts)[:, None]
    mean = pick @ sums / bars
    variance = (pick @ squares - bars * mean**2) / (bars - 1.0)
    moves = variance > FLAT * mean**2
    out: Floats = np.where(moves, mean / np.sqrt(np.where(moves, variance, 1.0)), 0.0)
    return out


def _relative_rank(sharpes: Floats, best: NDArray[np.intp]) -> Floats:
    """Rank of column `best` in each row over n + 1, ties sharing their mean rank; in (0, 1)."""
    own = np.take_along_axis(sharpes, best[:, None], axis=1)
    below = (sharpes < own).sum(axis=1)
    level = (sharpes == own).sum(axis=1)
    rank: Floats = (below + 0.5 * (level + 1)) / (sharpes.shape[1] + 1)
    return rank


def _regression(x: Floats, y: Floats) -> tuple[float, float, float]:
    """Slope, intercept and R squared of y on x."""
    deviation, response = x - x.mean(), y - y.mean()
    spread, total = float(deviation @ deviation), float(response @ response)
    if spread == 0 or total == 0:
        return float("nan"), float("nan"), float("nan")
    covariance = float(deviation @ response)
    slope = covariance / spread
    return slope, float(y.mean() - slope * x.mean()), covariance**2 / (spread * total)


def probability_of_backtest_overfitting(
    trial_returns: ArrayLike, n_blocks: int | None = None
) -> BacktestOverfitting:
    """Probability of backtest overfitting by CSCV (Bailey, Borwein, López de Prado & Zhu 2015).

    The bars are cut into contiguous blocks; every way of taking half of them as the sample picks
    its best trial by Sharpe ratio, which is then ranked over the other half.

    Parameters
    ----------
    trial_returns : array-like of shape (n_bars, n_trials)
        Simple return per bar of each trial, all over the same bars, at least 2 trials. A trial
        that never moves has Sharpe ratio 0.
    n_blocks : int, optional
        Even number of blocks, 2 to 16. None: 16, or as many as leave 5 bars in each.

    Raises
    ------
    DataError
        Fewer than 2 trials, too few bars, or returns that are not finite.
    ConfigError
        A number of blocks that is odd or out of range.
    """
    matrix = return_matrix(trial_returns)
    if matrix.shape[1] < 2:
        raise DataError("one trial cannot be picked among others", "give at least 2 trials")
    blocks = _block_count(len(matrix), n_blocks)
    parts = np.array_split(matrix, blocks)
    counts = np.array([len(part) for part in parts], dtype=np.float64)
    sums = np.array([part.sum(axis=0) for part in parts])
    squares = np.array([(part**2).sum(axis=0) for part in parts])
    halves = list(combinations(range(blocks), blocks // 2))
    chosen = np.zeros((len(halves), blocks), dtype=bool)
    np.put_along_axis(chosen, np.array(halves), True, axis=1)
    ranks, inside, outside = [], [], []
    for start in range(0, len(chosen), COMBINATIONS_AT_ONCE):
        some = chosen[start : start + COMBINATIONS_AT_ONCE]
        sample = _sharpes(some, counts, sums, squares)
        rest = _sharpes(~some, counts, sums, squares)
        best = sample.argmax(axis=1)
        ranks.append(_relative_rank(rest, best))
        inside.append(sample[np.arange(len(some)), best])
        outside.append(rest[np.arange(len(some)), best])
    rank = np.concatenate(ranks)
    logits = np.log(rank / (1.0 - rank))
    in_sample, out_of_sample = np.concatenate(inside), np.concatenate(outside)
    slope, intercept, r_squared = _regression(in_sample, out_of_sample)
    return BacktestOverfitting(
        probability=float(np.mean(rank <= 0.5)),
        logits=logits,
        in_sample_sharpe=in_sample,
        out_of_sample_sharpe=out_of_sample,
        slope=slope,
        intercept=intercept,
        r_squared=r_squared,
        probability_of_loss=float(np.mean(out_of_sample < 0)),
        n_blocks=blocks,
    )


def _correlation(matrix: Floats) -> Floats:
    """Correlation of the columns; a column that never moves is uncorrelated with the others."""
    deviation = matrix - matrix.mean(axis=0)
    norm = np.sqrt((deviation**2).sum(axis=0))
    moves = np.ptp(matrix, axis=0) > 0
    unit = np.where(moves, deviation / np.where(moves, norm, 1.0), 0.0)
    correlation: Floats = np.clip(unit.T @ unit, -1.0, 1.0)
    np.fill_diagonal(correlation, 1.0)
    return correlation


def _optimal_clusters(correlation: Floats, seed: int) -> int:
    """Number of clusters with the best silhouette t-statistic (López de Prado 2019)."""
    from sklearn.cluster import KMeans  # half a second that no other statistic needs
    from sklearn.metrics import silhouette_samples

    distance = np.sqrt(0.5 * (1.0 - correlation))
    distinct = len(np.unique(np.round(distance, 9), axis=0))
    if distinct < 3:
        return distinct
    best_count, best_quality = 1, -np.inf
    for count in range(2, min(distinct, len(distance) - 1) + 1):
        labels = KMeans(count, n_init=10, random_state=seed).fit_predict(distance)
        silhouette = silhouette_samples(distance, labels)
        spread = silhouette.std()
        quality = silhouette.mean() / spread if spread > 0 else np.inf
        if quality > best_quality:
            best_count, best_quality = count, quality
    return best_count


def effective_number_of_trials(
    trial_returns: ArrayLike,
    method: Literal["average_correlation", "clusters"] = "average_correlation",
    seed: int = 0,
) -> float:
    """How many independent trials a grid of correlated ones amounts to.

    Parameters
    ----------
    trial_returns : array-like of shape (n_bars, n_trials)
        Simple return per bar of each trial, over the same bars.
    method : {"average_correlation", "clusters"}
        ``r + (1 - r) N`` with the mean correlation r between trials (Bailey & López de Prado
        2014, appendix), or the number of clusters that the trials' correlations form: k-means
        on ``sqrt((1 - rho) / 2)``, k by the silhouette's t-statistic (López de Prado 2019).
    seed : int
        Seed of the k-means starts.

    Returns
    -------
    float
        Between 1 and the number of trials.
    """
    matrix = return_matrix(trial_returns)
    n_trials = matrix.shape[1]
    if n_trials == 1:
        return 1.0
    correlation = _correlation(matrix)
    if method == "clusters":
        return float(_optimal_clusters(correlation, seed))
    mean = (correlation.sum() - n_trials) / (n_trials * (n_trials - 1))
    return float(np.clip(mean + (1.0 - mean) * n_trials, 1.0, n_trials))
