"""Second moments of scores between families, forgotten slowly and shrunk.

Scores have mean 0 by construction, so moments are taken about 0. The shrinkage is Ledoit & Wolf's
(2004) towards the mean variance times the unit matrix; its intensity needs the sum of ``x x'`` and
of ``x^2 (x^2)'`` only, so both can be forgotten exponentially.
"""

from dataclasses import dataclass

import numpy as np

from dpa.decision.alignment import Alignment
from dpa.decision.types import Bools, Doubles


@dataclass(frozen=True, eq=False)
class ScoreMoments:
    """Sums over symbols and bars, weighted by age.

    Parameters
    ----------
    second : float64 ndarray of shape (n_horizons, n_families, n_families)
        Sum of ``x x'``.
    fourth : float64 ndarray of shape (n_horizons, n_families, n_families)
        Sum of ``x^2 (x^2)'``.
    count : float64 ndarray of shape (n_horizons, n_families, n_families)
        Weighted rows behind each pair of families.
    """

    second: Doubles
    fourth: Doubles
    count: Doubles

    @classmethod
    def start(cls, n_horizons: int, n_families: int) -> "ScoreMoments":
        """Nothing seen."""
        shape = (n_horizons, n_families, n_families)
        return cls(np.zeros(shape), np.zeros(shape), np.zeros(shape))

    def faded(self, factor: float) -> "ScoreMoments":
        """With all weights times `factor`."""
        if factor == 1.0:
            return self
        return ScoreMoments(self.second * factor, self.fourth * factor, self.count * factor)

    def with_scores(self, scores: Doubles) -> "ScoreMoments":
        """With the scores of one more bar.

        Parameters
        ----------
        scores : float64 ndarray of shape (n_horizons, n_families, n_symbols)
            A symbol counts where every family that scored any symbol at this bar scored it; a
            family that scored none is left out, and its pairs gain no rows.
        """
        there = np.isfinite(scores)
        present: Bools = np.any(there, axis=2)
        rows: Bools = np.all(there | ~present[:, :, None], axis=1)
        x = np.where(there & rows[:, None, :], scores, 0.0)
        squares = x * x
        pairs = present[:, :, None] & present[:, None, :]
        n_rows = rows.sum(axis=1)[:, None, None]
        return ScoreMoments(
            self.second + x @ x.swapaxes(1, 2),
            self.fourth + squares @ squares.swapaxes(1, 2),
            self.count + pairs * n_rows,
        )

    def aligned(self, alignment: Alignment) -> "ScoreMoments":
        """In another layout; pairs with a new family start empty."""
        parts = (self.second, self.fourth, self.count)
        return ScoreMoments(*(alignment.take(part, "hff", 0.0) for part in parts))

    def covariance(self) -> Doubles:
        """Ledoit-Wolf shrunk second moments, shape (n_horizons, n_families, n_families).

        A family without rows has variance 1 and covariance 0, and does not shrink the others.
        Where pairs of families rest on different rows the matrix is made positive semi-definite
        by cutting eigenvalues at 0.
        """
        known = self.count > 0
        rows = np.where(known, self.count, 1.0)
        raw = np.where(known, self.second / rows, 0.0)
        mixed = np.where(known, self.fourth / rows, 0.0)
        alive = np.diagonal(known, axis1=1, axis2=2)
        families = np.maximum(alive.sum(axis=1), 1)
        samples = np.where(known, self.count, np.inf).min(axis=(1, 2), initial=np.inf)
        level = np.trace(raw, axis1=1, axis2=2) / families
        size = (raw**2).sum(axis=(1, 2))
        noise = (mixed.sum(axis=(1, 2)) - size) / (families * samples)
        distance = size / families - level**2
        noise = np.minimum(np.maximum(noise, 0.0), distance)
        share = np.divide(noise, distance, out=np.zeros_like(noise), where=noise > 0)[:, None, None]
        unit = np.eye(raw.shape[1])
        aim = np.where(alive, level[:, None], 0.0)[:, :, None] * unit
        shrunk: Doubles = (1.0 - share) * raw + share * aim + ~alive[:, :, None] * unit
        for place in np.flatnonzero((self.count != self.count[:, :1, :1]).any(axis=(1, 2))):
            shrunk[place] = _semidefinite(shrunk[place])
        return shrunk


def _semidefinite(matrix: Doubles) -> Doubles:
    values, vectors = np.linalg.eigh(matrix)
    if values[0] >= 0:
        return matrix
    repaired: Doubles = (vectors * np.maximum(values, 0.0)) @ vectors.T
    return repaired
