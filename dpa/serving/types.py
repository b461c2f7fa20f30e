"""What travels between HTTP and the decision graph."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd

from dpa.decision.decision import Decision
from dpa.decision.types import Bools, Doubles, Feed, Forecasts
from dpa.errors import UserError
from dpa.market.panel import Panel


class RequestError(UserError):
    """A request that cannot be answered, and why.

    Parameters
    ----------
    status : int
        HTTP status, 4xx or 503.
    what, cure : str
        As in :class:`~dpa.errors.DpaError`.
    field : str
        Path of the field at fault, such as ``symbols[3].bid``; empty when it is no field.
    code : str
        Kind of the error for programs: ``invalid``, ``too_large``, ``unauthorized``, ``stale``,
        ``conflict``, ``not_ready``, ``not_found``.
    """

    def __init__(self, status: int, code: str, what: str, cure: str = "", field: str = "") -> None:
        super().__init__(what, cure)
        self.status, self.code, self.field = status, code, field

    def __reduce__(self) -> tuple[Any, ...]:
        return RequestError, (self.status, self.code, self.what, self.cure, self.field)


@dataclass(frozen=True, eq=False)
class Request:
    """A snapshot as a client sends it; symbols in the client's order.

    Parameters
    ----------
    time : Timestamp
        Close of the bar, UTC.
    moment : Timestamp, optional
        When the decision is asked for, UTC, at least `time`; none: the server's clock.
    account : str
    nav_usd, prior_nav_usd : float
        Finite and above 0.
    feed : {"direct", "aggregated"}
    names : tuple of str, length n_symbols
        Unique.
    bars : mapping of str to float64 ndarray of shape (n_symbols,)
        ``close`` and, where given, ``open, high, low, volume, dollar_volume`` of the bar; NaN
        where a symbol has none. Empty: the bar is known already, from an earlier request.
    member : bool ndarray of shape (n_symbols,)
    bid, ask, quote_age_ms, adv_usd : float64 ndarrays of shape (n_symbols,)
        NaN where unknown. `adv_usd` unknown: the mean of the bars on record is taken.
    shares, lot : float64 ndarrays of shape (n_symbols,)
    """

    time: pd.Timestamp
    moment: pd.Timestamp | None
    account: str
    nav_usd: float
    prior_nav_usd: float
    feed: Feed
    names: tuple[str, ...]
    bars: Mapping[str, Doubles]
    member: Bools
    bid: Doubles
    ask: Doubles
    quote_age_ms: Doubles
    adv_usd: Doubles
    shares: Doubles
    lot: Doubles


@dataclass(frozen=True, eq=False)
class Prediction:
    """Forecasts of the symbols asked for, without a decision.

    Parameters
    ----------
    time : Timestamp
        Close of the bar, UTC.
    names : tuple of str, length n_symbols
    forecasts : Forecasts
    stacked, confidence : float64 ndarrays of shape (n_horizons, n_symbols)
        As in :class:`~dpa.horizons.inference.BundleForecast`.
    """

    time: pd.Timestamp
    names: tuple[str, ...]
    forecasts: Forecasts
    stacked: Doubles
    confidence: Doubles


class Desk(Protocol):
    """What HTTP asks of the graph, whichever way it is composed. All raise `RequestError`."""

    async def decide(self, request: Request) -> Decision:
        """Take the bar in, decide, remember; the same request again gives the same decision.

        The decision covers the symbols of the request, in their order.
        """
        ...

    async def predict(self, request: Request) -> Prediction:
        """Take the bar in and forecast."""
        ...

    async def latest(self, account: str | None) -> dict[str, Any] | None:
        """The newest decision of an account (none: of any) as `to_dict` gives it, with trace."""
        ...

    async def latest_id(self, account: str | None) -> str | None:
        """The id of what :meth:`latest` would give."""
        ...

    async def bundle(self) -> dict[str, Any]:
        """The bundle in use: ``version`` (12 digits), ``fingerprint``, ``horizons``,
        ``families``, ``interval``, ``calendar``, ``names``, ``needs``, ``trained_until``,
        ``serving_since``, ``newest_bar``, ``refused`` (reference and reason of the newest
        bundle that was refused, or null) and ``accounts`` (risk state of each by name)."""
        ...

    async def ready(self) -> dict[str, Any]:
        """``ready`` (bool) and ``stages``: stage name to ``ok`` or what it waits for."""
        ...

    async def history(self, panel: Panel) -> dict[str, Any]:
        """Replace the bars on record; what was learned starts anew."""
        ...

    async def risk(self, account: str, action: str, by: str, why: str) -> dict[str, Any]:
        """``halt`` or ``resume`` an account; its risk state after that."""
        ...


class Trader(Protocol):
    """What HTTP asks of the trader. All raise `RequestError`; 503 where none runs."""

    async def status(self) -> Mapping[str, Any]:
        """Level, link, positions, live orders, profit, limits and how near; for JSON."""
        ...

    async def command(
        self, name: str, by: str, why: str, seen: str | None = None
    ) -> Mapping[str, Any]:
        """``pause``, ``resume``, ``flatten``, ``stop`` or ``kill``; the status after it.

        Parameters
        ----------
        name, by, why : str
        seen : str, optional
            The status's ``level_mark`` that a resume resumes from.
        """
        ...


class NoTrader:
    """Stands for a trader where there is none."""

    async def status(self) -> Mapping[str, Any]:
        """Refuses."""
        raise no_trader()

    async def command(
        self, name: str, by: str, why: str, seen: str | None = None
    ) -> Mapping[str, Any]:
        """Refuses."""
        raise no_trader()


def no_trader(done: str = "", cure: str = "start one with 'dpa trade start'") -> RequestError:
    """503: no trader runs; `done` says what was done all the same."""
    return RequestError(503, "not_ready", f"no trader runs{done}", cure)
