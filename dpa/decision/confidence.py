"""How far each family is believed at each horizon: ``c = max(IC, 0) freshness capacity stability``.

The information coefficient (IC) is the Spearman rank correlation across names of each matured bar,
averaged over bars by names and age, and shrunk towards 0 by ``n / (n + n0)``. Labels of b bars
taken at neighbouring bars overlap, so a bar adds ``(names - 1) / b`` to n, not ``names``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from dpa.config import ConfidenceConfig, Settings
from dpa.decision.alignment import Alignment
from dpa.decision.labels import Matured
from dpa.decision.types import Bools, Doubles, Market

LEAST_NAMES = 5  # for a rank correlation to mean anything


@dataclass(frozen=True, eq=False)
class TrackRecord:
    """Sums over matured bars, weighted by age; each of shape (n_horizons, n_families).

    Parameters
    ----------
    names : float64 ndarray
        Names behind the IC of each bar.
    product : float64 ndarray
        IC times names.
    independent : float64 ndarray
        ``(names - 1) / b``, what they are worth.
    error : float64 ndarray
        Squared errors of the forecast, units of ``sigma^2 * minutes``.
    square : float64 ndarray
        Squared labels, over the same names and in the same unit.
    """

    names: Doubles
    product: Doubles
    independent: Doubles
    error: Doubles
    square: Doubles

    @classmethod
    def start(cls, n_horizons: int, n_families: int) -> "TrackRecord":
        """Nothing has matured."""
        return cls(*(np.zeros((n_horizons, n_families)) for _ in fields(cls)))

    def faded(self, factor: float) -> "TrackRecord":
        """With all weights times `factor`."""
        if factor == 1.0:
            return self
        return TrackRecord(*(getattr(self, part.name) * factor for part in fields(self)))

    def with_matured(self, matured: Sequence[Matured]) -> "TrackRecord":
        """With what came of some bars."""
        if not matured:
            return self
        forecasts = np.stack([one.play.forecasts for one in matured])
        labels = np.stack([one.labels for one in matured])[:, None, :]
        both = np.isfinite(forecasts) & np.isfinite(labels)
        ic = _rank_correlation(forecasts, labels, both)
        known = np.isfinite(ic)
        names = np.where(known, np.count_nonzero(both, axis=2), 0).astype(np.float64)
        bars = np.array([one.bars for one in matured], dtype=np.float64)[:, None]
        error = np.where(both, forecasts - labels, 0.0)
        square = np.where(both, labels, 0.0)
        places = [one.horizon for one in matured]
        added = (
            names,
            names * np.where(known, ic, 0.0),
            np.where(known, names - 1.0, 0.0) / bars,
            np.einsum("hfn,hfn->hf", error, error),
            np.einsum("hfn,hfn->hf", square, square),
        )
        parts = []
        for part, more in zip(fields(self), added, strict=True):
            total = getattr(self, part.name).copy()
            np.add.at(total, places, more)
            parts.append(total)
        return TrackRecord(*parts)

    def ic(self, prior_samples: float) -> Doubles:
        """Mean IC times ``n / (n + prior_samples)``; NaN where none has matured."""
        known = self.names > 0
        mean = np.full(self.names.shape, np.nan)
        np.divide(self.product, self.names, out=mean, where=known)
        total = np.where(known, self.independent + prior_samples, 1.0)
        return np.asarray(mean * (self.independent / total))

    @property
    def stability(self) -> Doubles:
        """``1 / (1 + RMSE / sigma_y)``; NaN where no label other than 0 has matured."""
        known = self.square > 0
        share = np.full(self.square.shape, np.nan)
        np.divide(self.error, self.square, out=share, where=known)
        return np.asarray(1.0 / (1.0 + np.sqrt(share)))

    def aligned(self, alignment: Alignment) -> "TrackRecord":
        """In another layout; new families and horizons start empty."""
        parts = (getattr(self, part.name) for part in fields(self))
        return TrackRecord(*(alignment.take(part, "hf", 0.0) for part in parts))


def _rank_correlation(first: Doubles, second: Doubles, both: Bools) -> Doubles:
    """Spearman over the last axis where `both`; NaN below 5 names or where a side is constant.

    Ranks less their mean are halves of whole numbers, so the sums are exact in any order.
    """
    x = _centred_ranks(first, both)
    same = bool((both == both[:, :1]).all())
    y = _centred_ranks(second, both[:, :1] if same else both)
    covariance = np.einsum("hfn,hfn->hf", x, np.broadcast_to(y, x.shape))
    spread = np.sqrt(np.einsum("hfn,hfn->hf", x, x) * np.einsum("hfn,hfn->hf", y, y))
    good = (np.count_nonzero(both, axis=2) >= LEAST_NAMES) & (spread > 0)
    return np.where(good, covariance / np.where(good, spread, 1.0), np.nan)


def _centred_ranks(values: Doubles, there: Bools) -> Doubles:
    """Average rank less the mean rank over the last axis; 0 where not `there`."""
    kept = np.where(there, values, np.nan)
    order = np.argsort(kept, axis=-1)
    ordered = np.take_along_axis(kept, order, axis=-1)
    place = np.arange(kept.shape[-1], dtype=np.float64)
    starts = np.ones(kept.shape, dtype=bool)
    np.not_equal(ordered[..., 1:], ordered[..., :-1], out=starts[..., 1:])
    if not starts.all():
        first = np.maximum.accumulate(np.where(starts, place, 0.0), axis=-1)
        ends = np.ones(kept.shape, dtype=bool)
        ends[..., :-1] = starts[..., 1:]
        last = np.where(ends, place, place[-1])[..., ::-1]
        ranked = 0.5 * (first + np.minimum.accumulate(last, axis=-1)[..., ::-1])
    else:
        ranked = np.broadcast_to(place, kept.shape)
    ranks = np.empty(kept.shape)
    np.put_along_axis(ranks, order, ranked, axis=-1)
    return np.where(
        there, ranks - 0.5 * (np.count_nonzero(there, axis=-1, keepdims=True) - 1.0), 0.0
    )


def freshness(age_seconds: float, minutes: Doubles, settings: ConfidenceConfig) -> Doubles:
    """``exp(-age / tau)``, tau a share of the horizon and at most a cap.

    Parameters
    ----------
    age_seconds : float
        Since the bar behind the forecasts closed.
    minutes : float64 ndarray of shape (n_horizons,)
    settings : ConfidenceConfig

    Returns
    -------
    float64 ndarray of shape (n_horizons,)
        In [0, 1].
    """
    tau = np.minimum(settings.freshness_share * minutes * 60.0, settings.freshness_cap_seconds)
    return np.asarray(np.exp(-age_seconds / tau))


def capacity(market: Market, settings: Settings) -> Doubles:
    """``min(1, capacity_share * ADV / planned USD)``, planned being a full position.

    Returns
    -------
    float64 ndarray of shape (n_symbols,)
        In [0, 1]; 0 where the traded value or NAV is not known or not above 0.
    """
    planned = settings.sizing.name_weight * market.nav_usd
    if not (planned > 0 and np.isfinite(planned)):
        return np.zeros(len(market.names))
    traded = np.where(market.adv_usd > 0, market.adv_usd, 0.0)
    return np.asarray(np.minimum(settings.confidence.capacity_share * traded / planned, 1.0))


def confidence(ic: Doubles, stability: Doubles, fresh: Doubles, room: Doubles) -> Doubles:
    """The product of the four, each in [0, 1].

    Parameters
    ----------
    ic, stability : float64 ndarrays of shape (n_horizons, n_families)
        NaN counts as 0.
    fresh : float64 ndarray of shape (n_horizons,)
    room : float64 ndarray of shape (n_symbols,)

    Returns
    -------
    float64 ndarray of shape (n_horizons, n_families, n_symbols)
    """
    skill = np.nan_to_num(np.maximum(ic, 0.0)) * np.nan_to_num(stability) * fresh[:, None]
    return np.asarray(skill[:, :, None] * room)
