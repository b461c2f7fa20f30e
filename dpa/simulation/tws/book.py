"""Orders at the venue: their numbers, and which of them live."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from dpa.simulation.tws.matching import CLOSING, STOPPED
from dpa.simulation.tws.words import SimOrder

FIRST_PERM_ID = 1_510_000_001
MANUAL_CLIENT = 0  # orders a person typed into TWS


@dataclass
class Working:
    """An order, and what the venue remembers of it besides what it shows.

    Parameters
    ----------
    order : SimOrder
    place : int
        Column of its contract in the market.
    stop : Decimal, optional
        Trigger price, USD.
    waiting : bool
        A stop that has not been triggered.
    resting : bool
        It has been in the book since before the market last moved.
    held : bool
        Shares are being located.
    cancelling : bool
        Its end was asked for and has not come.
    expires : datetime, optional
        Close of the session it is good for; None: until cancelled.
    value, fee : Decimal
        Of its fills, USD.
    """

    order: SimOrder
    place: int
    stop: Decimal | None = None
    waiting: bool = False
    resting: bool = False
    held: bool = False
    cancelling: bool = False
    expires: datetime | None = None
    value: Decimal = Decimal(0)
    fee: Decimal = Decimal(0)

    @property
    def buying(self) -> bool:
        """Whether it is a purchase."""
        return self.order.action == "BUY"

    @property
    def closing(self) -> bool:
        """Whether it waits for the closing auction."""
        return self.order.order_type in CLOSING

    @property
    def stopped(self) -> bool:
        """Whether it has a trigger."""
        return self.order.order_type in STOPPED


class OrderBook:
    """All orders. A pair of client and order number finds the newest one that had it."""

    def __init__(self) -> None:
        self.all: list[Working] = []
        self._newest: dict[tuple[int, int], Working] = {}
        self._live: dict[int, list[Working]] = {}
        self._highest: dict[int, int] = {}
        self._perm_ids = itertools.count(FIRST_PERM_ID)

    def next_id(self, client_id: int) -> int:
        """Lowest number a client may use."""
        return self._highest.get(client_id, 0) + 1

    def used(self, client_id: int, order_id: int) -> None:
        """A number was used, whatever became of the order."""
        self._highest[client_id] = max(self._highest.get(client_id, 0), order_id)

    def roll_back_ids(self) -> None:
        """Forget which numbers were used, as gateways have been seen to do."""
        self._highest.clear()

    def next_perm_id(self) -> int:
        """A number no order has had."""
        return next(self._perm_ids)

    def add(self, work: Working) -> None:
        """Take an order in."""
        order = work.order
        self.all.append(work)
        if order.order_id:
            self._newest[order.client_id, order.order_id] = work
        if not order.done:
            self._live.setdefault(work.place, []).append(work)

    def find(self, client_id: int, order_id: int) -> Working | None:
        """The newest order with that number."""
        return self._newest.get((client_id, order_id))

    def live(self, place: int | None = None) -> list[Working]:
        """Orders that still work, of a contract or all, oldest first."""
        if place is not None:
            return list(self._live.get(place, ()))
        return sorted(self._each_live(), key=lambda work: work.order.perm_id)

    def _each_live(self) -> Iterator[Working]:
        for works in self._live.values():
            yield from works

    def live_places(self) -> set[int]:
        """Contracts with orders that still work."""
        return {place for place, works in self._live.items() if works}

    def ended(self, work: Working) -> None:
        """An order works no more."""
        works = self._live.get(work.place, [])
        if work in works:
            works.remove(work)
