"""Forecasts as scores: how unusual a forecast is for its symbol, family and horizon.

``s = clip((r - mean) / sd, +-score_clip)`` over past forecasts only. The past is kept as one
summary (count, mean, sum of squared deviations) per session and merged after Chan, Golub &
LeVeque (1983), so that old sessions can be dropped without the rounding of a running difference.
"""

from dataclasses import dataclass

import numpy as np

from dpa.config import StandardiseConfig
from dpa.decision.alignment import Alignment
from dpa.decision.types import Doubles, Integers


@dataclass(frozen=True, eq=False)
class Summary:
    """Moments of a sample, element by element; all of the same shape.

    Parameters
    ----------
    count : float64 ndarray
        Values seen, whole numbers.
    mean : float64 ndarray
        0 where there is no value.
    spread : float64 ndarray
        Sum of squared deviations from the mean.
    """

    count: Doubles
    mean: Doubles
    spread: Doubles

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> "Summary":
        """Of no values."""
        return cls(np.zeros(shape), np.zeros(shape), np.zeros(shape))

    def with_values(self, values: Doubles) -> "Summary":
        """One more value per element; NaN adds none (Welford 1962)."""
        there = np.isfinite(values)
        count = self.count + there
        known = np.where(there, values, self.mean)
        delta = known - self.mean
        mean = self.mean + delta / np.maximum(count, 1.0)
        return Summary(count, mean, self.spread + delta * (known - mean))

    def merged(self, other: "Summary") -> "Summary":
        """Of both samples together (Chan, Golub & LeVeque 1983, equation 2.1)."""
        count = self.count + other.count
        delta = other.mean - self.mean
        share = other.count / np.maximum(count, 1.0)
        mean = np.where(self.count > 0, self.mean + delta * share, other.mean)
        spread = self.spread + other.spread + delta**2 * self.count * share
        return Summary(count, mean, spread)

    @property
    def deviation(self) -> Doubles:
        """Sample standard deviation (one degree of freedom taken); NaN below two values."""
        freedom = np.where(self.count > 1, self.count - 1.0, np.nan)
        return np.asarray(np.sqrt(self.spread / freedom))


@dataclass(frozen=True, eq=False)
class PastForecasts:
    """Summaries of past forecasts by session.

    Parameters
    ----------
    current : Summary
        Of the session that is running.
    closed : tuple of (int, Summary)
        Number and summary of earlier sessions, oldest first.
    past : Summary
        All of `closed` merged, oldest first.
    """

    current: Summary
    closed: tuple[tuple[int, Summary], ...]
    past: Summary

    @classmethod
    def start(cls, shape: tuple[int, ...]) -> "PastForecasts":
        """Nothing seen."""
        return cls(Summary.empty(shape), (), Summary.empty(shape))

    def moved_to(self, session: int, running: int, keep: int) -> "PastForecasts":
        """The same at the start of another session.

        Parameters
        ----------
        session : int
            The session now.
        running : int
            The session that `current` is of; -1: none yet.
        keep : int
            Sessions before `session` that still count.
        """
        if running in (-1, session):
            return self
        closed = tuple(
            (number, summary)
            for number, summary in (*self.closed, (running, self.current))
            if number >= session - keep
        )
        shape = self.current.count.shape
        past = Summary.empty(shape)
        for _, summary in closed:
            past = past.merged(summary)
        return PastForecasts(Summary.empty(shape), closed, past)

    def with_forecasts(self, forecasts: Doubles) -> "PastForecasts":
        """One more bar of the running session."""
        return PastForecasts(self.current.with_values(forecasts), self.closed, self.past)

    @property
    def whole(self) -> Summary:
        """Of everything that counts now."""
        return self.past.merged(self.current)

    def aligned(self, alignment: Alignment, axes: str) -> "PastForecasts":
        """In another layout; see :meth:`Alignment.take`."""

        def of(summary: Summary) -> Summary:
            parts = (summary.count, summary.mean, summary.spread)
            return Summary(*(alignment.take(part, axes, 0.0) for part in parts))

        closed = tuple((number, of(summary)) for number, summary in self.closed)
        return PastForecasts(of(self.current), closed, of(self.past))


def standardise(
    past: Summary, forecasts: Doubles, settings: StandardiseConfig
) -> tuple[Doubles, Integers]:
    """Scores of forecasts against those made before.

    Parameters
    ----------
    past : Summary
        Of earlier forecasts, the current ones excluded; shape as `forecasts`.
    forecasts : float64 ndarray of shape (n_horizons, n_families, n_symbols)
        Any unit; NaN where nothing is said.
    settings : StandardiseConfig

    Returns
    -------
    scores : float64 ndarray of shape (n_horizons, n_families, n_symbols)
        Dimensionless, within +- `score_clip`; NaN without a forecast, below `score_samples`
        past ones, or where these do not differ.
    n_samples : int64 ndarray of the same shape
        Past forecasts behind each.
    """
    deviation = past.deviation
    known = (past.count >= settings.score_samples) & (deviation > 0) & np.isfinite(forecasts)
    scores = np.full(forecasts.shape, np.nan)
    np.divide(forecasts - past.mean, deviation, out=scores, where=known)
    clip = settings.score_clip
    return np.clip(scores, -clip, clip), past.count.astype(np.int64)
