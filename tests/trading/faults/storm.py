"""A storm: thousands of orders on the whole stack while everything goes wrong at random.

Sessions of some forty names; every minute a decision of random orders, and random faults; traders
die and are started again. After each session everything is left to settle, and counted: fills of
the venue that the journal lacks, intents with more than one order, positions that nobody explains.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from dpa.clock import SystemClock
from dpa.errors import TransientError
from dpa.simulation.tws.gateway import Gateway
from dpa.simulation.tws.venue import SimVenue
from dpa.trading.switch import Level
from dpa.trading.types import Style
from tests.trading.dealing import settings
from tests.trading.faults.rig import ASK_SECONDS, Floor, market, newest_revisions
from tests.trading.ibkr.rig import VenueTime

CODES = (10349, 161, 10148, 399, 10147, 202)
HURRY = 0.25  # seconds of the machine's clock, for answers that do not come
Entry = dict[str, Any]


def _random_fault(chance: random.Random, name: str) -> tuple[str, Entry]:
    """What goes wrong next, by its name in the table, and the entry of a script."""
    seconds = chance.choice((20, 40, 90))
    entries: list[tuple[str, Entry]] = [
        ("order lost", {"do": "lose", "times": chance.randint(1, 3)}),
        ("order lost", {"do": "lose", "times": chance.randint(1, 3)}),
        ("order worked without a word", {"do": "hide", "times": chance.randint(1, 3)}),
        ("cancel lost", {"do": "lose", "what": "cancel", "times": chance.randint(1, 3)}),
        ("words twice", {"do": "duplicate", "seconds": seconds}),
        ("words reordered", {"do": "reorder", "seconds": seconds}),
        ("fills late after a cancel", {"do": "slow_cancel", "cancel_seconds": 12, "seconds": 90}),
        ("orders left out of lists", {"do": "withhold", "messages": [3, 5, 101], "seconds": 8}),
        ("statuses not told", {"do": "withhold", "messages": [3], "seconds": seconds}),
        ("fees late", {"do": "commission", "how": "late", "late_seconds": 30, "seconds": seconds}),
        ("fees early", {"do": "commission", "how": "early", "seconds": seconds}),
        ("fees never", {"do": "commission", "how": "never", "seconds": seconds}),
        ("price corrected", {"do": "correct", "price_change": "0.02", "when": "fill"}),
        ("shares corrected", {"do": "correct", "shares": 1, "when": "fill"}),
        ("bust", {"do": "bust", "when": "fill"}),
        ("false cancel", {"do": "false_cancel", "code": chance.choice(CODES), "when": "order"}),
        ("rejected", {"do": "reject", "times": chance.randint(1, 3)}),
        ("connection dropped", {"do": "disconnect", "when": "order", "count": 5}),
        ("connection reset", {"do": "disconnect", "reset": True, "when": "fill"}),
        ("gateway restarts, ids rolled back",
         {"do": "restart", "seconds": 20, "ids_rolled_back": True, "when": "order", "count": 3}),
        ("1100 and 1102", {"do": "connectivity", "seconds": 20}),
        ("1100 and 1101", {"do": "connectivity", "seconds": 20, "data_lost": True}),
        ("2103 and 2104", {"do": "farm", "seconds": 20}),
        ("halt of a name", {"do": "halt", "symbol": name, "seconds": 120}),
        ("crossed quotes", {"do": "quotes", "how": "crossed", "symbol": name, "seconds": 60}),
        ("few shares shown", {"do": "sizes", "size": 100, "symbol": name, "seconds": 120}),
    ]  # fmt: skip
    return chance.choice(entries)


@dataclass
class Result:
    """What a storm did."""

    orders: int = 0
    fills: int = 0
    lost_fills: int = 0
    invented_fills: int = 0
    duplicates: int = 0
    unexplained: int = 0
    money_off: int = 0
    sessions: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    halts: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether nothing was lost, repeated or left unexplained."""
        wrong = self.lost_fills, self.invented_fills, self.duplicates
        return not any((*wrong, self.unexplained, self.money_off))


class Storm:
    """Plays one out.

    Parameters
    ----------
    folder : Path
    seed, orders : int
        Goes on until so many orders are at the venue.
    names, decisions : int
        Symbols; decisions in a session, a minute apart.
    faults : float
        Most faults that begin with each decision, on average half of it.
    told : callable, optional
        Told how far it is.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        orders: int,
        names: int = 40,
        decisions: int = 40,
        faults: float = 2.5,
        told: Callable[[Result], None] = lambda _: None,
    ) -> None:
        self._folder, self._orders, self._told = folder, orders, told
        self._names, self._decisions, self._faults = names, decisions, faults
        self._chance = random.Random(seed)
        sessions = 3 + orders // (decisions * names // 3)
        self._venue = SimVenue(market(seed=seed, names=names, sessions=sessions))
        self._number = 0
        self.result = Result()

    async def run(self) -> Result:
        """All of it."""
        clock, venue = SystemClock(), self._venue
        began = clock.elapsed()
        venue.traits.messages_per_second = 1_000_000
        venue.traits.lines = 10 * self._names
        async with Gateway(venue, pacing=SystemClock()) as gateway:
            wide = {"quote_seconds": 20.0, "rejects_to_halt": 25, "messages_per_second": 400.0}
            lines = {"market_data_lines": 10 * self._names}
            f = Floor(self._folder, venue, gateway, settings(**wide), VenueTime(venue), ibkr=lines)
            while len(venue.book.all) < self._orders and not venue.ended:
                await self._session(f)
                self.result.seconds = clock.elapsed() - began
                self._told(self.result)
        gateway.check()
        assert f.unreadable == 0
        self.result.seconds = clock.elapsed() - began
        return self.result

    async def _session(self, f: Floor) -> None:
        self.result.sessions += 1
        self._to_the_open()
        await self._start(f)
        await f.go_on(30)
        for _ in range(self._decisions):
            if len(self._venue.book.all) >= self._orders:
                break
            await self._trouble(f)
            await self._decide(f)
            await f.go_on(self._chance.choice((30, 60, 75)))
            self._resume(f)
        await self._calm(f)
        self._check(f)
        await f.die()

    def _to_the_open(self) -> None:
        venue = self._venue
        day = venue.clock.now().date()
        while not venue.ended:
            venue.advance()
            now = venue.clock.now()
            new = not venue.book.all or now.date() != day
            if new and venue.hours.is_open(now) and venue.tape.parts:
                break
        venue.advance()

    async def _start(self, f: Floor) -> None:
        """A trader begins; it is tried again while the gateway is away."""
        for _ in range(200):
            try:
                await f.begin()
                return
            except TransientError:
                await f.die()
                self._venue.later(2.0, lambda: None)
                self._venue.advance()
        raise AssertionError("the trader cannot begin")

    async def _trouble(self, f: Floor) -> None:
        for _ in range(int(self._chance.uniform(0, self._faults) + 0.5)):
            kind, entry = _random_fault(self._chance, self._chance.choice(f.names))
            self.result.faults[kind] += 1
            f.fault(**entry)
        if self._chance.random() < 0.02:
            self.result.faults["gateway mute"] += 1
            f.fault(do="mute", seconds=15)
            f.hurry(HURRY)
            await f.go_on(30)
            f.hurry(ASK_SECONDS)
        if self._chance.random() < 0.05:
            self.result.faults["trader killed and started"] += 1
            await self._decide(f)
            await f.die()
            for _ in range(self._chance.randint(0, 4)):
                self._venue.advance()
            await self._start(f)

    async def _decide(self, f: Floor) -> None:
        self._number += 1
        intents = []
        for name in f.names:
            if self._chance.random() > 0.75:
                continue
            held = int(f.dealer.positions.get(name, 0))
            shares = self._chance.choice((-300, -200, -100, 100, 200, 300))
            if abs(held) > 800:
                shares = -held
            style = self._chance.choice((Style.MARKET, Style.ADAPTIVE, Style.ADAPTIVE))
            away = self._chance.random() < 0.1
            decision = f"storm {self._number}"
            intents.append(f.intent(shares, name, decision, style, away))
        await f.submit(*intents)

    def _resume(self, f: Floor) -> None:
        """A person looks at why it is halted, and lets it go on."""
        state = f.switch.read()
        if state.level is Level.RUNNING:
            return
        self.result.halts[_short(state.why)] += 1
        if "the ledger has" in state.why or "two orders" in state.why or "filled of" in state.why:
            self.result.unexplained += 1
        f.switch.resume("Ada", "it is a storm", state)

    async def _calm(self, f: Floor) -> None:
        """All faults end, and everything is left to settle."""
        mischief = self._venue.outlet.mischief
        self._venue.faults._seen.clear()
        mischief.lose.clear()
        mischief.hide, mischief.rejections = 0, []
        await f.go_on(150)
        self._resume(f)
        await f.wait_for(lambda: f.broker.connected, 300)
        await f.go_on(60)
        await f.wait_for(lambda: f.dealer.ready and not f.dealer.live_orders, 700)
        await f.go_on(310)
        self._resume(f)

    def _check(self, f: Floor) -> None:
        """Positions and money at the end of a session."""
        books = self._venue.truth()["accounts"][f.broker.account]
        held = {
            symbol: Decimal(p["shares"])
            for symbol, p in books["positions"].items()
            if Decimal(p["shares"])
        }
        mine = dict(f.dealer.positions)
        for symbol in {*held, *mine}:
            self.result.unexplained += held.get(symbol, 0) != mine.get(symbol, 0)
        account = self._venue.accounts[f.broker.account]
        untold = sum(
            (e.fee for e in account.entries.values()
             if e.execution.exec_id not in self._venue.outlet.reported), Decimal(0)
        )  # fmt: skip
        ledger = f.dealer.ledger
        self.result.money_off += ledger.cash - untold != account.cash
        self.result.money_off += ledger.fees + untold != account.fees
        self._count(f)

    def _count(self, f: Floor) -> None:
        """Fills and orders of all sessions so far."""
        result = self.result
        works = [work.order for work in self._venue.book.all if work.order.ref]
        result.orders = len(works)
        result.duplicates = len(works) - len({order.ref for order in works})
        theirs = {e["exec_id"] for e in self._venue.truth()["executions"]}
        mine = {e.exec_id for e in f.journal.executions()}
        result.fills = len(theirs)
        result.lost_fills = len(newest_revisions(theirs) - mine)
        result.invented_fills = len(mine - theirs)
        result.states = Counter(order.state.value for order in f.journal.orders())


def _short(why: str) -> str:
    """A reason without its numbers and names."""
    words = why.split(": ", 1)[-1] if why[:1] in "N" else why
    return "".join("#" if c.isdigit() else c for c in words)[:90]
