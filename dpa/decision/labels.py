"""What came of forecasts: labels that mature as their horizons elapse.

With execution lag L a forecast made at bar t enters at the close of bar ``t + L - 1`` and its
label of b bars ends at bar ``t + L - 1 + b``, bars of the session grid across nights, as in
:mod:`dpa.horizons.targets`. A label is known at its last bar and not before. Where a bar it needs
never came there is no label.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from dpa.decision.alignment import Alignment
from dpa.decision.types import Bools, Doubles
from dpa.horizons.targets import BPS, LEAST_NAMES
from dpa.market.interval_specs import Horizon

NO_ARM = -1  # no bandit played


@dataclass(frozen=True, eq=False)
class Seen:
    """One bar as it was when it closed.

    Parameters
    ----------
    bar : int
    lag : int
        Execution lag of the forecasts made at it, bars.
    target : {"excess", "return"}
        What they forecast.
    price : float64 ndarray of shape (n_symbols,)
        USD; NaN where there is none.
    sigma : float64 ndarray of shape (n_symbols,)
        bps per square root of a session minute.
    member : bool ndarray of shape (n_symbols,)
    """

    bar: int
    lag: int
    target: Literal["excess", "return"]
    price: Doubles
    sigma: Doubles
    member: Bools


@dataclass(frozen=True, eq=False)
class Play:
    """The forecasts of one horizon made at one bar, and how they were weighted then.

    Parameters
    ----------
    bar, end : int
        Bar of the forecasts, and at which their labels end.
    forecasts, scores : float64 ndarrays of shape (n_families, n_symbols)
        NaN where there are none.
    chances : float64 ndarray of shape (n_families,)
        Probability with which the bandit played each family; 0 where none played.
    arm : int
        Position of the family it played; -1: none.
    """

    bar: int
    end: int
    forecasts: Doubles
    scores: Doubles
    chances: Doubles
    arm: int = NO_ARM


@dataclass(frozen=True, eq=False)
class Matured:
    """A play and what came of it.

    Parameters
    ----------
    horizon : int
        Position of its horizon.
    bars : int
        Length of the label.
    play : Play
    labels : float64 ndarray of shape (n_symbols,)
        Units of ``sigma * sqrt(minutes)``; NaN where unknown.
    """

    horizon: int
    bars: int
    play: Play
    labels: Doubles


@dataclass(frozen=True, eq=False)
class LabelQueue:
    """What is pending, and the bars it needs.

    Parameters
    ----------
    seen : tuple of Seen
        Oldest first.
    plays : tuple of length n_horizons of tuple of Play
        Oldest first.
    """

    seen: tuple[Seen, ...]
    plays: tuple[tuple[Play, ...], ...]

    @classmethod
    def start(cls, n_horizons: int) -> "LabelQueue":
        """Nothing pending."""
        return cls((), ((),) * n_horizons)

    def mature(
        self, bar: int, price: Doubles, horizons: tuple[Horizon, ...], clip: float
    ) -> tuple[Matured, ...]:
        """The plays whose labels end at `bar`, with their labels.

        Parameters
        ----------
        bar : int
            Later than every bar seen.
        price : float64 ndarray of shape (n_symbols,)
            Closes of `bar`.
        horizons : tuple of Horizon, length n_horizons
        clip : float
            Labels are cut to +- this.
        """
        by_bar = {seen.bar: seen for seen in self.seen}
        found = [
            (place, horizon, play)
            for place, (horizon, plays) in enumerate(zip(horizons, self.plays, strict=True))
            for play in plays
            if play.end == bar and bar - horizon.bars in by_bar
        ]
        if not found:
            return ()
        labels = scaled_labels(
            np.stack([by_bar[bar - horizon.bars].price for _, horizon, _ in found]),
            price,
            np.array([horizon.minutes for _, horizon, _ in found], dtype=np.float64),
            [by_bar[play.bar] for _, _, play in found],
            clip,
        )
        return tuple(
            Matured(place, horizon.bars, play, row)
            for (place, horizon, play), row in zip(found, labels, strict=True)
        )

    def remember(self, seen: Seen, plays: tuple[Play, ...]) -> "LabelQueue":
        """With one more bar; what ended at it or before is dropped."""
        pending = tuple(
            (*(play for play in before if play.end > seen.bar), new)
            for before, new in zip(self.plays, plays, strict=True)
        )
        oldest = min((some[0].bar for some in pending), default=seen.bar)
        kept = tuple(old for old in self.seen if old.bar >= oldest)
        return LabelQueue((*kept, seen), pending)

    def aligned(self, alignment: Alignment) -> "LabelQueue":
        """In another layout: new symbols have no prices, new families no forecasts."""

        def of_bar(seen: Seen) -> Seen:
            return replace(
                seen,
                price=alignment.take(seen.price, "n", np.nan),
                sigma=alignment.take(seen.sigma, "n", np.nan),
                member=alignment.take(seen.member, "n", False),
            )

        def of_play(play: Play) -> Play:
            arms = np.flatnonzero(alignment.families == play.arm)
            return replace(
                play,
                forecasts=alignment.take(play.forecasts, "fn", np.nan),
                scores=alignment.take(play.scores, "fn", np.nan),
                chances=alignment.take(play.chances, "f", 0.0),
                arm=int(arms[0]) if play.arm != NO_ARM and len(arms) else NO_ARM,
            )

        plays = tuple(
            tuple(of_play(play) for play in self.plays[place]) if place >= 0 else ()
            for place in alignment.horizons
        )
        return LabelQueue(tuple(of_bar(seen) for seen in self.seen), plays)


def scaled_labels(
    entry: Doubles, end: Doubles, minutes: Doubles, decided: Sequence[Seen], clip: float
) -> Doubles:
    """Returns in units of what each name usually moves, as the families learned them.

    Parameters
    ----------
    entry : float64 ndarray of shape (n_labels, n_symbols)
        Prices, USD; one that is not above 0 counts as missing.
    end : float64 ndarray of shape (n_symbols,)
        Prices at the end, of all labels the same bar.
    minutes : float64 ndarray of shape (n_labels,)
        Session minutes of the horizons.
    decided : sequence of Seen, length n_labels
        The bars of the forecasts: their sigma, members and targets count.
    clip : float
        Labels are cut to +- this.

    Returns
    -------
    float64 ndarray of shape (n_labels, n_symbols)
        NaN where a price or sigma is missing, and for all names where a mean over members is to
        be taken away and fewer than three are known.
    """
    known = (entry > 0) & (end > 0) & np.isfinite(entry) & np.isfinite(end)
    returns = np.ones(entry.shape)
    np.divide(end, entry, out=returns, where=known)
    returns = BPS * (returns - 1.0)
    members = known & np.stack([seen.member for seen in decided])
    count = np.count_nonzero(members, axis=1)
    mean = np.where(members, returns, 0.0).sum(axis=1) / np.maximum(count, 1)
    mean[count < LEAST_NAMES] = np.nan
    excess = np.array([seen.target == "excess" for seen in decided])
    returns -= np.where(excess, mean, 0.0)[:, None]
    sigma = np.stack([seen.sigma for seen in decided])
    good = known & (sigma > 0) & np.isfinite(sigma)
    labels = np.full(entry.shape, np.nan)
    np.divide(returns, sigma * np.sqrt(minutes)[:, None], out=labels, where=good)
    return np.asarray(np.clip(labels, -clip, clip))
