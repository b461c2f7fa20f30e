"""A planted half day: engine, dealer, feed and an unmodified client; a gateway keeps time."""

import asyncio
import contextlib
from decimal import Decimal

import pytest

from dpa.clock import SystemClock
from dpa.config import IbkrConfig, Settings
from dpa.simulation.tws.control import Control
from dpa.simulation.tws.gateway import Gateway
from dpa.simulation.tws.markets import planted_market
from dpa.trading.bus import Bus
from dpa.trading.clocks import VirtualClock
from dpa.trading.dealer import Dealer
from dpa.trading.engine import Engine
from dpa.trading.events import Alert, BarTaken, Decided, Filled, Intended, Severity
from dpa.trading.ibkr.broker import IbkrBroker
from dpa.trading.ibkr.client import TwsClient
from dpa.trading.ibkr.feed import IbkrFeed
from dpa.trading.journal import Journal
from dpa.trading.recorder import KINDS, Recorder
from dpa.trading.report import SessionReport, read_facts
from dpa.trading.runner import MomentFeed, Runner, TimeKeeper
from dpa.trading.switch import Level, Switch
from dpa.trading.types import Purpose
from tests.trading.engine_market import ScriptedDecider, decision_of
from tests.trading.ibkr.rig import NEWEST, venue_of

INTERVAL = "30m"
PATIENCE = 100  # seconds until a day that hangs fails


def script(request):
    """Long, flipped, reduced, closed; a short beside it that is kept to the end."""
    first, second = request.names[:2]
    local = request.time.tz_convert("America/New_York")
    plan = {
        (10, 30): {first: 100.0, second: -80.0},
        (11, 0): {first: -60.0},
        (11, 30): {first: -20.0, second: -120.0},
        (12, 0): {first: 0.0},
    }
    return decision_of(request, plan.get((local.hour, local.minute), {}))


async def trade(folder):
    market = planted_market(
        seed=7, names=3, sessions=1, history=2, interval=INTERVAL, start="2024-07-01"
    )  # trades on the 3rd, a half day
    venue = venue_of(market=market)
    venue.traits.messages_per_second = 1_000_000
    settings = Settings.model_validate(
        {"trading": {"session_end": "flatten"}, "risk": {"max_gross": 5.0, "max_net": 5.0}}
    )
    async with Gateway(venue, versions=(157, NEWEST), pacing=SystemClock()) as gateway:
        control = Control(venue, "t0ken", gateway.settled)
        await control.start()
        keeping = asyncio.create_task(control.run())
        clock, events = VirtualClock(venue.clock.now()), []
        config = IbkrConfig(ibkr_port=gateway.port, connect_seconds=10, ask_seconds=10)
        broker = IbkrBroker(config, clock, TwsClient(config, clock, 0))
        switch, bus = Switch(folder / "switch", clock), Bus(clock)
        bus.subscribe(events.append)
        keeper = await TimeKeeper.connect("127.0.0.1", control.port, "t0ken")
        try:
            with Journal(folder / "journal", clock) as journal:
                bus.subscribe(Recorder(journal).take, KINDS, on_order_path=True)
                await broker.connect()
                instruments = await broker.instruments(market.panel.names)
                dealer = Dealer(broker, journal, switch, clock, settings, bus.publish, instruments)
                await dealer.start()
                feed = MomentFeed(
                    IbkrFeed(broker.client, broker.contracts, config, INTERVAL, "XNYS", 2.0, clock),
                    clock,
                )
                await feed.start(sorted(instruments))
                decider = ScriptedDecider(script)
                engine = Engine(
                    feed, decider, dealer, instruments, switch, journal, clock, settings,
                    INTERVAL, "XNYS", bus.publish, feed_kind="aggregated", patient=True,
                )  # fmt: skip
                runner = Runner(engine, dealer, broker, switch, clock, settings, bus.publish,
                                uniform=lambda low, high: high)  # fmt: skip
                await asyncio.wait_for(runner.run_virtual(clock, keeper, asyncio.Event()), PATIENCE)
                assert runner.failures == 0
                assert journal.verify() == ()
                begun, ended = events[0].at.replace(hour=0), clock.now()
                facts = read_facts(journal, broker.account, begun, ended)
                books = venue.accounts[broker.account]
                found = {
                    "ledger": dealer.ledger, "events": events, "level": switch.level,
                    "report": SessionReport.of(facts, settings), "requests": decider.requests,
                    "venue": [books.shares(venue.listing.find(0, n).con_id) for n in instruments],
                    "venue cash": books.cash,
                }  # fmt: skip
        finally:
            await keeper.close()
            await broker.close()
            control.stop()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping
            await control.close()
        assert broker.client.unreadable == 0
    gateway.check()
    return found


@pytest.fixture(scope="module")
def day(tmp_path_factory):
    return asyncio.run(trade(tmp_path_factory.mktemp("tws")))


def of(day, kind):
    return [event for event in day["events"] if isinstance(event, kind)]


def test_every_bar_is_decided_on_in_time(day):
    bars, decided = of(day, BarTaken), of(day, Decided)
    assert [bar.time for bar in bars] == [d.time for d in decided]
    assert len(bars) == 6  # the beginning of the first one was not seen
    assert not any(bar.late or bar.missing for bar in bars)
    assert {d.binds for d in decided[:-1]} == {"all"}
    for request in day["requests"][:-1]:
        assert (request.quote_age_ms < 5000).all()
        assert (request.ask > request.bid).all()


def test_the_day_is_traded_as_decided_and_ends_flat(day):
    purposes = [i.purpose for event in of(day, Intended) for i in event.intents]
    assert purposes.count(Purpose.ENTER) == 3
    assert purposes.count(Purpose.EXIT) == 2
    assert {Purpose.REDUCE, Purpose.INCREASE, Purpose.SESSION_END} <= set(purposes)
    assert day["ledger"].positions == {}
    assert set(day["venue"]) <= {Decimal(0)}
    assert day["level"] is Level.RUNNING
    assert [a for a in of(day, Alert) if a.severity is Severity.CRITICAL] == []


def test_ledger_and_gateway_agree_to_the_cent(day):
    assert day["ledger"].cash == day["venue cash"]
    report = day["report"]
    assert report.realised - report.fees == sum(
        (t.realised - t.fees for t in report.trades), Decimal(0)
    )
    assert len(report.facts.fills) == len(of(day, Filled))
