"""Which names may be held on each date, decided from that bar and earlier ones only."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpa.config import DataConfig
from dpa.errors import ConfigError
from dpa.market.panel import Bools, Floats


@dataclass(frozen=True)
class UniverseRules:
    """What a name must satisfy to be in the universe.

    Parameters
    ----------
    min_history_bars : int
        Bars with a price, the current one included, before a name may be held.
    min_dollar_volume : float
        Least rolling median of traded value per bar, USD.
    top_by_dollar_volume : int, optional
        Keep this many names with the largest rolling median; ties go to the earlier column.
    lookback_bars : int
        Bars of the rolling median. At least half of them, rounded up, must be known.
    """

    min_history_bars: int = 0
    min_dollar_volume: float = 0.0
    top_by_dollar_volume: int | None = None
    lookback_bars: int = 63

    @classmethod
    def from_config(cls, config: DataConfig) -> "UniverseRules":
        """The rules in `config`."""
        return cls(
            config.min_history_bars,
            config.min_dollar_volume,
            config.top_by_dollar_volume,
            config.liquidity_lookback_bars,
        )

    @property
    def needs_dollar_volume(self) -> bool:
        """Whether traded value must be known."""
        return self.min_dollar_volume > 0 or self.top_by_dollar_volume is not None

    @property
    def are_trivial(self) -> bool:
        """Whether every name with a price is in."""
        return self.min_history_bars <= 1 and not self.needs_dollar_volume

    def require(self, known: bool, origin: str) -> None:
        """:class:`ConfigError` when traded value is needed but not `known`."""
        if self.needs_dollar_volume and not known:
            raise ConfigError(
                f"{origin}: no traded value, which min_dollar_volume and top_by_dollar_volume need",
                "give data.dollar_volume_path, or leave both settings out",
            )


@dataclass(frozen=True, eq=False)
class Verdict:
    """Membership of a stretch of bars, and why names are out.

    Every array is a bool ndarray of shape (n_bars, n_assets). The reasons exclude each other:
    the first that holds, in the order below, counts.
    """

    mask: Bools
    no_price: Bools
    short_history: Bools
    illiquid: Bools
    below_top: Bools


class Universe:
    """Membership bar by bar; feed it history in time order, in pieces of any length.

    The pieces do not matter: a history fed in one go and the same history fed bar by bar give
    the same mask, because counts and the tail of traded value are carried along.

    Parameters
    ----------
    rules : UniverseRules
        What a name must satisfy.
    n_assets : int
        Number of names.
    """

    def __init__(self, rules: UniverseRules, n_assets: int) -> None:
        self.rules = rules
        self._history = np.zeros(n_assets, dtype=np.int64)
        self._tail = np.empty((0, n_assets))

    def update(self, prices: Floats, dollar_volume: Floats | None) -> Bools:
        """Membership of the next bars.

        Parameters
        ----------
        prices : float64 ndarray of shape (n_bars, n_assets)
            The bars that follow those seen so far; NaN where there is no price.
        dollar_volume : float64 ndarray of shape (n_bars, n_assets), optional
            Traded value per bar, USD; NaN where unknown.

        Returns
        -------
        bool ndarray of shape (n_bars, n_assets)
            True implies a finite price.
        """
        return self.judge(prices, dollar_volume).mask

    def judge(self, prices: Floats, dollar_volume: Floats | None) -> Verdict:
        """Like :meth:`update`, with the reasons."""
        priced = np.isfinite(prices)
        history = self._history + np.cumsum(priced, axis=0)
        if len(history):
            self._history = history[-1]
        seasoned = history >= self.rules.min_history_bars
        inside = priced & seasoned
        liquid, top = np.ones_like(inside), np.ones_like(inside)
        if self.rules.needs_dollar_volume:
            self.rules.require(dollar_volume is not None, "universe")
            unknown = np.full(prices.shape, np.nan)
            median = self._median(unknown if dollar_volume is None else dollar_volume)
            liquid = np.isfinite(median) & (median >= self.rules.min_dollar_volume)
            top = self._top(np.where(inside & liquid, median, -np.inf))
        return Verdict(
            mask=inside & liquid & top,
            no_price=~priced,
            short_history=priced & ~seasoned,
            illiquid=inside & ~liquid,
            below_top=inside & liquid & ~top,
        )

    def _median(self, dollar_volume: Floats) -> Floats:
        """Rolling median of traded value, shape of `dollar_volume`."""
        lookback = self.rules.lookback_bars
        known = np.concatenate([self._tail, dollar_volume])
        self._tail = known[max(len(known) - lookback + 1, 0) :].copy()
        rolling = pd.DataFrame(known).rolling(lookback, min_periods=(lookback + 1) // 2)
        median: Floats = rolling.median().to_numpy()[len(known) - len(dollar_volume) :]
        return median

    def _top(self, median: Floats) -> Bools:
        """True for the largest `top_by_dollar_volume` of each row."""
        keep = self.rules.top_by_dollar_volume
        if keep is None or keep >= median.shape[1]:
            return np.ones(median.shape, dtype=bool)
        order: NDArray[np.intp] = np.argsort(-median, axis=1, kind="stable")
        top = np.zeros(median.shape, dtype=bool)
        np.put_along_axis(top, order[:, :keep], True, axis=1)
        return top
