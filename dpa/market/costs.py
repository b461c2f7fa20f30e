"""What trading costs. One object serves loss, backtest, sizing and fills."""

from typing import Any, NamedTuple

from dpa.config import CostConfig

BPS = 1e-4
SESSION_MINUTES = 390.0  # of a regular session of XNYS
SESSIONS_PER_YEAR = 252.0  # of XNYS, on average
Array = Any  # numpy array or torch tensor: only operators are used


class RoundTrip(NamedTuple):
    """Parts of what a way in and out costs, bps of the value traded one way."""

    spread: Array
    commission: Array
    timing: Array
    impact: Array

    @property
    def total(self) -> Array:
        """Their sum; NaN where a part is not known."""
        return self.spread + self.commission + self.timing + self.impact


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

    def round_trip_bps(
        self,
        spread_bps: Array,
        sigma: Array,
        minutes: Array,
        participation: Array,
        *,
        spread_factor: float = 1.0,
        timing_factor: float = 0.15,
        session_minutes: float = SESSION_MINUTES,
    ) -> RoundTrip:
        """Expected cost of a way in and out, from today's quote, without the borrow fee.

        ``k1 spread + 2 commission + k2 sigma sqrt(minutes) + 2 k3 sigma_day sqrt(q / ADV)`` with
        k3 = ``impact_coefficient``: impact is paid on the way in and on the way out, as
        :meth:`impact` charges each trade of a backtest.

        Parameters
        ----------
        spread_bps : (n_symbols,)
            Quoted spread, bps of the mid; NaN: not known.
        sigma : (n_symbols,)
            Volatility, bps per square root of a session minute.
        minutes : float or (n_horizons, 1)
            How long the orders work, session minutes.
        participation : (n_symbols,)
            Value of the order over average daily traded value; it does not matter, not even when
            it is NaN, where ``impact_coefficient`` is 0.
        spread_factor, timing_factor : float
            k1 and k2.
        session_minutes : float
            Minutes of a regular session, which make sigma one of a day.

        Returns
        -------
        RoundTrip
            Each part broadcasts to (n_horizons, n_symbols).
        """
        coefficient = self.config.impact_coefficient
        impact = 0.0
        if coefficient:
            impact = 2 * coefficient * (sigma * session_minutes**0.5) * participation**0.5
        return RoundTrip(
            spread_factor * spread_bps,
            2 * self.config.commission_bps,
            timing_factor * sigma * minutes**0.5,
            impact,
        )

    def borrow_bps(
        self,
        minutes: Array,
        *,
        session_minutes: float = SESSION_MINUTES,
        sessions_per_year: float = SESSIONS_PER_YEAR,
    ) -> Array:
        """Borrow fee of a short held for `minutes` of session time, bps of its value.

        The fee runs through nights and weekends: a session's share of a year is
        ``1 / sessions_per_year``.
        """
        return self.config.borrow_bps_per_year * minutes / (session_minutes * sessions_per_year)
