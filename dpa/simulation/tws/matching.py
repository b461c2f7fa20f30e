"""What of an order trades against a side of the book. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

MARKET, LIMIT, STOP, STOP_LIMIT, ON_CLOSE, LIMIT_ON_CLOSE = (
    "MKT",
    "LMT",
    "STP",
    "STP LMT",
    "MOC",
    "LOC",
)
ORDER_TYPES = (MARKET, LIMIT, STOP, STOP_LIMIT, ON_CLOSE, LIMIT_ON_CLOSE)
LIMITED = (LIMIT, STOP_LIMIT, LIMIT_ON_CLOSE)
STOPPED = (STOP, STOP_LIMIT)
CLOSING = (ON_CLOSE, LIMIT_ON_CLOSE)


@dataclass(frozen=True)
class Trade:
    """Shares at a price, USD."""

    price: Decimal
    shares: Decimal


def reaches(buying: bool, limit: Decimal | None, price: Decimal) -> bool:
    """Whether an order with that limit trades at a price; without a limit at any."""
    return limit is None or (price <= limit if buying else price >= limit)


def triggered(buying: bool, stop: Decimal, last: Decimal) -> bool:
    """Whether a stop order's moment has come: the last price is at the stop, or past it."""
    return last >= stop if buying else last <= stop


def trades(
    buying: bool,
    remaining: Decimal,
    limit: Decimal | None,
    levels: Iterable[tuple[Decimal, Decimal]],
    resting: bool = False,
) -> list[Trade]:
    """What trades now.

    Parameters
    ----------
    buying : bool
    remaining : Decimal
        Shares not filled yet.
    limit : Decimal, optional
        Worst price, USD.
    levels : iterable of (price, shares)
        The other side, best first.
    resting : bool
        The order was in the book before the market came to it: it trades at its own limit, not at
        the better price of the level.

    Returns
    -------
    list of Trade
        Never through the limit, never more than is there or wanted.
    """
    found = []
    for price, size in levels:
        if remaining <= 0 or not reaches(buying, limit, price):
            break
        shares = min(remaining, size)
        found.append(Trade(price if limit is None or not resting else limit, shares))
        remaining -= shares
    return found


def conforms(value: Decimal, step: Decimal) -> bool:
    """Whether a price or a quantity is a multiple of the smallest step."""
    return value % step == 0
