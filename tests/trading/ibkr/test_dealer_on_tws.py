"""The real dealer, journal and feed on the real wire, while things go wrong.

Whatever happens: at most one order of an intent is filled or works, and in the end the ledger
holds what the venue holds, to the share and to the cent.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dpa.errors import TransientError
from dpa.simulation.tws.markets import planted_market
from dpa.trading.dealer import Dealer
from dpa.trading.events import Alert
from dpa.trading.ibkr.feed import IbkrFeed
from dpa.trading.identity import intent_id
from dpa.trading.journal import Journal
from dpa.trading.switch import Level, Switch
from dpa.trading.types import Intent, Purpose, Side, Style
from tests.trading.dealing import settings
from tests.trading.ibkr.rig import Rig, rig, run, venue_of


@dataclass
class Floor:
    """A dealer at work."""

    r: Rig
    dealer: Dealer
    journal: Journal
    switch: Switch
    feed: IbkrFeed
    told: list[Any]

    async def go_on(self, seconds: float) -> None:
        """Let the venue run and the dealer beat."""
        until = self.r.clock.now() + timedelta(seconds=seconds)
        while self.r.clock.now() < until:
            self.r.venue.advance()
            await self.hear()
            now = self.r.clock.now()
            self.feed.due(now)
            await self.dealer.beat(now, self.feed.quotes())
            await self.hear()

    async def hear(self) -> None:
        for _ in range(2):
            if self.r.broker.client.ready:
                await self.r.broker.alive(self.r.broker.settings.ask_seconds)
            await self.r.gateway.settled()

    def intents(self, shares: int = 100, decision: str = "d1") -> list[Intent]:
        """One of each name."""
        now, account = self.r.clock.now(), self.r.broker.account
        found = []
        for symbol, quote in self.feed.quotes().items():
            side = Side.BUY if shares > 0 else Side.SELL
            purpose = Purpose.ENTER if shares > 0 else Purpose.EXIT
            assert quote.mid is not None
            made = Intent(
                id=intent_id(account, decision, symbol, side, purpose),
                account=account,
                decision=decision,
                symbol=symbol,
                side=side,
                shares=abs(shares),
                style=Style.ADAPTIVE,
                purpose=purpose,
                decided_at=now,
                expires_at=now + timedelta(seconds=60),
                reference=quote.mid,
            )
            found.append(made)
        return found

    async def submit(self, *intents: Intent) -> list[str]:
        refusals = await self.dealer.submit(intents, self.feed.quotes())
        await self.hear()
        return [refusal.code.value for refusal in refusals]

    def check(self, intents: list[Intent]) -> None:
        """One order an intent, and books that are equal."""
        for intent in intents:
            orders = [w.order for w in self.r.venue.book.all if w.order.ref == intent.id]
            lively = [o for o in orders if o.filled > 0 or not o.done]
            assert len(lively) <= 1, orders
            assert sum((o.filled for o in orders), Decimal(0)) <= intent.shares
        account = self.r.venue.accounts[self.r.broker.account]
        held = {
            self.r.venue.listing.contracts[self.r.venue.listing.place(c)].symbol: p.shares
            for c, p in account.held.items()
            if p.shares
        }
        assert self.dealer.positions == held

    def check_money(self) -> None:
        """Cash and fees to the cent."""
        account = self.r.venue.accounts[self.r.broker.account]
        ledger = self.dealer.ledger
        assert ledger.cash == account.cash
        assert ledger.fees == account.fees


def test_starting_anew_while_the_servers_are_away_sends_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:  # fault 10
        async with floor(tmp_path) as f:
            wanted = f.intents()
            f.r.fault(do="connectivity", seconds=600)
            await f.hear()
            with pytest.raises(TransientError, match="servers"):
                await f.dealer.start()
            assert not f.dealer.ready
            assert await f.submit(*wanted) == len(wanted) * ["not-ready"]
            assert not list(f.r.venue.book.all)
            f.r.fault(do="say", code=1102, message="back")
            await f.hear()
            await f.dealer.start()
            assert f.dealer.ready
            assert f.switch.level is Level.RUNNING

    run(scenario)


@asynccontextmanager
async def floor(tmp_path: Path, **given: Any) -> AsyncIterator[Floor]:
    market = planted_market(seed=11, names=4, sessions=1, history=1, interval="5m")
    async with rig(venue=venue_of(market=market), **given) as r:
        names = market.panel.names
        instruments = await r.broker.instruments(names)
        told: list[Any] = []
        with Journal(tmp_path / "journal.sqlite", r.clock) as journal:
            switch = Switch(tmp_path / "switch.json", r.clock)
            dealer = Dealer(
                r.broker, journal, switch, r.clock, settings(), told.append, instruments
            )
            feed = IbkrFeed(
                *(r.broker.client, r.broker.contracts, r.broker.settings),
                *("5m", "XNYS", 2.0, r.clock),
            )
            found = await dealer.start()
            assert found.complete, found
            if found.breaks:
                await dealer.adopt("a test", "cash at the beginning")
            await feed.start(names)
            made = Floor(r, dealer, journal, switch, feed, told)
            await made.hear()
            await made.go_on(30)
            assert dealer.ready
            try:
                yield made
            finally:
                await feed.stop()


def test_a_quiet_day_ends_with_equal_books(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            wanted = f.intents()
            assert await f.submit(*wanted) == []
            await f.go_on(90)
            f.check(wanted)
            assert len(f.dealer.positions) == 4
            leave = f.intents(-100, "d2")
            assert await f.submit(*leave) == []
            await f.go_on(90)
            f.check(wanted + leave)
            assert f.dealer.flat
            f.check_money()
            assert f.switch.level is Level.RUNNING

    run(scenario)


QUICK = {"heartbeat_seconds": 0.1, "ask_seconds": 0.5}  # where an answer never comes
FAULTS: dict[str, dict[str, Any]] = {
    "an order is lost": {"do": "lose", "what": "order", "times": 2},
    "an order is not told of": {"do": "hide", "times": 2},
    "a cancel is lost": {"do": "lose", "what": "cancel", "times": 2},
    "a false cancel": {"do": "false_cancel", "when": "order", "every": 1},
    "words come twice": {"do": "duplicate"},
    "words come in another order": {"do": "reorder"},
    "fees come late": {"do": "commission", "how": "late", "late_seconds": 20},
    "fees come first": {"do": "commission", "how": "early"},
    "orders are refused": {"do": "reject", "code": 201, "times": 2},
    "a fill is corrected": {"do": "correct", "price_change": "0.03", "when": "fill", "count": 2},
    "the connection is reset": {"do": "disconnect", "reset": True, "when": "order", "count": 2},
    "the connection is reset at a fill": {
        "do": "disconnect",
        "reset": True,
        "when": "fill",
        "count": 1,
    },
    "the servers are away": {"do": "connectivity", "seconds": 15, "when": "order", "count": 3},
    "data are lost with them": {
        "do": "connectivity",
        "seconds": 15,
        "data_lost": True,
        "when": "order",
        "count": 3,
    },
    "a restart rolls numbers back": {
        "do": "restart",
        "seconds": 10,
        "ids_rolled_back": True,
        "when": "order",
        "count": 3,
    },
    "it goes mute": {"do": "mute", "seconds": 15, "when": "order", "count": 3},
    "cancels are slow": {"do": "slow_cancel", "cancel_seconds": 10},
    "few shares are shown": {"do": "sizes", "size": 100},
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda name: name.replace(" ", "-"))
def test_books_are_equal_after(fault: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        silent = FAULTS[fault]["do"] == "mute"
        async with floor(tmp_path, **(QUICK if silent else {})) as f:
            f.r.fault(**FAULTS[fault])
            wanted = f.intents(300)
            await f.submit(*wanted)
            await f.go_on(150)
            await f.r.until(lambda: f.r.broker.connected)
            await f.hear()
            await f.go_on(60)
            found = await f.dealer.reconcile()
            assert found.complete
            f.check(wanted)
            f.check_money()
            assert not f.dealer.live_orders
            assert f.switch.level is Level.RUNNING, [e for e in f.told if isinstance(e, Alert)]

    run(scenario)


def test_a_lost_end_of_the_positions_halts_and_is_never_flat(tmp_path: Path) -> None:  # fault 14
    async def scenario() -> None:
        async with floor(tmp_path, ask_seconds=1.0) as f:
            await f.submit(*f.intents())
            await f.go_on(90)
            assert f.dealer.positions
            f.r.fault(do="withhold", messages=[62])
            found = await f.dealer.reconcile()
            assert not found.complete
            assert f.dealer.positions
            assert not f.dealer.ready or f.switch.level is Level.HALTED

    run(scenario)


def test_a_liquidation_is_booked_and_halts(tmp_path: Path) -> None:  # fault 31
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            wanted = f.intents()
            await f.submit(*wanted)
            await f.go_on(90)
            symbol = f.r.symbol
            assert symbol in f.dealer.positions
            f.r.fault(do="liquidate", symbol=symbol)
            await f.r.until(lambda: f.dealer.ledger.position(symbol).shares == 0)
            f.check(wanted)
            assert f.switch.level is Level.HALTED

    run(scenario)


def test_kill_ends_all_orders_and_lasts(tmp_path: Path) -> None:  # fault 33
    async def scenario() -> None:
        async with floor(tmp_path) as f:
            f.r.fault(do="sizes", size=1)
            wanted = f.intents(1000)
            await f.submit(*wanted)
            await f.go_on(5)
            assert f.dealer.live_orders
            await f.dealer.kill("a test", "enough")
            await f.go_on(30)
            assert not f.dealer.live_orders
            assert all(work.order.done for work in f.r.venue.book.all)
            assert f.switch.level is Level.HALTED
            f.check(wanted)
            assert await f.submit(*f.intents(100, "d3")) != []

    run(scenario)
