"""What trading costs. One object serves loss, backtest, sizing and fills."""

from typing import Any

from dpa.config import CostConfig

BPS = 1e-4
Array = Any  # numpy array or torch tensor: only operators are used


class CostModel:
    """Half-spread, commission, square-root impact and borrow, as fractions of NAV.

    Works on numpy arrays and torch tensors alike, and is differentiable.

    Parameters
    ----------
    config : CostConfig
        Rates in bps; see there for units and bounds.

    Notes
    -----
    Impact is ``k * sigma_day * sqrt(q / ADV)`` as a fraction of the traded value (square-root
    law: Torre 1997; Almgren et al. 2005), so its cost is of order ``|trade|**1.5``.
    """

    def __init__(self, config: CostConfig) -> None:
        self.config = config

    @property
    def linear_rate(self) -> float:
        """Half-spread plus commission, fraction of traded value."""
        return (self.config.half_spread_bps + self.config.commission_bps) * BPS

    def spread(self, trades: Array) -> Array:
        """Half-spread paid, fraction of NAV; `trades` (..., n_assets), fraction of NAV."""
        return abs(trades) * (self.config.half_spread_bps * BPS)

    def commission(self, trades: Array) -> Array:
        """Commission paid, fraction of NAV; `trades` (..., n_assets), fraction of NAV."""
        return abs(trades) * (self.config.commission_bps * BPS)

    def impact(self, trades: Array, sigma_day: Array, adv: Array, nav: float = 1.0) -> Array:
        """Market impact, fraction of NAV.

        Parameters
        ----------
        trades : (..., n_assets)
            Traded value, fraction of NAV, signed.
        sigma_day : (..., n_assets)
            Standard deviation of the daily return, fraction.
        adv : (..., n_assets)
            Average daily traded value, USD, > 0. Finite: the caller leaves out unknown names.
        nav : float
            NAV relative to ``config.nav_usd``.
        """
        size = abs(trades)
        participation = size * (self.config.nav_usd * nav) / adv
        return self.config.impact_coefficient * sigma_day * participation**0.5 * size

    def borrow(self, weights: Array, years: Any) -> Array:
        """Borrow fee on shorts over `years` (from the calendar), fraction of NAV."""
        short = (abs(weights) - weights) * 0.5
        return short * (self.config.borrow_bps_per_year * BPS) * years
