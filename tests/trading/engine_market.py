"""A market and an account for the tests of the engine: scripted decisions, filled at once."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

from dpa.config import Settings
from dpa.errors import ClusterUnavailable
from dpa.market.calendars import TradingCalendar
from dpa.market.panel import Panel
from dpa.serving.types import Request
from dpa.trading.clocks import VirtualClock
from dpa.trading.engine import Engine
from dpa.trading.events import Event
from dpa.trading.replay_feed import ReplayFeed
from dpa.trading.switch import Level, SwitchState
from dpa.trading.types import Instrument, Intent, Order, OrderState, Position, Quote

SYMBOLS = ("AAA", "BBB", "CCC")
DAY = date(2024, 7, 1)
HALF_DAY = date(2024, 7, 3)


def make_panel(
    start: date = DAY, end: date | None = None, symbols: Sequence[str] = SYMBOLS, seed: int = 0
) -> Panel:
    """Five-minute bars of whole sessions: prices near 100 that wander."""
    calendar = TradingCalendar("XNYS")
    times = calendar.bar_closes("5m", pd.Timestamp(start), pd.Timestamp(end or start))
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 1e-3, (len(times), len(symbols)))
    prices = np.round(100 * np.exp(np.cumsum(steps, axis=0)), 2)
    volume = np.round(rng.uniform(1e4, 1e5, prices.shape))
    return Panel(
        times,
        tuple(symbols),
        prices,
        np.ones(prices.shape, dtype=bool),
        "5m",
        "XNYS",
        open=prices,
        high=prices + 0.1,
        low=prices - 0.1,
        volume=volume,
    )


def with_prices(panel: Panel, prices: Any) -> Panel:
    """The same bars at other closes; NaN: none."""
    extras = {name: np.where(np.isfinite(prices), array, np.nan)
              for name, array in panel.extras().items()}  # fmt: skip
    mask = np.isfinite(prices)
    return Panel(panel.times, panel.names, prices, mask, panel.interval, panel.calendar, **extras)


def make_instruments(symbols: Sequence[str] = SYMBOLS, **changes: Any) -> dict[str, Instrument]:
    given = {"min_tick": Decimal("0.01"), "lot": 1, "time_zone": "America/New_York", **changes}
    return {
        symbol: Instrument(symbol, k, "SMART", "NYSE", "USD", **given)
        for k, symbol in enumerate(symbols, 1)
    }


class MemorySwitch:
    """The switch, without a file."""

    def __init__(self) -> None:
        self.state = SwitchState(Level.RUNNING)

    def read(self) -> SwitchState:
        return self.state

    @property
    def level(self) -> Level:
        return self.state.level

    def set(self, level: Level, by: str = "ann", why: str = "a test") -> None:
        self.state = SwitchState(level, by, why)

    def halt(self, by: str, why: str) -> SwitchState:
        self.set(Level.HALTED, by, why)
        return self.state


class MemoryKeeper:
    """Values, without a file."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def value(self, name: str) -> Any:
        return self.values.get(name)

    def set_value(self, name: str, value: Any) -> None:
        self.values[name] = value


@dataclass
class Books:
    """Positions and cash."""

    cash: Decimal = Decimal(1_000_000)
    positions: dict[str, Position] = field(default_factory=dict)


class FillingDealer:
    """Fills every order at once, at the mid of the decision.

    Parameters
    ----------
    share : float
        Of each order that is filled.
    lasting : bool
        Orders work until they expire, filled or not.
    """

    account = "DU1"

    def __init__(self, clock: VirtualClock, share: float = 1.0, lasting: bool = False) -> None:
        self.clock, self.share, self.lasting = clock, share, lasting
        self.ledger = Books()
        self.submitted: list[tuple[datetime, Intent]] = []
        self.live: list[Order] = []
        self.beats = self.let_gos = 0

    @property
    def live_orders(self) -> tuple[Order, ...]:
        return tuple(self.live)

    def next_at(self, now: datetime) -> datetime:
        return min((o.intent.expires_at for o in self.live if o.intent.expires_at > now),
                   default=now + timedelta(minutes=5))  # fmt: skip

    async def submit(self, intents: Sequence[Intent], quotes: Mapping[str, Quote]) -> None:
        for intent in intents:
            self.submitted.append((self.clock.now(), intent))
            self.hold(intent.symbol, intent.side.sign * int(intent.shares * self.share),
                      intent.reference)  # fmt: skip
            if self.lasting:
                order = Order(intent, 1, len(self.submitted), OrderState.WORKING)
                self.live.append(order)

    def hold(self, symbol: str, shares: int, price: Decimal = Decimal(100)) -> None:
        """Book shares."""
        held = self.ledger.positions.get(symbol)
        now = shares + (held.shares if held else 0)
        self.ledger.positions[symbol] = Position(self.account, symbol, Decimal(now), price)
        if now == 0:
            del self.ledger.positions[symbol]
        self.ledger.cash -= shares * price

    async def let_go(self) -> None:
        self.let_gos += 1

    async def beat(self, now: datetime, quotes: Mapping[str, Quote]) -> None:
        self.beats += 1
        self.live = [order for order in self.live if now < order.intent.expires_at]

    @property
    def intents(self) -> list[Intent]:
        return [intent for _, intent in self.submitted]

    def shares(self, symbol: str) -> int:
        held = self.ledger.positions.get(symbol)
        return 0 if held is None else int(held.shares)


def decision_of(
    request: Request, targets: Mapping[str, float | None], level: str = "NORMAL", **changes: Any
) -> dict[str, Any]:
    """A decision as the graph gives it, on targets in shares; others are kept as they are."""
    records = []
    for k, symbol in enumerate(request.names):
        held = float(request.shares[k])
        wanted = targets.get(symbol, held)
        reason = "risk_flatten" if level == "FLATTEN" else None
        records.append({"symbol": symbol, "held_shares": held, "target_shares": wanted,
                        "action": "none", "reason": reason})  # fmt: skip
    return {
        "id": f"d-{request.time.isoformat()}",
        "account": request.account,
        "time": request.time.isoformat(),
        "moment": request.moment.isoformat(),
        "nav_usd": request.nav_usd,
        "prior_nav_usd": request.prior_nav_usd,
        "risk": {"level": level, "why": "a test" if level != "NORMAL" else ""},
        "symbols": records,
        **changes,
    }


class ScriptedDecider:
    """Decides what a function says.

    Parameters
    ----------
    script : callable
        Takes a request and gives a decision, or raises.
    takes : float
        Seconds it takes by the clock, moved by itself.
    """

    def __init__(self, script: Callable[[Request], Any], clock: VirtualClock | None = None,
                 takes: float = 0.0) -> None:  # fmt: skip
        self.script, self.clock, self.takes = script, clock, takes
        self.requests: list[Request] = []

    async def decide(self, request: Request) -> Mapping[str, Any]:
        self.requests.append(request)
        if self.takes and self.clock is not None:
            self.clock.move_to(self.clock.now() + timedelta(seconds=self.takes))
        return self.script(request)


def away(request: Request) -> Any:
    """Nobody answers."""
    raise ClusterUnavailable("nobody answers")


class Desk:
    """Everything about an engine, run from one moment to the next."""

    def __init__(
        self,
        panel: Panel,
        script: Callable[[Request], Any],
        *,
        settings: Settings | None = None,
        takes: float = 0.0,
        first: int = 0,
        instruments: dict[str, Instrument] | None = None,
        dealer: Callable[[VirtualClock], Any] | None = None,
        feed: Any = None,
        keeper: MemoryKeeper | None = None,
        patient: bool = True,
        start: datetime | None = None,
    ) -> None:
        self.panel, self.settings = panel, settings or Settings()
        opens = start or panel.times[first].to_pydatetime() - timedelta(minutes=5)
        self.clock = VirtualClock(opens)
        self.feed = feed(self.clock) if feed else ReplayFeed(panel, self.clock, first=first)
        self.decider = ScriptedDecider(script, self.clock, takes)
        self.dealer = (dealer or FillingDealer)(self.clock)
        self.switch, self.keeper = MemorySwitch(), keeper or MemoryKeeper()
        self.events: list[Event] = []
        self.instruments = instruments or make_instruments(panel.names)
        self.engine = Engine(
            self.feed,
            self.decider,
            self.dealer,
            self.instruments,
            self.switch,
            self.keeper,
            self.clock,
            self.settings,
            panel.interval,
            panel.calendar,
            self.events.append,
            patient=patient,
        )

    def run(self, until: datetime | None = None, each: Callable[[datetime], None] | None = None,
            symbols: Sequence[str] | None = None) -> "Desk":  # fmt: skip
        """Step from moment to moment until there are no more bars, or until a moment."""

        async def go() -> None:
            if not self.feed.symbols:
                await self.feed.start(symbols or self.panel.names)
            end = until or self.panel.times[-1].to_pydatetime() + timedelta(minutes=6)
            while self.clock.now() <= end:
                if each is not None:
                    each(self.clock.now())
                await self.engine.step()
                following = self.engine.next_at()
                assert following > self.clock.now()
                self.clock.move_to(following)

        asyncio.run(go())
        return self

    def of(self, kind: type) -> list[Any]:
        """Events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def at(self, moment: datetime) -> list[Intent]:
        """Intents submitted at a moment."""
        return [intent for then, intent in self.dealer.submitted if then == moment]


def utc(hour: int, minute: int = 0, second: float = 0, day: date = DAY) -> datetime:
    """A moment of a day in New York, summer time, as UTC."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return start + timedelta(hours=hour + 4, minutes=minute, seconds=second)
