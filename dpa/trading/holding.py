"""All that a trader holds while it trades: clock, journal, broker, feed, dealer, engine, loop."""

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import pandas as pd

from dpa.clock import Clock
from dpa.decision.types import Feed as FeedKind
from dpa.errors import DpaError, HaltError
from dpa.market.calendars import TradingCalendar
from dpa.market.costs import CostModel
from dpa.market.panel import Panel
from dpa.serving.client import Client, read_token
from dpa.trading.alerts import Alerts, channels_of
from dpa.trading.bus import Bus
from dpa.trading.clocks import VirtualClock
from dpa.trading.dealer import Dealer
from dpa.trading.decider import HttpDecider
from dpa.trading.engine import Engine, KnowsVolumes
from dpa.trading.event_log import KINDS as LOGGED
from dpa.trading.event_log import EventLog
from dpa.trading.events import Alert, LevelChanged, Severity
from dpa.trading.feed import Feed
from dpa.trading.journal import Journal
from dpa.trading.lease import Lease
from dpa.trading.meters import TradingMeters
from dpa.trading.paper import Liquidity, PaperBroker
from dpa.trading.places import Places, Start
from dpa.trading.recorder import KINDS, Recorder
from dpa.trading.runner import Moment, MomentFeed, Runner, TimeKeeper
from dpa.trading.status import Seen, status_of
from dpa.trading.switch import Switch
from dpa.trading.types import Instrument
from dpa.trading.whole_requests import WholeRequests

NAME: Final = "trader"
DECIDER_SECONDS: Final = 10.0
PATIENT_SECONDS: Final = 120.0  # where time waits for the answer
KEPT_BARS: Final = 800  # before the first: volatilities come from them
LONGEST_JUMP: Final = timedelta(minutes=30)  # longer ones, such as nights, take no time
log = logging.getLogger("dpa.trading")

Sleep = Callable[[float], Awaitable[None]]


class Holding:
    """What is built anew for every attempt to begin."""

    def __init__(
        self,
        start: Start,
        wall: Clock,
        seen: Seen,
        sleep: Sleep,
        uniform: Callable[[float, float], float],
        meters: TradingMeters | None = None,
    ) -> None:
        self._meters = meters
        self.start, self.settings, self.places = start, start.settings, Places(start.storage)
        self._wall, self.seen, self._sleep, self._uniform = wall, seen, sleep, uniform
        self.clock: Clock = wall
        self.bus = Bus(wall)
        self.journal: Journal | None = None
        self.dealer: Dealer | None = None
        self.engine: Engine | None = None
        self.feed: Any = None
        self.broker: Any = None
        self.runner: Runner | None = None
        self._link: Any = None  # to the quotes of TWS, where orders do not go there
        self._decider: HttpDecider | None = None
        self._keeper: _Begun | None = None
        self._alerts: Alerts | None = None
        self._recorder: Recorder | None = None
        self._mark = ""  # of the switch, when it was looked at last
        self._instruments: dict[str, Instrument] = {}
        self._replayed: Panel | None = None

    # building

    async def open(self, lease: Lease, steps: Callable[[str], None] | None) -> None:
        """Connect and reconcile; everything is let go by :meth:`close`."""
        about = await asyncio.to_thread(self._ask_bundle)
        await self._begin_clock(about)
        self.switch = Switch(self.places.switch, self.clock)
        self.bus = Bus(self.clock, self._lost_handler)
        self.journal = Journal(self.places.journal, self.clock, steps)
        lease.take(self.journal, NAME)
        self._subscribe()
        names = self._names(about)
        await self._connect(names, about)
        assert self.broker is not None
        self.dealer = Dealer(
            self.broker,
            self.journal,
            self.switch,
            self.clock,
            self.settings,
            self.bus.publish,
            self._instruments,
        )
        await self.dealer.start()
        held = list(self.dealer.positions)
        self._instruments |= await self.broker.instruments(
            [s for s in held if s not in self._instruments]
        )
        traded = [name for name in names if name in self._instruments]
        if not traded:
            raise HaltError(f"the broker knows none of {', '.join(names[:3])}", "check the bundle")
        await self.feed.start(traded, held)
        self._decider = HttpDecider(self._client)
        self.engine = Engine(
            self.feed,
            WholeRequests(self._decider, about["names"]),
            self.dealer,
            self._instruments,
            self.switch,
            self.journal,
            self.clock,
            self.settings,
            about["interval"],
            about["calendar"],
            self.bus.publish,
            feed_kind=self._feed_kind,
            patient=self.virtual,
        )
        past = await asyncio.to_thread(self._past, traded)
        if past is not None:
            self.engine.remember(past)
            if not isinstance(self.feed, KnowsVolumes):
                volumes = volumes_of(past)
                self.feed.adv_usd = lambda _: volumes
        self.runner = Runner(
            self.engine,
            self.dealer,
            self.broker,
            self.switch,
            self.clock,
            self.settings,
            self.bus.publish,
            uniform=self._uniform,
            before_step=self._before_step,
        )

    @property
    def virtual(self) -> bool:
        """Whether time is moved by somebody: a gateway that keeps it, or a replay."""
        return self.start.keeper is not None or self.start.replay is not None

    @property
    def _feed_kind(self) -> FeedKind:
        return "direct" if self.start.replay is not None else "aggregated"

    def _lost_handler(self, why: str) -> None:
        self.switch.halt("bus", why)

    def _client(self) -> Client:
        patience = PATIENT_SECONDS if self.virtual else DECIDER_SECONDS
        return Client(
            self.start.url,
            self.start.token or read_token(self.start.storage / "serving" / "token"),
            timeout_seconds=patience,
            retry_seconds=patience if self.virtual else self.settings.trading.decision_seconds,
        )

    def _ask_bundle(self) -> dict[str, Any]:
        with self._client() as client:
            return client.bundle()

    def _names(self, about: Mapping[str, Any]) -> list[str]:
        names = list(about["names"])
        if self.start.names:
            unknown = [name for name in self.start.names if name not in names]
            if unknown:
                raise HaltError(f"{unknown[0]}: is not in the bundle", "name others")
            names = list(self.start.names)
        return names

    async def _begin_clock(self, about: Mapping[str, Any]) -> None:
        if self.start.keeper is not None:
            where = self.start.keeper
            token = where.token_file.read_text(encoding="utf-8").strip()
            keeper = self._keeper = await _Begun.connect(where.host, where.port, token)
            keeper.pause = self._pause
            self.clock = VirtualClock((await keeper.begin()).now)
        elif self.start.replay is not None:
            panel = self._replayed = await asyncio.to_thread(self._read_replay, about)
            opens = panel.times[self._first_row(panel, about)].to_pydatetime()
            self.clock = VirtualClock(opens - timedelta(minutes=10))

    def _subscribe(self) -> None:
        assert self.journal is not None
        journal = self.journal
        self._recorder = Recorder(journal)
        self.bus.subscribe(self._recorder.take, KINDS, name="recorder", on_order_path=True)
        self.bus.subscribe(self.seen.see, name="seen")
        if self._meters is not None:
            self.bus.subscribe(self._meters.see, name="meters")
            journal.committed = self._meters.committed
        self.bus.subscribe(EventLog().take, LOGGED, name="log")
        config = self.settings.alerts
        # in virtual time alerts are paced by the wall all the same: people live there
        self._alerts = Alerts(channels_of(config), config, self._wall, self._sleep, self._uniform)
        self.bus.subscribe(self._alerts.take, (Alert,), name="alerts")
        self.seen.begin(journal)

    # brokers and feeds

    async def _connect(self, names: list[str], about: Mapping[str, Any]) -> None:
        trading = self.settings.trading
        if self.start.replay is not None:
            assert self._replayed is not None
            self._replay_feed(self._replayed, about)
            self._instruments |= listed(names, self._replayed)
        else:
            link = await self._connect_tws(names, about)
            if trading.broker == "ibkr":
                self.broker = link
                return
            self._link = link
        self.broker = PaperBroker(
            self.places.paper,
            self.clock,
            CostModel(self.settings.costs),
            self._instruments,
            Decimal(str(trading.paper_cash_usd)),
        )
        await self.broker.connect(self.journal.order_id_mark if self.journal else 0)

    async def _connect_tws(self, names: list[str], about: Mapping[str, Any]) -> Any:
        from dpa.trading.ibkr.broker import IbkrBroker
        from dpa.trading.ibkr.client import TwsClient
        from dpa.trading.ibkr.feed import IbkrFeed

        assert self.journal is not None
        settings, keeps_time = self.settings, self.start.keeper is not None
        pace = 0.0 if keeps_time else settings.trading.messages_per_second
        client = TwsClient(settings.ibkr, self.clock, pace)
        if self._meters is not None:
            self._meters.follow(lambda: client.traffic)
        link = IbkrBroker(settings.ibkr, self.clock, client, self._sleep)
        self.broker = link  # so that it is closed whatever follows
        try:
            await link.connect(self.journal.order_id_mark)
        except HaltError as e:  # another login than the one traded before: a person looks first
            if self.journal.value("account") is not None:
                self.switch.halt(NAME, str(e))
            raise
        self._instruments |= await link.instruments(names)
        feed: Feed = IbkrFeed(
            client,
            link.contracts,
            settings.ibkr,
            about["interval"],
            about["calendar"],
            settings.trading.bar_wait_seconds,
            self.clock,
            self._sleep,
            self._silent,
        )
        self.feed = MomentFeed(feed, self.clock) if keeps_time else feed
        return link

    def _silent(self, why: str) -> None:
        self.bus.publish(Alert(self.clock.now(), Severity.WARNING, "quotes-silent", why))

    def _read_replay(self, about: Mapping[str, Any]) -> Panel:
        from dpa.market.readers import load_wide_data
        from dpa.market.selections import select_shards

        assert self.start.replay is not None
        data = self.settings.data.model_copy(
            update={"path": str(self.start.replay), "start": None, "end": self.start.last}
        )
        shards = self.start.replay.is_dir()
        return select_shards(self.start.replay, data).panel() if shards else load_wide_data(data)

    def _first_row(self, panel: Panel, about: Mapping[str, Any]) -> int:
        newest = about.get("newest_bar")
        begins = pd.Timestamp(newest) if newest else panel.times[0]
        if self.start.first is not None:
            zone = TradingCalendar(panel.calendar).time_zone
            begins = max(begins, pd.Timestamp(self.start.first).tz_localize(zone).tz_convert("UTC"))
        row = int(panel.times.searchsorted(begins, side="right"))
        if row >= panel.n_bars:
            raise HaltError(
                f"{self.start.replay}: no bars after {begins:%Y-%m-%d %H:%M} UTC, which the "
                "decision service knows already",
                "give later bars, or begin anew with another storage",
            )
        return row

    def _replay_feed(self, panel: Panel, about: Mapping[str, Any]) -> None:
        from dpa.trading.replay_feed import ReplayFeed

        self.feed = ReplayFeed(
            panel,
            self.clock,
            first=self._first_row(panel, about),
            half_spread_bps=self.settings.costs.half_spread_bps,
        )

    def _past(self, names: list[str]) -> Panel | None:
        """Bars of the history that the settings name, of the names traded; none: none are."""
        from dpa.market.last_bars import last_bars

        if self.start.replay is not None:
            past: Panel = self.feed.past
            return past
        data = self.settings.data
        if data.path is None:
            return None
        found = last_bars(data.model_copy(update={"names": tuple(names)}), KEPT_BARS)
        return found

    def _before_step(self, now: datetime) -> None:
        state = self.switch.read()
        if self._mark not in ("", state.mark):
            self.bus.publish(LevelChanged(now, state.level.name, state.by, state.why))
        self._mark = state.mark
        if isinstance(self.broker, PaperBroker):
            self._show_quotes(self.broker, now)

    def _show_quotes(self, broker: PaperBroker, now: datetime) -> None:
        assert self.engine is not None
        if isinstance(self.feed, KnowsVolumes):
            broker.liquidity = {
                symbol: Liquidity(sigma, adv)
                for symbol, (sigma, adv) in self.engine.liquidity.items()
            }
        broker.on_quotes(self.feed.quotes(), now)

    # running

    async def run(self, stop: asyncio.Event) -> None:
        """Trade until it is over or stopped."""
        assert self.runner is not None
        if self._keeper is not None:
            assert isinstance(self.clock, VirtualClock)
            await self.runner.run_virtual(self.clock, self._keeper, stop)
        elif self.start.replay is not None:
            assert isinstance(self.clock, VirtualClock)
            await self.runner.run_replay(self.clock, self.feed, stop, pause=self._pause)
        else:
            await self.runner.run_live(stop, self._sleep)

    async def _pause(self, jump: timedelta) -> None:
        if self.start.speed and timedelta(0) < jump < LONGEST_JUMP:
            await self._sleep(jump.total_seconds() / self.start.speed)

    def status(self) -> dict[str, Any]:
        """The part of the status that only a trader knows."""
        assert self.dealer is not None
        assert self.journal is not None
        return status_of(
            self.dealer,
            self.journal,
            self.broker,
            self.engine,
            self.feed,
            self.clock,
            self.settings,
            self.seen,
            self.runner,
        )

    async def close(self) -> None:
        """Let go of everything, whatever fails on the way."""
        if self._alerts is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._alerts.drain(), 5.0)
        if self.feed is not None:
            await _quietly(self.feed.stop())
        for broker in (self.broker, self._link):
            if broker is not None:
                await _quietly(broker.close())
        if self._keeper is not None:
            await _quietly(self._keeper.close())
        if self._decider is not None:
            self._decider.close()
        if self.journal is not None:
            with contextlib.suppress(HaltError):  # another one may have taken over
                if self._recorder is not None:
                    self._recorder.flush()
            self.journal.close()


class _Begun(TimeKeeper):
    """A keeper of time whose first moment was heard already: time stands still meanwhile."""

    _first: Moment | None = None
    _last: datetime | None = None
    pause: Callable[[timedelta], Awaitable[None]] | None = None

    async def begin(self) -> Moment:
        await super().attend()
        self._first = await super().moment()
        return self._first

    async def attend(self) -> None:
        return None

    async def moment(self) -> Moment:
        first, self._first = self._first, None
        found = await super().moment() if first is None else first
        if self.pause is not None and self._last is not None:
            await self.pause(found.now - self._last)
        self._last = found.now
        return found


def volumes_of(past: Panel) -> dict[str, float]:
    """Mean traded value a session, USD, of the names of which it is known."""
    from dpa.serving.replay import Bars

    bars = Bars(past, 1.0)
    values = bars.adv_usd[bars.session[-1]]
    return {
        name: float(value)
        for name, value in zip(bars.panel.names, values, strict=True)
        if value > 0 and math.isfinite(value)
    }


def listed(names: list[str], panel: Panel) -> dict[str, Instrument]:
    """Instruments of a replay: a tick of a cent, lots of a share, the hours of the calendar."""
    calendar = TradingCalendar(panel.calendar)
    first, last = panel.times[0].tz_localize(None), panel.times[-1].tz_localize(None)
    days = calendar.bars("1d", first - pd.Timedelta(1, "D"), last + pd.Timedelta(1, "D"))
    hours = tuple(
        (pd.Timestamp(a, tz="UTC").to_pydatetime(), pd.Timestamp(b, tz="UTC").to_pydatetime())
        for a, b in zip(days.opens, days.closes, strict=True)
    )
    return {
        name: Instrument(
            name, k, "REPLAY", "REPLAY", "USD", Decimal("0.01"), 1, calendar.time_zone, hours
        )
        for k, name in enumerate(names, 1)
        if name in panel.names
    }


async def _quietly(work: Awaitable[None]) -> None:
    try:
        await work
    except DpaError as e:
        log.warning("while closing: %s", e)
