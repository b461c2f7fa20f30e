"""Weights learned online from what each family's scores would have earned.

AdaHedge (de Rooij, van Erven, Grünwald & Koolen 2014) sees the loss of every family, since the
profit of those not followed can be computed here. Exp3-IX (Neu 2015) sees only that of the family
it played. Losses are in [0, 1] and arrive when labels mature; the estimate of Exp3-IX divides by
the probability at the time of play.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dpa.config import OnlineConfig
from dpa.decision.alignment import Alignment
from dpa.decision.labels import NO_ARM, Matured
from dpa.decision.types import Bools, Doubles, Integers


def losses(scores: Doubles, labels: Doubles, scale: float) -> Doubles:
    """Loss of following each family: ``1/2 - 1/2 clip(profit / scale, -1, 1)``.

    Profit is ``sum_n s_n y_n / sum_n |s_n|``, sigma per unit of gross exposure, over the names
    with a score and a label.

    Parameters
    ----------
    scores : float64 ndarray of shape (..., n_symbols)
    labels : float64 ndarray of shape (..., n_symbols)
        Broadcast against `scores`.
    scale : float
        Profit at which the loss is 0 or 1.

    Returns
    -------
    float64 ndarray of shape (...)
        In [0, 1]; NaN where no score other than 0 has a label.
    """
    both = np.isfinite(scores) & np.isfinite(labels)
    held = np.where(both, scores, 0.0)
    gross = np.abs(held).sum(axis=-1)
    earned = np.einsum("...n,...n->...", held, np.where(both, labels, 0.0))
    profit = np.full(gross.shape, np.nan)
    np.divide(earned, gross, out=profit, where=gross > 0)
    return np.asarray(0.5 - 0.5 * np.clip(profit / scale, -1.0, 1.0))


def filled(loss: Doubles) -> Doubles:
    """Losses with the mean of the known ones of a row where a family has none.

    Shape (..., n_families); a row without any stays NaN.
    """
    known = np.isfinite(loss)
    count = known.sum(axis=-1, keepdims=True)
    mean = np.where(known, loss, 0.0).sum(axis=-1, keepdims=True) / np.where(count, count, np.nan)
    return np.where(known, loss, mean)


def _rate(gap: Doubles, n_families: int) -> Doubles:
    """eta of AdaHedge, infinite while the gap is 0; shape (..., 1)."""
    rate = np.full(np.shape(gap), np.inf)
    if n_families > 1:
        np.divide(np.log(n_families), gap, out=rate, where=np.asarray(gap) > 0)
    return rate[..., None]


def _powers(above: Doubles, rate: Doubles) -> Doubles:
    """``exp(-rate * above)``, also for an infinite rate; `above` is at least 0."""
    product = np.full(above.shape, np.inf)
    np.multiply(above, rate, out=product, where=above > 0)
    return np.where(above > 0, np.exp(-product), 1.0)


def adahedge_weights(cumulative: Doubles, gap: Doubles) -> Doubles:
    """``w proportional to exp(-eta L)``, ``eta = ln K / gap``; the leaders alone while gap is 0.

    Parameters
    ----------
    cumulative : float64 ndarray of shape (..., n_families)
        L, cumulative losses.
    gap : float64 ndarray of shape (...)
        Delta, cumulative mixability gap.

    Returns
    -------
    float64 ndarray of shape (..., n_families)
        Sums to 1.
    """
    above = cumulative - cumulative.min(axis=-1, keepdims=True)
    weights = _powers(above, _rate(gap, above.shape[-1]))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def _potential(cumulative: Doubles, rate: Doubles) -> Doubles:
    """``-ln(sum exp(-rate L)) / rate``; the least L at an infinite rate."""
    least = cumulative.min(axis=-1, keepdims=True)
    total = _powers(cumulative - least, rate).sum(axis=-1)
    return np.asarray(least[..., 0] - np.log(total) / rate[..., 0])


def mixability_gap(cumulative: Doubles, gap: Doubles, loss: Doubles) -> Doubles:
    """What AdaHedge loses on `loss` beyond the mix loss, at least 0; shapes as its weights.

    ``w'l - (M(L + l) - M(L))`` with ``M(L) = -ln(sum exp(-eta L)) / eta``.
    """
    rate = _rate(gap, loss.shape[-1])
    above = cumulative - cumulative.min(axis=-1, keepdims=True)
    hedge = (adahedge_weights(cumulative, gap) * loss).sum(axis=-1)
    mix = _potential(above + loss, rate) - _potential(above, rate)
    return np.asarray(np.maximum(hedge - mix, 0.0))


def exp3_weights(estimates: Doubles, rate: float) -> Doubles:
    """``p proportional to exp(-rate * estimates)`` along the last axis."""
    weights = np.exp(-rate * (estimates - estimates.min(axis=-1, keepdims=True)))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def loss_estimate(loss: Any, chance: Any, exploration: float) -> Any:
    """``loss / (p + gamma)`` of the arm played: implicit exploration (Neu 2015, equation 2)."""
    return loss / (chance + exploration)


def drawn_arm(chances: Doubles, seed: int, bar: int, minutes: int) -> int:
    """The family played, a function of seed, bar and horizon alone."""
    chance = np.random.default_rng((seed, bar, minutes)).random()
    arm = int(np.searchsorted(np.cumsum(chances), chance, side="right"))
    return min(arm, len(chances) - 1)


@dataclass(frozen=True, eq=False)
class OnlineRecord:
    """What the learners remember.

    Parameters
    ----------
    losses : float64 ndarray of shape (n_horizons, n_families)
        L of AdaHedge.
    gap : float64 ndarray of shape (n_horizons,)
        Delta of AdaHedge.
    estimates : float64 ndarray of shape (n_horizons, n_families)
        Importance-weighted cumulative losses of Exp3-IX.
    bars : int64 ndarray of shape (n_horizons,)
        Matured bars with a loss.
    """

    losses: Doubles
    gap: Doubles
    estimates: Doubles
    bars: Integers

    @classmethod
    def start(cls, n_horizons: int, n_families: int) -> "OnlineRecord":
        """No loss seen."""
        shape = (n_horizons, n_families)
        return cls(
            np.zeros(shape), np.zeros(n_horizons), np.zeros(shape), np.zeros(n_horizons, np.int64)
        )

    def faded(self, factor: float) -> "OnlineRecord":
        """With past losses times `factor`."""
        if factor == 1.0:
            return self
        return OnlineRecord(
            self.losses * factor, self.gap * factor, self.estimates * factor, self.bars
        )

    def with_matured(self, matured: Sequence[Matured], settings: OnlineConfig) -> "OnlineRecord":
        """With the losses of matured bars; a family without one gets the mean of the others'."""
        if not matured:
            return self
        scores = np.stack([one.play.scores for one in matured])
        labels = np.stack([one.labels for one in matured])[:, None, :]
        found = filled(losses(scores, labels, settings.online_scale))
        total, gap = self.losses.copy(), self.gap.copy()
        estimates, bars = self.estimates.copy(), self.bars.copy()
        known: Bools = np.isfinite(found[:, 0])  # a filled row is known or not as a whole
        for rows in _rounds(matured, known):
            places = [matured[row].horizon for row in rows]
            gap[places] += mixability_gap(total[places], gap[places], found[rows])
            total[places] += found[rows]
            bars[places] += 1
        for one, loss in zip(matured, found, strict=True):
            arm = one.play.arm
            if arm != NO_ARM and np.isfinite(loss[arm]):
                estimates[one.horizon, arm] += loss_estimate(
                    loss[arm], one.play.chances[arm], settings.exploration
                )
        return OnlineRecord(total, gap, estimates, bars)

    def weights(self, settings: OnlineConfig) -> Doubles:
        """Of each family, shape (n_horizons, n_families); rows sum to 1.

        Those of AdaHedge, learned though not mixed in, when `online_mode` is off.
        """
        if settings.online_mode == "exp3ix":
            return exp3_weights(self.estimates, settings.exp3_rate)
        return adahedge_weights(self.losses, self.gap)

    def aligned(self, alignment: Alignment) -> "OnlineRecord":
        """In another layout; a new family starts at the mean of the others, not ahead of them."""

        def of(sums: Doubles) -> Doubles:
            return np.nan_to_num(filled(alignment.take(sums, "hf", np.nan)))

        return OnlineRecord(
            of(self.losses),
            alignment.take(self.gap, "h", 0.0),
            of(self.estimates),
            alignment.take(self.bars, "h", 0),
        )


def _rounds(matured: Sequence[Matured], counts: Bools) -> list[list[int]]:
    """Positions of what counts, no horizon twice in a round, each horizon's in their order."""
    rounds: list[list[int]] = []
    seen: dict[int, int] = {}
    for row in np.flatnonzero(counts).tolist():
        number = seen.get(matured[row].horizon, 0)
        seen[matured[row].horizon] = number + 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(row)
    return rounds
