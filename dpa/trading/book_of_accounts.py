"""What an account is worth, now and at the close of the session before, and how old positions are.

Kept in the journal, so that a trader that starts again goes on where it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Protocol

from dpa.trading.types import Money, Position

VALUE = "account-book"


class Keeper(Protocol):
    """Where values are kept: the journal."""

    def value(self, name: str) -> Any: ...
    def set_value(self, name: str, value: Any) -> None: ...


@dataclass(frozen=True)
class Worth:
    """What an account is worth.

    Parameters
    ----------
    session : date
        The venue's.
    nav, prior_nav, cash : Decimal
        USD; `prior_nav` at the last bar of the session before, or at the first bar ever seen.
        NaN: not known.
    gross, net, largest : float
        Exposure and the largest position, fractions of NAV; NaN where it is not known.
    unpriced : tuple of str
        Positions without any price, sorted; the NAV is not known while there are some.
    """

    session: date
    nav: Money
    prior_nav: Money
    cash: Money
    gross: float
    net: float
    largest: float
    unpriced: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        """Whether the NAV is a number above 0."""
        return self.nav.is_finite() and self.nav > 0


class BookOfAccounts:
    """Prices, NAV and ages of one account.

    Parameters
    ----------
    account : str
    keeper : Keeper
    """

    def __init__(self, account: str, keeper: Keeper) -> None:
        self._name, self._keeper = f"{VALUE}:{account}", keeper
        kept = keeper.value(self._name) or {}
        self._session = date.fromisoformat(kept["session"]) if "session" in kept else None
        self._nav = _money(kept.get("nav"))
        self._prior_nav = _money(kept.get("prior_nav"))
        self._prices = {s: Decimal(p) for s, p in kept.get("prices", {}).items()}
        self._opened = {s: datetime.fromisoformat(t) for s, t in kept.get("opened", {}).items()}
        self._shares = {s: Decimal(q) for s, q in kept.get("shares", {}).items()}

    def price(self, symbol: str) -> Money | None:
        """Newest price known, USD."""
        return self._prices.get(symbol)

    def opened_at(self, symbol: str) -> datetime | None:
        """When a position was first seen on the side it is on; none: there is none."""
        return self._opened.get(symbol)

    def see_prices(self, prices: Mapping[str, Money]) -> None:
        """Take newer prices; what is no price above 0 is left out."""
        for symbol, price in prices.items():
            if price.is_finite() and price > 0:
                self._prices[symbol] = price

    def see_positions(self, positions: Mapping[str, Position], now: datetime) -> None:
        """Take positions as they are; one that is new, or changed its side, begins to age."""
        shares = {s: p.shares for s, p in positions.items() if p.shares}
        if shares == self._shares:
            return
        opened = {}
        for symbol, held in shares.items():
            before = self._shares.get(symbol, Decimal(0))
            opened[symbol] = self._opened[symbol] if before * held > 0 else now
        self._shares, self._opened = shares, opened
        self._keep()

    def value(self, session: date, cash: Money, positions: Mapping[str, Position]) -> Worth:
        """Value the account at the newest prices, at a bar of a session.

        The first bar of another session makes the NAV before it that of the prior close. Nothing
        is taken over while the NAV is not known.
        """
        held = {s: p.shares for s, p in positions.items() if p.shares}
        unpriced = tuple(sorted(s for s in held if s not in self._prices))
        values = [q * self._prices[s] for s, q in held.items() if s in self._prices]
        nav = Decimal("NaN") if unpriced or not cash.is_finite() else cash + sum(values)
        if self._session is None or (session > self._session and not self._nav.is_finite()):
            self._prior_nav = nav
        elif session > self._session:
            self._prior_nav = self._nav
        if self._prior_nav.is_nan():
            self._prior_nav = nav
        self._session = session if self._session is None else max(session, self._session)
        if nav.is_finite():
            self._nav = nav
        self._keep()
        exposed = nav.is_finite() and nav > 0
        share = [value / nav for value in values] if exposed else []
        unknown = float("nan")
        return Worth(
            session,
            nav,
            self._prior_nav,
            cash,
            float(sum(map(abs, share))) if exposed else unknown,
            float(sum(share)) if exposed else unknown,
            float(max(map(abs, share), default=0)) if exposed else unknown,
            unpriced,
        )

    def _keep(self) -> None:
        """Only what cannot be known otherwise: prices of positions, not of the universe."""
        kept: dict[str, Any] = {
            "prices": {s: str(self._prices[s]) for s in sorted(self._shares) if s in self._prices},
            "opened": {s: t.isoformat() for s, t in sorted(self._opened.items())},
            "shares": {s: str(q) for s, q in sorted(self._shares.items())},
        }
        if self._session is not None:
            kept["session"] = self._session.isoformat()
        for name, money in (("nav", self._nav), ("prior_nav", self._prior_nav)):
            if money.is_finite():
                kept[name] = str(money)
        self._keeper.set_value(self._name, kept)


def _money(text: str | None) -> Money:
    return Decimal("NaN") if text is None else Decimal(text)
