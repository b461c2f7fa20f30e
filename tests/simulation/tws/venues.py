"""What the tests of the venue share: a listener that keeps everything, and short ways to trade."""

import copy
from dataclasses import replace
from datetime import timedelta
from functools import cache

import numpy as np

from dpa.simulation.tws.markets import Book, Market, planted_market
from dpa.simulation.tws.script import Script, read_fault
from dpa.simulation.tws.venue import SimVenue
from dpa.simulation.tws.words import SimOrder

ALL_WORDS = (
    "open_order",
    "order_status",
    "execution",
    "commission",
    "error",
    "position",
    "portfolio",
    "account_values",
    "quote",
    "realtime_bar",
    "history_bar",
)


class Ear:
    """A client: keeps (word, arguments) of all it is told, as they were then."""

    def __init__(self, client_id=1, markets=False):
        self.client_id, self.said, self.cut = client_id, [], None
        self._markets = markets

    def __getattr__(self, name):
        if name not in ALL_WORDS:
            raise AttributeError(name)
        if name in ("quote", "realtime_bar", "history_bar") and not self._markets:
            return lambda *arguments: None
        return lambda *arguments: self.said.append((name, tuple(map(_as_it_is, arguments))))

    def follows_bars(self, contract):
        return self._markets

    def data_lost(self):
        self.said.append(("data_lost", ()))

    def disconnect(self, reset):
        self.cut = reset

    def heard(self, word):
        return [arguments for name, arguments in self.said if name == word]

    @property
    def words(self):
        return [name for name, _ in self.said]

    @property
    def codes(self):
        return [arguments[1] for arguments in self.heard("error")]


def _as_it_is(argument):
    """Orders change; everything else is a value."""
    return copy.copy(argument) if isinstance(argument, SimOrder) else argument


@cache
def market(names=4, sessions=1, history=0, seed=5, start="2024-06-17", **book) -> Market:
    return planted_market(seed, names, sessions, history, start=start, book=Book(**book))


def flat_market(price=50.0, names=1, sessions=1, volume=100_000, **book) -> Market:
    """A market in which every price is the same."""
    made = market(names, sessions)
    panel = made.panel
    same = np.full(panel.prices.shape, price)
    shares = np.full(panel.prices.shape, float(volume))
    panel = replace(
        panel, prices=same, open=same, high=same, low=same, volume=shares, dollar_volume=same
    )
    return Market(panel, 0, Book(**book))


def open_venue(made=None, *faults, seed=0, ear=None, **keywords):
    """A venue in its first minute of trading, and a client of it."""
    script = Script(seed=seed, faults=tuple(read_fault(fault) for fault in faults))
    venue = SimVenue(made or market(), script=script, **keywords)
    ear = ear or Ear()
    assert venue.attach(ear) is None
    while venue.clock.now() <= venue.market.starts_at:
        venue.advance()
    return venue, ear


def fields(action="BUY", shares=100, limit=None, tif="DAY", **more):
    kind = "MKT" if limit is None else "LMT"
    return {
        "action": action,
        "totalQuantity": str(shares),
        "orderType": kind,
        "lmtPrice": "" if limit is None else str(limit),
        "auxPrice": "",
        "tif": tif,
        "account": "DU1234567",
        "orderRef": "dpa-1",
        "transmit": "1",
    } | {name: str(value) for name, value in more.items()}


def place(venue, order_id, symbol="N0", client_id=1, **wanted):
    """Place an order; the refusal, if any."""
    contract = venue.find(0, symbol)
    return venue.place(client_id, order_id, contract, fields(**wanted))


def run_for(venue, seconds):
    """Let so much of the venue's time pass."""
    until = venue.clock.now() + timedelta(seconds=seconds)
    venue.wake_at(until)
    while venue.clock.now() < until and venue.advance():
        pass


def order(venue, order_id, client_id=1):
    """The order with that number, as it stands."""
    return venue.book.find(client_id, order_id).order
