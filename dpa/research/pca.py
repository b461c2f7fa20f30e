"""Residual reversion around eigenportfolios, as published: the strongest of the baselines.

Avellaneda & Lee (2010), "Statistical arbitrage in the US equities market", Quantitative Finance
10(7), sections 2, 3 and the appendix. Differences: positions are of equal size within the same
limits as the model's, dollar neutral instead of hedged with each name's factors.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh

from dpa.cluster.sizing import project
from dpa.config import ClusterConfig
from dpa.market.panel import Bools, Floats, Panel

CORRELATION_BARS = 252  # one year of daily bars in the paper
REGRESSION_BARS = 60
MOST_FACTORS = 15
EXPLAINED = 0.55  # of the variance; fewer factors than the most where fewer explain it
REFIT_BARS = 5
OPEN, CLOSE_LONG, CLOSE_SHORT = 1.25, -0.50, 0.75
LEAST_NAMES = 3

Positions = NDArray[np.int8]


@dataclass(frozen=True)
class Lengths:
    """Bars of the two windows; shorter than in the paper where the history is.

    Parameters
    ----------
    correlation : int
        Returns behind the correlation matrix.
    regression : int
        Returns behind betas and residuals, at most `correlation`.
    """

    correlation: int
    regression: int

    @staticmethod
    def fitting(bars: int) -> "Lengths":
        """The paper's lengths, or what `bars` returns allow."""
        correlation = min(CORRELATION_BARS, bars)
        return Lengths(correlation, min(REGRESSION_BARS, correlation))


def eigenportfolios(returns: Floats, most: int = MOST_FACTORS) -> Floats:
    """Weights of the leading eigenportfolios of the correlation matrix.

    Parameters
    ----------
    returns : (n_bars, n_names)
        Simple returns per bar, finite, each name's variance positive.
    most : int
        Largest number of factors.

    Returns
    -------
    (n_names, n_factors)
        ``eigenvector / volatility``: the fewest factors that explain 55 % of the variance, but
        at most `most`. Factor returns are ``returns @ weights``.
    """
    n_bars, n_names = returns.shape
    volatility = returns.std(axis=0, ddof=1)
    scores = (returns - returns.mean(axis=0)) / (volatility * np.sqrt(n_bars - 1.0))
    wide = n_names > n_bars  # then the smaller Gram matrix has the same eigenvalues
    gram = scores @ scores.T if wide else scores.T @ scores
    size = len(gram)
    values, vectors = eigh(gram, subset_by_index=(max(0, size - most), size - 1))
    values, vectors = values[::-1], vectors[:, ::-1]
    enough = int(np.searchsorted(np.cumsum(values), EXPLAINED * n_names)) + 1
    vectors = vectors[:, :enough]
    if wide:
        vectors = scores.T @ vectors
        vectors /= np.linalg.norm(vectors, axis=0)
    weights: Floats = vectors / volatility[:, None]
    return weights


def s_scores(returns: Floats, factors: Floats) -> tuple[Floats, Floats]:
    """Distance of each name from its equilibrium, and how fast it reverts.

    Parameters
    ----------
    returns : (n_bars, n_names)
        Simple returns per bar, finite.
    factors : (n_bars, n_factors)
        Factor returns of the same bars.

    Returns
    -------
    s : (n_names,)
        Standard deviations of the equilibrium distribution; NaN where the residual does not
        revert. Equilibrium levels are centred over names, as in the paper's appendix.
    speed : (n_names,)
        Reversion per bar, ``-ln b`` of the AR(1) fit; NaN where the residual does not revert.
    """
    design = np.column_stack([np.ones(len(factors)), factors])
    residuals = returns - design @ np.linalg.lstsq(design, returns, rcond=None)[0]
    level = np.cumsum(residuals, axis=0)
    before, after = level[:-1], level[1:]
    centred = before - before.mean(axis=0)
    spread = (centred * centred).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        b = (centred * after).sum(axis=0) / spread
        a = after.mean(axis=0) - b * before.mean(axis=0)
        noise = after - a - b * before
        reverts = (b > 0.0) & (b < 1.0)
        b = np.where(reverts, b, np.nan)
        sigma = np.sqrt((noise * noise).sum(axis=0) / (len(noise) - 2) / (1.0 - b * b))
        equilibrium = a / (1.0 - b)
        if reverts.any():
            equilibrium = equilibrium - np.nanmean(equilibrium)
        return -equilibrium / sigma, -np.log(b)


def next_positions(held: Positions, s: Floats, fast: Bools) -> Positions:
    """Sign held after the paper's thresholds; all arrays (n_names,).

    A position opens beyond 1.25 where reversion is fast, a long closes above -0.50, a short below
    0.75, and either where `s` is NaN.
    """
    keep = ((held > 0) & (s <= CLOSE_LONG)) | ((held < 0) & (s >= CLOSE_SHORT))
    opened = np.where(fast & (np.abs(s) > OPEN), -np.sign(np.nan_to_num(s)), 0.0)
    return np.where(keep, held, opened).astype(np.int8)


class PcaScore:
    """Equal-sized positions on residual s-scores, decided bar by bar.

    Parameters
    ----------
    config : ClusterConfig
        Gives unit, caps, leverage and neutrality; the model's own parameters are not used.
    lengths : Lengths
    n_assets : int
    """

    def __init__(self, config: ClusterConfig, lengths: Lengths, n_assets: int) -> None:
        self.config, self.lengths = config, lengths
        self.held: Positions = np.zeros(n_assets, dtype=np.int8)

    @property
    def look_back(self) -> int:
        """Bars needed before the first decision."""
        return self.lengths.correlation

    def decide(self, panel: Panel, first: int) -> tuple[Floats, Bools]:
        """Targets for bars `first` and later of `panel`, from each bar and those before it.

        Returns
        -------
        weights : (n_bars - first, n_assets)
            Signed fractions of NAV; 0 for names outside the mask or without a full window.
        rebalance : bool (n_bars - first,)
            All True: every bar trades.
        """
        returns = panel.returns()
        signs = np.zeros((panel.n_bars - first, panel.n_assets))
        factors = np.zeros((panel.n_assets, 0))
        for t in range(first, panel.n_bars):
            if (t - first) % REFIT_BARS == 0:
                factors = self._refit(returns[t + 1 - self.lengths.correlation : t + 1])
            recent = returns[t + 1 - self.lengths.regression : t + 1]
            self.held = self._step(recent, panel.mask[t], factors)
            signs[t - first] = self.held
        return self._size(signs), np.ones(len(signs), dtype=bool)

    def _refit(self, returns: Floats) -> Floats:
        """Eigenportfolio weights (n_assets, n_factors); 0 for names without a full window."""
        full = np.isfinite(returns).all(axis=0)
        full &= returns.max(axis=0) > returns.min(axis=0)
        if full.sum() < LEAST_NAMES or len(returns) < 3:
            return np.zeros((returns.shape[1], 0))
        most = min(MOST_FACTORS, int(full.sum()) // 2, self.lengths.regression // 4)
        found = eigenportfolios(returns[:, full], max(1, most))
        factors = np.zeros((returns.shape[1], found.shape[1]))
        factors[full] = found
        return factors

    def _step(self, recent: Floats, members: Bools, factors: Floats) -> Positions:
        usable = members & np.isfinite(recent).all(axis=0) & factors.any(axis=1)
        s = np.full(len(members), np.nan)
        speed = np.full(len(members), np.nan)
        if usable.sum() >= LEAST_NAMES:
            factor_returns = np.nan_to_num(recent) @ factors  # a missing name adds nothing
            s[usable], speed[usable] = s_scores(recent[:, usable], factor_returns)
        fast = speed > 2.0 / self.lengths.regression  # reverts within half the window
        return next_positions(self.held, s, fast)

    def _size(self, signs: Floats) -> Floats:
        config = self.config
        wanted = torch.from_numpy(signs * config.position_unit)
        limits = (config.name_cap, config.max_leverage, config.dollar_neutral)
        weights: Floats = project(wanted, *limits)[0].numpy()
        return weights
